"""Every action does what it says, against straight arithmetic on the tiny network."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.models.networks import tiny_stdit
from tests.policies.rollout import rollout
from videoaccel.models.seam import Site
from videoaccel.session.action_session import ActionSession, Seen
from videoaccel.session.actions import COMPUTE, REUSE, SKIP, Action, Compute, Forecast, Partial, Place, Span
from videoaccel.session.job import Job, Mix
from videoaccel.session.policy import Session
from videoaccel.session.registry import make_policy


class Scripted(ActionSession):
    """Does as told by a function of step and place."""

    def __init__(self, job: Job, mix: Mix, script: Callable[[int, Place], Action], **options: Any) -> None:
        self.decides_blocks = options.pop("blocks", False)
        self.decides_modules = options.pop("modules", True)
        super().__init__(job, mix=mix, **options)
        self.script = script

    def decide(self, place: Place, seen: Seen) -> Action:
        return self.script(self.i, place)


def scripted(script: Callable[[int, Place], Action], **options: Any) -> Callable[[Job, Mix], Session]:
    return lambda job, mix: Scripted(job, mix, script, **options)


def odd(action: Action, chosen: Callable[[Place], bool] = lambda place: True) -> Callable[[int, Place], Action]:
    """``action`` in odd steps at chosen places."""
    return lambda i, place: action if i % 2 and chosen(place) else COMPUTE


@pytest.mark.parametrize("guidance", [1.0, 4.0])
@pytest.mark.parametrize("batch", [1, 2])
def test_off_is_exact_bit_for_bit(guidance: float, batch: int) -> None:
    exact, _ = rollout(None, guidance=guidance, batch=batch)
    off, session = rollout(make_policy("off"), guidance=guidance, batch=batch)
    assert torch.equal(off, exact)
    assert session.counts() == {"compute": 6 * (1 + 4 + 12)} and session.peak_bytes == 0


def is_span(place: Place) -> bool:
    return isinstance(place, Span)


@pytest.mark.parametrize(
    ("action", "options"),
    [
        (Partial(1.0, keys="all"), {}),
        (Partial(1.0, keys="kept"), {}),
        (Partial(1.0, fill="forecast"), {"order": 1}),
        (Partial(1.0, fill="zero"), {}),
        (Compute(1.0), {"form": "gated"}),
        (Compute(1.0), {"form": "absolute", "spans": [Span(0, 4)], "blocks": True}),
    ],
)
def test_actions_that_compute_all_are_exact(action: Action, options: dict[str, Any]) -> None:
    exact, _ = rollout(None)
    out, _ = rollout(scripted(odd(action, lambda p: isinstance(p, Site) and p.kind != "block"), **options))
    torch.testing.assert_close(out, exact, atol=1e-5, rtol=1e-5)


def place_of(name: str) -> Callable[[Place], bool]:
    return lambda place: str(place) == name


@pytest.mark.parametrize("form", ["output", "gated", "absolute"])
@pytest.mark.parametrize("name", ["space.0.attn", "time.1.cross", "time.0.mlp"])
def test_module_reuse_in_every_form(name: str, form: str) -> None:
    """One module is served at the second step; what it returns is checked against parts computed by hand."""
    seen: dict[int, tuple[Tensor, Tensor, Tensor, Any, Any]] = {}

    class Watch(Scripted):
        def run(self, site: Site, branch: Any, x: Tensor, cond: Any) -> Tensor:
            out = super().run(site, branch, x, cond)
            if str(site) == name:
                seen[self.i] = (x, branch.mix(branch.pre(x, cond), cond), out, branch, cond)
            return out

    script = odd(REUSE, place_of(name))
    rollout(lambda job, mix: Watch(job, mix, script, form=form), steps=2)
    x0, delta0, out0, branch, cond0 = seen[0]
    x1, _, out1, _, cond1 = seen[1]
    expected = {
        "output": branch.add(x1, delta0, cond1),
        "gated": x1 + branch.add(torch.zeros_like(x0), delta0, cond0),
        "absolute": out0,
    }[form]
    torch.testing.assert_close(out1, expected, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize(
    ("chosen", "options"),
    [
        (is_span, {"spans": [Span(0, 4)]}),
        (is_span, {"spans": [Span(0, 1), Span(1, 3)]}),
        (lambda p: isinstance(p, Site) and p.kind == "block", {"blocks": True}),
        (lambda p: isinstance(p, Site) and p.kind != "block", {"form": "gated"}),
    ],
)
def test_every_scope_can_be_served(chosen: Callable[[Place], bool], options: dict[str, Any]) -> None:
    """Serving every second step changes the clip, but not beyond recognition."""
    exact, _ = rollout(None)
    out, session = rollout(scripted(odd(REUSE, chosen), **options))
    served = session.counts()["reuse"]
    assert served == 3 * len({place for step in session.trace for place in step if chosen(place)})
    assert not torch.equal(out, exact)
    assert (out - exact).abs().mean() < 0.5 * exact.abs().mean()


def test_span_block_and_gated_module_reuse_are_the_same_sum() -> None:
    """Trunk, blocks or gated modules: the same deltas are added, in another order."""
    trunk, _ = rollout(scripted(odd(REUSE, is_span), spans=[Span(0, 4)]))
    blocks, _ = rollout(scripted(odd(REUSE, lambda p: isinstance(p, Site) and p.kind == "block"), blocks=True))
    modules, _ = rollout(scripted(odd(REUSE), form="gated"))
    torch.testing.assert_close(blocks, trunk, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(modules, trunk, atol=1e-4, rtol=1e-4)


def test_spans_may_keep_another_form_than_modules() -> None:
    """The stream itself of the whole trunk, beside modules that keep what they give before their gates."""
    outs: list[Tensor] = []

    class Watch(Scripted):
        def run(self, site: Site, branch: Any, x: Tensor, cond: Any) -> Tensor:
            out = super().run(site, branch, x, cond)
            if str(site) == "time.1.block":
                outs.append(out)
            return out

    options = {"spans": [Span(0, 4)], "span_form": "absolute"}
    _, session = rollout(lambda job, mix: Watch(job, mix, odd(REUSE, is_span), **options))
    assert torch.equal(outs[1], outs[0]) and not torch.equal(outs[2], outs[1])
    assert session.slots[Site("attn", "space", 0)].read(4).shape == (2, 3, 16, 48)  # type: ignore[attr-defined]


def test_a_served_span_computes_nothing() -> None:
    calls: list[int] = []

    def mix(site: Site, branch: Any, h: Tensor, cond: Any, **options: Any) -> Tensor:
        calls.append(1)
        return branch.mix(h, cond, **options)

    _, session = rollout(scripted(odd(REUSE, is_span), spans=[Span(0, 4)], modules=False), mix=mix)
    assert len(calls) == 3 * 12
    assert session.peak_bytes == 2 * 3 * 16 * 48 * 4, "one float32 residual for the whole trunk"


def test_skip_adds_nothing() -> None:
    model = tiny_stdit()
    dropped, _ = rollout(scripted(lambda i, p: SKIP if str(p) == "time.1.mlp" else COMPUTE), model=model)
    with torch.no_grad():
        model.temporal_blocks[1].mlp.fc2.weight.zero_()
        model.temporal_blocks[1].mlp.fc2.bias.zero_()
    expected, _ = rollout(None, model=model)
    torch.testing.assert_close(dropped, expected, atol=1e-5, rtol=1e-5)


def test_width_reaches_the_mlp() -> None:
    half, session = rollout(scripted(lambda i, p: Compute(0.5) if getattr(p, "kind", "") == "mlp" else COMPUTE))
    exact, _ = rollout(None)
    assert not torch.equal(half, exact) and session.counts()["width0.5"] == 6 * 4


def test_partial_computes_kept_columns_and_fills_the_rest() -> None:
    seen: dict[int, tuple[Tensor, Tensor]] = {}

    class Watch(Scripted):
        def run(self, site: Site, branch: Any, x: Tensor, cond: Any) -> Tensor:
            before = self.slots[site].read(self.i).clone() if site in self.slots else None
            out = super().run(site, branch, x, cond)
            if str(site) == "time.0.mlp" and self.i == 1:
                columns = self.columns(site, Partial(0.5), Seen(branch, x, cond))
                dense = branch.mix(branch.pre(x, cond), cond)
                merged = columns.put(before, columns.take(dense))
                torch.testing.assert_close(out, branch.add(x, merged, cond), atol=1e-5, rtol=1e-5)
                torch.testing.assert_close(self.slots[site].read(1), merged, atol=1e-5, rtol=1e-5)
                assert self.slots[site].age(1) == 1, "a partial write does not make it young"
                seen[1] = (out, merged)
            return out

    rollout(lambda job, mix: Watch(job, mix, odd(Partial(0.5), place_of("time.0.mlp"))), steps=2)
    assert seen


def test_max_age_and_empty_slots_turn_into_compute() -> None:
    _, session = rollout(scripted(lambda i, p: REUSE, max_age=2))
    attn = [str(step[Site("attn", "space", 0)]) for step in session.trace]
    assert attn == ["compute", "reuse", "reuse", "compute", "reuse", "reuse"]


def test_forecast_of_a_step_without_history_reuses() -> None:
    one, _ = rollout(scripted(odd(Forecast(1)), order=1), steps=2)
    other, _ = rollout(scripted(odd(REUSE)), steps=2)
    assert torch.equal(one, other)


def test_a_changed_latent_is_never_served_old_state() -> None:
    def nudge(i: int, t: Tensor, x: Tensor) -> Tensor:
        return x + 0.1 if i == 1 else x

    _, session = rollout(scripted(lambda i, p: REUSE), callback=nudge)
    assert [str(step[Site("attn", "space", 0)]) for step in session.trace] == ["compute", "reuse"] + ["compute"] + [
        "reuse"
    ] * 3


def test_a_changed_frame_mask_is_never_served_old_state() -> None:
    mask = torch.ones(6, 1, 3, dtype=torch.bool)
    mask[:3, :, 0] = False
    _, session = rollout(scripted(lambda i, p: REUSE), x_mask=mask)
    assert [str(step[Site("attn", "space", 0)]) for step in session.trace][3] == "compute"
    assert session.counts()["compute"] == 2 * 12


class CondOnly(Scripted):
    """Runs the conditional branch alone in odd steps."""

    def predict(self, i: int, x: Tensor, call: Any) -> Any:
        self.begin(i)
        if i % 2 == 0:
            self.both = self.network(call)
            return self.both
        return {**self.network(call, ("cond",)), "uncond": self.both["uncond"]}


def test_rows_of_a_partial_call_have_slots_of_their_own() -> None:
    """Module outputs stored by a call on one branch must not reach the other."""

    def script(i: int, place: Place) -> Action:
        return REUSE if i in (1, 4) else COMPUTE

    _, session = rollout(lambda job, mix: CondOnly(job, mix, script), batch=2)
    slot = session.slots[Site("mlp", "time", 1)]  # type: ignore[attr-defined]
    assert slot.steps == [5, 5, 2, 2], "the unconditional rows were computed at step 2 last, served at 4"
    assert session.shares == [1.0, 0.5, 1.0, 0.5, 1.0, 0.5]


def test_batch_rows_do_not_see_each_other() -> None:
    policy = scripted(odd(Partial(0.4)))
    both, _ = rollout(policy, batch=2)
    exact, _ = rollout(None, batch=2)
    assert not torch.equal(both[1], exact[1])


def test_digests_tell_decisions_apart() -> None:
    _, one = rollout(scripted(odd(REUSE)))
    _, same = rollout(scripted(odd(REUSE)))
    _, other = rollout(scripted(odd(REUSE, place_of("time.0.mlp"))))
    assert one.digest() == same.digest() != other.digest()


def test_one_read_a_step() -> None:
    class Twice(Scripted):
        def begin(self, i: int) -> None:
            super().begin(i)
            self.to_host(torch.ones(2))
            self.to_host(torch.ones(2))

    with pytest.raises(AssertionError, match="at most once"):
        rollout(lambda job, mix: Twice(job, mix, lambda i, p: COMPUTE))
