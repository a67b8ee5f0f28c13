from typing import Any

import pytest
import torch
from torch import Tensor

from tests.policies.rollout import computed_at, rollout
from tests.policies.stubs import stub_job
from videoaccel.models.seam import Site, attention
from videoaccel.policies.duca import DuCa
from videoaccel.session.action_session import Seen
from videoaccel.session.job import Job, Mix
from videoaccel.session.policy import Session

TRUNK = "blocks.0-3"


def actions(session: Session, name: str) -> list[str]:
    return [{str(place): str(action) for place, action in step.items()}.get(name, "-") for step in session.trace]


def test_published_phases() -> None:
    """12 full, 9 careful and 9 bold steps, the last one bold."""
    _, session = rollout(DuCa(), steps=30)
    mlp = ["compute"] * 3 + ["compute", "partial0.1495", "-"] * 9
    assert actions(session, "space.0.mlp") == mlp
    assert actions(session, "time.1.attn") == [action.replace("partial0.1495", "reuse") for action in mlp]
    assert actions(session, TRUNK) == ["compute"] * 3 + ["compute", "compute", "reuse"] * 9
    assert computed_at(session, "time.0.cross") == [0, 1, 2, 6, 12, 18, 24]


def test_longer_periods_take_turns() -> None:
    _, session = rollout(DuCa(period=5), steps=15)
    assert (
        actions(session, "time.1.attn")
        == ["compute"] * 3 + ["reuse", "-"] + ["compute", "reuse", "-", "reuse", "-"] * 2
    )


def test_a_bold_step_repeats_the_stream_itself() -> None:
    """Not what the blocks added: the new latent is passed over. No module runs."""
    outs: dict[int, Tensor] = {}
    calls: list[int] = []

    def make(job: Job, mix: Mix) -> Session:
        def count(site: Site, branch: Any, h: Tensor, cond: Any, **options: Any) -> Tensor:
            calls.append(session.i)
            return mix(site, branch, h, cond, **options)

        session: Any = DuCa().session(job, mix=count)
        inner = session.run

        def run(site: Site, branch: Any, x: Tensor, cond: Any) -> Tensor:
            out: Tensor = inner(site, branch, x, cond)
            if site == Site("block", "time", 1):
                outs[session.i] = out
            return out

        session.run = run
        return session  # type: ignore[no-any-return]

    rollout(make, steps=7)
    assert torch.equal(outs[5], outs[4]) and not torch.equal(outs[4], outs[3])
    assert set(calls) == {0, 1, 2, 3, 4, 6}


@pytest.mark.parametrize("kernel", [None, attention])
def test_a_column_is_worth_more_the_smaller_its_values(kernel: Any) -> None:
    """The values are those of temporal attention, with or without a kernel by name; both MLPs of a layer go by them."""
    noted: dict[str, Tensor] = {}
    kept: dict[str, Tensor] = {}

    def make(job: Job, mix: Mix) -> Session:
        session: Any = DuCa(groups=1, age_weight=0, keep=0.25).session(job, mix=mix)
        inner, columns = session.note, session.columns

        def note(site: Site, worth: Tensor) -> None:
            noted[str(site)] = worth
            inner(site, worth)

        def choose(site: Site, action: Any, seen: Seen) -> Any:
            chosen = columns(site, action, seen)
            kept[str(site)] = chosen.places(seen.x.shape[2])
            return chosen

        session.note, session.columns = note, choose
        return session  # type: ignore[no-any-return]

    calls: dict[str, Tensor] = {}

    def record(site: Site, branch: Any, h: Tensor, cond: Any, **options: Any) -> Tensor:
        if site.kind == "attn":
            inner = getattr(branch, "branch", branch)
            calls[str(site)] = inner.qkv(h)[..., 96:].unflatten(-1, (4, 12))  # [R, T, S, N, D]
        options |= {"attend": kernel} if kernel and site.kind != "mlp" else {}
        return branch.mix(h, cond, **options)  # type: ignore[no-any-return]

    rollout(make, steps=5, mix=record)
    assert {*noted} == {"time.0.attn", "time.1.attn"}
    for layer in (0, 1):
        expected = (1 - calls[f"time.{layer}.attn"].norm(dim=-1)).sum(-1)
        torch.testing.assert_close(noted[f"time.{layer}.attn"], expected)
        best = expected.mean(1).topk(4, dim=-1).indices.sort(-1).values
        for axis in ("space", "time"):
            assert torch.equal(kept[f"{axis}.{layer}.mlp"], best)


def test_a_changed_latent_is_computed() -> None:
    _, session = rollout(DuCa(), steps=12, callback=lambda i, t, x: x + 0.01 if i == 4 else x)
    assert set(map(str, session.trace[5].values())) == {"compute"}
    assert actions(session, TRUNK)[5:9] == ["compute", "compute", "compute", "reuse"]


def test_what_it_needs() -> None:
    with pytest.raises(ValueError, match="warm-up of 1 and a period of 2 needs at least 2 steps, got 1"):
        DuCa(warmup=1, period=2).session(stub_job(1))
