"""Kernels for some columns of a stream, in Triton's interpreter, against PyTorch's operations and slow loops."""

import copy
import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tests.models.networks import tiny_stdit
from tests.policies.rollout import rollout
from videoaccel.models.forms import in_plain_form
from videoaccel.models.seam import Site
from videoaccel.models.stdit import STDiT3
from videoaccel.session.action_session import ActionSession, Seen
from videoaccel.session.actions import COMPUTE, Action, Partial, Place
from videoaccel.session.columns import Columns, Kernels, add, choose, kernels_of, score
from videoaccel.session.costs import capture, perform
from videoaccel.session.job import Job, Mix

pytest.importorskip("triton", reason="kernels are Triton's, which is there on Linux alone")
from videoaccel.models import fused
from videoaccel.models.kernels.columns import add_columns, choose_columns, score_columns
from videoaccel.models.kernels.modulate import gated_add

TYPES = [torch.float32, torch.float16]


@pytest.fixture(autouse=True)
def _inference() -> Any:
    torch.manual_seed(0)
    with torch.inference_mode():
        yield


class _Ours:
    score_columns = staticmethod(score_columns)
    choose_columns = staticmethod(choose_columns)


KERNELS: Kernels = _Ours()  # type: ignore[assignment]


def slowly(scores: Tensor, *, real: int, length: int, quota: int) -> list[list[int]]:
    """The kept columns of every row: of each group the best, of equal ones the first."""
    rows = []
    for row in scores.tolist():
        kept = []
        for start in range(0, real, length):
            group = range(start, min(start + length, real))
            kept += sorted(sorted(group, key=lambda c, row=row: (-row[c], c))[:quota])  # type: ignore[misc]
        rows.append(kept)
    return rows


@settings(max_examples=12, deadline=None)
@given(
    rows=st.integers(1, 3),
    frames=st.integers(1, 3),
    places=st.integers(1, 140),
    padding=st.integers(0, 40),
    groups=st.sampled_from([1, 2, 3, 8]),
    keep=st.floats(0.01, 1.0),
    levels=st.sampled_from([2, 5, 10**6]),
    seed=st.integers(0, 9),
)
def test_choice(
    rows: int, frames: int, places: int, padding: int, groups: int, keep: float, levels: int, seed: int
) -> None:
    """Short and empty groups, padding, more columns than a tile has, and equal scores."""
    draw = torch.Generator().manual_seed(seed)
    scores = torch.randint(levels, (rows, places + padding), generator=draw).float() - levels / 2
    given = {"frames": frames, "groups": groups, "places": places}
    found = choose(scores, keep, **given, kernels=KERNELS)
    plain = choose(scores, keep, **given)
    assert (found.shape, found.quota) == (plain.shape, plain.quota)
    wanted = slowly(scores, real=places, length=math.ceil(places / groups), quota=found.quota)
    assert found.places(scores.shape[1]).tolist() == wanted
    stream = torch.arange(rows * frames).view(rows, frames, 1) * scores.shape[1]
    assert torch.equal(found.flat.view(found.shape), stream + torch.tensor(wanted)[:, None])
    numbers = [[row.index(c) if c in row else -1 for c in range(scores.shape[1])] for row in wanted]
    assert found.numbers is not None and found.numbers.tolist() == numbers
    if levels > 5 and all(len(set(row)) == len(row) for row in scores.tolist()):
        assert torch.equal(found.flat, plain.flat)


def test_a_rank_chooses_what_one_with_all_groups_does() -> None:
    scores = torch.randn(2, 45)
    whole = choose(scores, 0.3, frames=1, groups=4, kernels=KERNELS).places(45)
    parts = [
        choose(part, 0.3, frames=1, groups=4, total=45, kernels=KERNELS).places(part.shape[1])
        for part in scores.split(24, dim=1)
    ]
    assert torch.equal(whole, torch.cat([parts[0], parts[1] + 24], dim=1))
    nothing = choose(scores, 0.3, frames=2, groups=4, places=0, total=45, kernels=KERNELS)
    assert nothing.shape == (2, 2, 0) and (nothing.numbers == -1).all(), "a rank of padding alone"


def test_what_is_no_number_takes_no_more_than_its_share() -> None:
    scores = torch.full((1, 9), math.nan)
    assert choose(scores, 0.3, frames=1, groups=1, kernels=KERNELS).places(9).tolist() == [[0, 1, 2]]
    scores[:, 1:] = torch.tensor([-math.inf] * 8)
    assert choose(scores, 0.3, frames=1, groups=1, places=8, kernels=KERNELS).places(9).tolist() == [[0, 1, 2]]


