"""Fitting what is served: against coefficients known from linear dynamics, and against a plain solver."""

import math
from collections.abc import Callable
from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from diffusers import DPMSolverMultistepScheduler
from torch import Tensor

from videoaccel.calibration.anchor_search import best_of, error_left, grown, improved
from videoaccel.calibration.fitted_steps import fit_steps, ladder, parted, ranked
from videoaccel.calibration.fitting import Clips, Fit, follow, least_squares, mean_taylor
from videoaccel.parallel.layout import Layout
from videoaccel.planning.fitted import QUALITY, RANK, choices, evenly, from_tables, to_tables
from videoaccel.planning.fitted import held as held_plan
from videoaccel.sampling.solvers import DPMSolverSchedule
from videoaccel.session.actions import taylor_weights
from videoaccel.session.slots import Slot

STEPS = 10
Law = Callable[[int, Tensor], Tensor]


def decay(i: int, x: Tensor) -> Tensor:
    """A velocity without guidance whose Euler run is a power of one number."""
    return 0.5 * x


class Run:
    """A denoising run of a law in place of a network, with Euler steps or those of another solver."""

    guidance_scale = 1.0
    layout = Layout()

    def __init__(self, law: Law, *, clips: int = 3, seed: int = 0, solver: Any = None) -> None:
        self.law, self.solver = law, solver
        self.z = torch.randn(clips, 2, 1, 2, 2, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        self.timesteps = [torch.full((clips,), float(STEPS - i)) for i in range(STEPS)]

    def update(self, i: int, x: Tensor, velocity: Tensor) -> Tensor:
        return self.solver(i, x, velocity) if self.solver else x - velocity / STEPS

    def network(self, run: Any) -> Any:
        def at(x: Tensor, timestep: Tensor, mask: Any) -> Any:
            return lambda: {"cond": self.law(STEPS - int(timestep[0]), x)}

        return SimpleNamespace(at=at)


def clips_of(*runs: Run) -> Clips:
    wanted = [torch.cat([run.z for run in runs])]
    empty = Clips(runs, wanted)  # type: ignore[arg-type]
    x = empty.parts(wanted[0])
    for i in range(STEPS):
        x = empty.serve(i, i + 1, x, empty.velocity(i, x))
        wanted.append(torch.cat(x))
    return Clips(runs, wanted)  # type: ignore[arg-type]


def curved(i: int, x: Tensor) -> Tensor:
    return torch.sin(x) * (1 + 0.1 * i) + 0.05 * i


def test_coefficients_of_a_linear_law_are_known() -> None:
    """x shrinks by 1 - 1/20 a step: the mean velocity of the steps after an anchor is a known part of the anchor's."""
    clips = clips_of(Run(decay))
    fit = Fit(clips, most=1, ridge=0.0)
    fitted, end = fit.along([0, 4, 5, 8])
    shrinks = 1 - 0.5 / STEPS
    served = lambda count: sum(shrinks**k for k in range(1, count + 1)) / count  # noqa: E731
    assert fitted.anchors == (0, 4, 5, 8)
    assert fitted.weights[1] == (), "nothing is served between neighbours"
    for j, count in ((0, 3), (2, 2), (3, 1)):
        assert fitted.weights[j] == pytest.approx((served(count),), rel=1e-5)
    assert torch.allclose(end, clips.wanted[-1], rtol=1e-5)


def test_a_segment_repairs_what_was_left_over_before() -> None:
    clips = clips_of(Run(curved, clips=6))
    closed, end = Fit(clips).along([0, 1, 2, 5, 8])
    taylor = follow(clips, closed._replace(weights=tuple(_taylor(closed.anchors))))
    error = lambda x: float((x - clips.wanted[-1]).square().mean())  # noqa: E731
    assert error(end) < error(taylor) / 10
    assert torch.allclose(follow(clips, closed), end, atol=1e-5), "the same coefficients give the same run"


def _taylor(anchors: tuple[int, ...]) -> list[tuple[float, ...]]:
    ends = (*anchors[1:], STEPS)
    found = []
    for j, (mark, end) in enumerate(zip(anchors, ends, strict=True)):
        known = anchors[max(0, j - 2) : j + 1][::-1]
        found.append(tuple(mean_taylor(known, range(mark + 1, end)).tolist()) if end > mark + 1 else ())
    return found


def test_other_solvers_are_probed_through_their_update() -> None:
    """A step that scales the latent, as DDIM's does: the target goes through it."""

    def ddim(i: int, x: Tensor, predicted: Tensor) -> Tensor:
        return (1 + 0.02 * i) * x - (0.1 + 0.01 * i) * predicted

    clips = clips_of(Run(curved, clips=6, solver=ddim))
    fitted, end = Fit(clips).along([0, 1, 2, 5, 8])
    taylor = follow(clips, fitted._replace(weights=tuple(_taylor(fitted.anchors))))
    error = lambda x: float((x - clips.wanted[-1]).square().mean())  # noqa: E731
    assert error(end) < error(taylor) / 5


def test_a_multistep_solver_keeps_its_past_from_segment_to_segment() -> None:
    """Against diffusers' own loop, network calls and served steps alike."""
    schedule = DPMSolverSchedule(solver_order=2, lower_order_final=True)
    schedule.set_timesteps(STEPS)
    update = schedule.stepper()
    runs = [Run(curved, clips=count, seed=count, solver=update) for count in (1, 2)]
    clips = clips_of(*runs)
    fitted, end = Fit(clips).along([0, 1, 2, 3, 5, 6, 8, 9])
    plain = DPMSolverMultistepScheduler.from_config(dict(schedule.config))
    plain.set_timesteps(STEPS)
    x, velocities = clips.wanted[0], []
    for i, number in enumerate(plain.timesteps):
        if i in fitted.anchors:
            velocities = [curved(i, x), *velocities][:3]
            value = velocities[0]
        else:
            weights = fitted.weights[max(j for j, anchor in enumerate(fitted.anchors) if anchor < i)]
            value = torch.stack([w * v for w, v in zip(weights, velocities, strict=True)]).sum(0)
        x = plain.step(value.float(), number, x, return_dict=False)[0]
    assert torch.allclose(end, x, atol=1e-5)
    assert torch.allclose(follow(clips, fitted), x, atol=1e-5)


def test_least_squares_is_what_a_plain_solver_finds() -> None:
    make = torch.Generator().manual_seed(3)
    moved = torch.randn(3, 5, 2, 4, generator=make, dtype=torch.float64)
    target = torch.randn(5, 2, 4, generator=make, dtype=torch.float64) * torch.tensor([1.0, 9, 0.1, 3, 1]).view(5, 1, 1)
    scale = target.square().flatten(1).sum(1).rsqrt()[:, None]
    columns = (moved.flatten(2) * scale).flatten(1).T
    plain = torch.linalg.lstsq(columns, (target.flatten(1) * scale).flatten()[:, None]).solution[:, 0]
    usual = torch.tensor([2.0, -1.0, 0.0], dtype=torch.float64)
    found = least_squares(moved, target, usual=usual, gaps=(7, 4, 2), ridge=0.0)
    assert torch.allclose(found, plain, atol=1e-8)
    held = least_squares(moved, target, usual=usual, gaps=(7, 4, 2), ridge=1e9)
    assert torch.allclose(held, usual, atol=1e-6), "held to Taylor's"
    between = least_squares(moved, target, usual=usual, gaps=(7, 4, 2), ridge=1.0)
    assert (between - usual).norm() < (found - usual).norm()


def test_velocities_that_are_alike_are_no_trouble() -> None:
    moved = torch.ones(3, 2, 4, dtype=torch.float64)
    found = least_squares(moved, 3 * torch.ones(2, 4, dtype=torch.float64), usual=torch.zeros(3, dtype=torch.float64))
    assert found.isfinite().all() and float(found.sum()) == pytest.approx(3, rel=2e-3)


def test_the_usual_coefficients_are_the_slots_forecast() -> None:
    values = torch.randn(3, 1, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    slot = Slot(1, order=2)
    for step, value in zip((1, 4, 6), values, strict=True):
        slot.write(step, value)
    weights = taylor_weights([9 - 6, 9 - 4, 9 - 1])
    by_hand = sum(w * v for w, v in zip(weights, values.flip(0), strict=True))
    assert torch.allclose(slot.read(9, order=2), torch.as_tensor(by_hand))
    mean = mean_taylor((6, 4, 1), [7, 9])
    assert mean.tolist() == pytest.approx(
        [(a + b) / 2 for a, b in zip(taylor_weights([1, 3, 6]), weights, strict=True)]
    )


def test_runs_that_share_anchors_share_calls() -> None:
    told: list[int] = []
    dense = clips_of(Run(curved, clips=3))
    fit = Fit(Clips(dense.runs, dense.wanted, told.append))
    fit.along([0, 1, 4, 7])
    assert sum(told) == 4 * 3
    fit.along([0, 1, 4, 8])
    assert sum(told) == 5 * 3
    fit.along([0, 2])
    fit.along([0, 1])
    assert sum(told) == 7 * 3, "what later anchors needed is kept only along the present ones"


def test_tables_of_a_ladder() -> None:
    fitting, held = clips_of(Run(curved, clips=6)), clips_of(Run(curved, clips=2, seed=9))
    velocity = torch.full((STEPS, 4, 8), 1.0) * torch.arange(1, 9)
    tables = {"soda.velocity": velocity}

    def quality_of(clips: Clips) -> Callable[[Tensor], list[float]]:
        return lambda latents: [float(-10 * (one - wanted).square().mean().clamp_min(1e-12).log10())
                                for one, wanted in zip(latents, clips.wanted[-1], strict=True)]  # fmt: skip

    quality = quality_of(fitting), quality_of(held)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("videoaccel.calibration.fitted_steps.forecast", lambda clips, *_: clips.wanted[-1] + 0.1)
        found = fit_steps(fitting, held, tables, quality, counts=[4, 5, 7])
    assert found[QUALITY][3, 0, 0] == pytest.approx(20.0, abs=1e-3)
    assert found[QUALITY][4, 1, 0] > 20 and found[QUALITY][5].isnan().all()
    assert found[RANK][3, 0] == pytest.approx(20.0, abs=1e-3)
    fitted = from_tables(found, 5)
    assert fitted is not None and len(fitted.anchors) == 5 and from_tables(found, 6) is None
    again = Fit(fitting).along(fitted.anchors)[0]
    for one, other in zip(fitted.weights, again.weights, strict=True):
        assert one == pytest.approx(other, rel=1e-5)
    ends = [quality[0](Fit(fitting).along(fitted.anchors)[1]), quality[1](follow(held, fitted))]
    every = [*ends[0], *ends[1]]
    assert found[QUALITY][4, 1, :2].tolist() == pytest.approx([sum(every) / 8, min(every)], rel=1e-4), "of all clips"
    assert found[RANK][4, 1] == pytest.approx(sum(every) / 8, rel=1e-4)
    ranks = [one.rank for one in choices(found)]
    assert ranks == sorted(ranks) and all(one.fitted is not None for one in choices(found, taylor=False))


def test_budgets_are_told_apart_by_all_clips_and_kinds_by_those_held_out() -> None:
    mean = torch.tensor([[math.nan, math.nan], [40.0, 48.0], [45.0, 49.0], [48.5, 60.0], [math.nan, 61.0]])
    unseen = torch.tensor([[math.nan, math.nan], [50.0, 53.0], [51.0, 52.0], [54.0, 51.0], [math.nan, 40.0]])
    rank = ranked(mean, unseen)
    assert rank[1:4].tolist() == [[40, 48], [45, 49], [48.5, pytest.approx(48.499)]] and rank[4, 1] == 61
    assert rank[0].isnan().all()
    quality = torch.stack([mean, mean - 9, mean * 0], -1)
    every = [held_plan(calls, 5) for calls in (2, 3, 4, 5)]
    tables = to_tables(every, quality, steps=5, rank=rank)
    assert [(one.calls, one.mean, one.fitted is None) for one in choices(tables)] == [
        (2, 48, False), (3, 49, False), (5, 61, False),
    ]  # fmt: skip
    assert [one.calls for one in choices(to_tables(every, quality, steps=5))] == [2, 3, 4, 5], "without it by the mean"
    taylor = choices(tables, fitted=False)
    assert [(one.calls, one.mean) for one in taylor] == [(2, 40), (3, 45), (4, 48.5)]


def test_the_ladder_has_every_usual_budget_and_every_fourth_clip_is_held_out() -> None:
    assert {5, 8, 10, 12, 15, 20, 24, 29} <= set(ladder(30)) and max(ladder(30)) < 30
    assert {16, 20, 25, 33} <= set(ladder(50)), "what 3x, 2.5x, 2x and 1.5x leave"
    assert ladder(4) == [1, 2, 3] and min(ladder(100)) == 16 and ladder(2) == [1]
    fitted, held = parted(28)
    assert len(fitted) == 21 and len(held) == 7 and not set(fitted) & set(held)


def test_anchors_are_moved_where_that_leaves_less_error() -> None:
    """A law that changes in the middle only: anchors belong there, wherever the search begins."""

    def bump(i: int, x: Tensor) -> Tensor:
        return torch.sin(x) * (4.0 if i in (4, 5, 6) else 0.1)

    fit = Fit(clips_of(Run(bump, clips=6)))
    start = (0, 1, 2, 9)
    found = improved(fit, start, rounds=20)
    assert error_left(fit, found) < error_left(fit, start) - 2 and sum(mark in (4, 5, 6, 7) for mark in found) >= 2
    assert improved(fit, start, rounds=0) == start
    assert best_of(fit, [start, found, list(found)]) == found


def test_anchors_grow_in_the_longest_gaps() -> None:
    assert grown((0, 1, 2), 3, 10) == (0, 1, 2) and grown((0, 1, 2), 4, 10) == (0, 1, 2, 6)
    for calls in range(3, 11):
        marks = grown((0, 1, 2), calls, 10)
        assert len(set(marks)) == calls and {0, 1, 2} <= set(marks) <= set(range(10))


def test_evenly_spaced_anchors_begin_with_the_first_step() -> None:
    for steps in range(1, 60):
        for calls in range(1, steps + 1):
            marks = evenly(calls, steps)
            gaps = {b - a for a, b in pairwise((*marks, steps))}
            assert marks[0] == 0 and len(set(marks)) == calls and max(gaps) - min(gaps) <= 1