@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize("shape", [(2, 3, 5, 36), (1, 1, 1, 7), (3, 4, 2, 130)])
def test_scores(shape: tuple[int, ...], kind: torch.dtype) -> None:
    x, before = (torch.randn(shape).to(kind) for _ in range(2))
    for select in ("signed", "abs", "change"):
        options: dict[str, Any] = {"before": before} if select == "change" else {}
        found = score(x, select, **options, kernels=KERNELS)  # type: ignore[arg-type]
        wanted = score(x.double(), select, **{name: v.double() for name, v in options.items()})  # type: ignore[arg-type]
        torch.testing.assert_close(found, wanted, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize("keep", [False, True])
@pytest.mark.parametrize("by_frame", [False, True])
def test_sum_has_the_bits_of_put_and_gated_add(by_frame: bool, keep: bool, kind: torch.dtype) -> None:
    for rows, frames, places, width, share in ((2, 3, 3, 36, 0.4), (1, 1, 2, 130, 1.0), (2, 1, 7, 8, 0.01)):
        x, rest = (torch.randn(rows, frames, places, width).to(kind) for _ in range(2))
        columns = choose(torch.randn(rows, places), share, frames=frames, groups=2, kernels=KERNELS)
        assert columns.numbers is not None
        part = torch.randn(*columns.shape, width).to(kind)
        table = torch.randn(rows, frames if by_frame else 1, 1, 6, width).to(kind)
        merged, before = columns.put(rest, part), rest.clone()
        out = add_columns(x, part, rest, columns.numbers, table, row=5, keep=keep)
        assert torch.equal(out, gated_add(x, merged, table, row=5))
        assert torch.equal(rest, merged if keep else before)
        assert torch.equal(add_columns(x, part, before, columns.numbers, None, keep=False), x + merged)


def test_without_kernels_the_sum_is_the_same_bits() -> None:
    """What a module without kernels does, kept in place or not, is what putting and adding is."""
    model, columns = tiny_stdit(depth=1), choose(torch.randn(2, 6), 0.4, frames=3, groups=2)
    for module in captured(model):
        rest, part = torch.randn(2, 3, 6, 48), torch.randn(*columns.shape, 48)
        merged, before = columns.put(rest, part), rest.clone()
        wanted = module.branch.add(module.x, merged, module.cond)
        assert torch.equal(add(module.branch, module.x, part, rest, columns, module.cond, keep=False), wanted)
        assert torch.equal(rest, before)
        assert torch.equal(add(module.branch, module.x, part, rest, columns, module.cond, keep=True), wanted)
        assert torch.equal(rest, merged)


def captured(model: STDiT3) -> list[Any]:
    y, size = torch.randn(2, 1, 9, 16), (3, 4, 6)
    context = model.prepare(y, fps=torch.tensor([8.0]), height=64.0, width=64.0, latent_size=size)
    x = torch.randn(2, 4, *size)
    return capture(lambda run: model(x, torch.full((2,), 500.0), context=context, run=run))


class Pruned(ActionSession):
    """Computes some columns of all modules in the second step."""

    def __init__(self, job: Job, mix: Mix, action: Action) -> None:
        super().__init__(job, mix=mix, order=1, groups=2)
        self.action, self.chosen = action, {}  # type: ignore[var-annotated]

    def decide(self, place: Place, seen: Seen) -> Action:
        return self.action if self.i == 2 else COMPUTE

    def columns(self, site: Site, action: Partial, seen: Seen) -> Columns:
        found = super().columns(site, action, seen)
        assert (found.numbers is not None) == (kernels_of(seen.work, seen.x) is not None)
        self.chosen[site] = found
        return found


@pytest.mark.parametrize("action", [Partial(0.4), Partial(0.3, keys="kept"), Partial(0.6, fill="forecast")])
def test_a_network_that_computes_some_columns(action: Partial, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[bool] = []

    def counting(*args: Any, keep: bool, **options: Any) -> Tensor:
        calls.append(keep)
        return add_columns(*args, keep=keep, **options)

    monkeypatch.setattr(fused, "add_columns", counting)
    plain = tiny_stdit(depth=1)
    model = copy.deepcopy(plain)
    fused.fuse(model)
    given: dict[str, Any] = {"steps": 3, "size": (2, 4, 6), "guidance": 1.0}
    out, session = rollout(lambda job, mix: Pruned(job, mix, action), model=model, **given)
    assert calls == [action.fill == "reuse"] * 6 and len(session.chosen) == 6  # type: ignore[attr-defined]
    wanted, _ = rollout(lambda job, mix: Pruned(job, mix, action), model=plain, **given)
    exact, _ = rollout(None, model=plain, **given)
    assert (out - wanted).norm() < 0.02 * (wanted - exact).norm()
    with in_plain_form(model):
        again, _ = rollout(lambda job, mix: Pruned(job, mix, action), model=model, **given)
    assert torch.equal(again, wanted), "without its forms the network is the plain one, and no kernel chose"
    assert len(calls) == 6


def test_costs_are_those_of_the_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []
    monkeypatch.setattr(fused, "add_columns", lambda *args, **options: calls.append(1) or args[0])
    model = tiny_stdit(depth=1)
    modules = captured(model)
    fused.fuse(model)
    for module in modules:
        perform(module, Partial(0.25), torch.zeros(module.x.shape))
    assert len(calls) == 6
