"""Coefficients of what is served between network calls, fitted on generations of a pipeline that is not ours.

As :mod:`videoaccel.calibration.fitting`, but where only the scheduler's steps are seen. From one anchor to the next one
combination of the values that the scheduler was given at the last anchors is served; what each of them does to the
latent is found on a copy of the scheduler, by letting that take the steps with the value alone. Clips run one after the
other, once a segment, and are left where that begins; the network's answers up to there are those of the time before,
so it is called once an anchor.

Shape legend: N evaluations, B samples, J values that are combined, P positions that are looked at.
"""

import copy
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

import torch
from torch import Tensor
from typing_extensions import Self

from videoaccel.adapters.rule import Evaluation, Serve, Stepped, StepRule
from videoaccel.adapters.swap import original
from videoaccel.calibration.fitting import least_squares, mean_taylor
from videoaccel.planning.fitted import MOST, Fitted

POSITIONS = 2**14
"""Values of a sample's latent that are looked at, at most: three coefficients need no more."""

CLOSE = 1e-2
"""Relative distance, at most, of a latent from where copies of the scheduler say that it comes by."""


class Path(StepRule):
    """Computes everything, and keeps where a generation's latent is.

    Attributes:
        latents: Before every evaluation, and the finished one: N + 1 of [B, P], float32 on the CPU.
        values: How many the scheduler was given in the evaluation that had most.
    """

    listens = True

    def __init__(self) -> None:
        self.latents: list[Tensor] = []
        self.values = 0

    def ended(self, now: Evaluation, *, computed: bool, steps: Sequence[Stepped]) -> None:
        """See :meth:`StepRule.ended`."""
        self.values = max(self.values, len(steps))
        if not steps or steps[-1].result is None:
            self.latents = []
            return
        if now.i == 0:
            self.latents = [looked_at(steps[0].sample)]
        self.latents.append(looked_at(steps[-1].result))

    def fits(self, n: int) -> bool:
        """Whether it is that of one segment of n evaluations with one step each."""
        return self.values == 1 and len(self.latents) == n + 1


class Tape:
    """What a network answered, clip by clip: a generation that begins as an earlier one did need not call it again.

    Args:
        network: The network; its ``forward`` is replaced in the context.
    """

    def __init__(self, network: Any) -> None:
        self._network, self._plain = network, network.forward
        self._own = "forward" in vars(network)
        self._answers: dict[int, list[Any]] = {}
        self._clip = self._at = 0

    def __enter__(self) -> Self:
        self._network.forward = self._forward
        return self

    def __exit__(self, *_: object) -> None:
        if self._own:
            self._network.forward = self._plain
        else:
            del self._network.forward

    def rewind(self, clip: int) -> None:
        """A generation of a clip begins."""
        self._clip, self._at = clip, 0

    def _forward(self, *args: Any, **kwargs: Any) -> Any:
        answers = self._answers.setdefault(self._clip, [])
        if self._at == len(answers):
            answers.append(self._plain(*args, **kwargs))
        self._at += 1
        return answers[self._at - 1]


class Enough(Exception):  # noqa: N818 (nothing went wrong)
    """What is left of a generation is of no account."""


class FittingRule(StepRule):
    """A generation up to the last of some anchors, at which it is seen what each value does up to the next one.

    Behind that it is broken off by :class:`Enough`.

    Args:
        plan: Anchors up to that one, and the coefficients that are known: of all but the last.
        stop: The next anchor.
        path: Latents of the dense generation.

    Attributes:
        moved: What each value does to the latent, [J, B, P]; None if that could not be told.
        target: What should be done to it, [B, P].
        error: Largest relative distance of latents from where copies of the scheduler said that they come by.
    """

    least, listens, keeps = 1, True, MOST

    def __init__(self, plan: Fitted, stop: int, path: Sequence[Tensor]) -> None:
        self.plan, self.stop, self.error = plan, stop, 0.0
        self.moved: Tensor | None = None
        self.target: Tensor | None = None
        self._path = path
        self._values: list[Tensor] = []
        self._expected: Tensor | None = None

    def decide(self, now: Evaluation) -> Serve | None:
        """See :meth:`StepRule.decide`.

        Raises:
            Enough: The last anchor has been.
        """
        if now.i > self.plan.anchors[-1]:
            raise Enough
        if now.i in self.plan.anchors or not now.course.certain:
            return None
        return Serve(weights=shares_at(self.plan, now.i))

    def ended(self, now: Evaluation, *, computed: bool, steps: Sequence[Stepped]) -> None:
        """See :meth:`StepRule.ended`."""
        if now.i not in self.plan.anchors or len(steps) != 1 or steps[0].result is None:
            return
        self._compare(steps[0].sample)
        self._values = [steps[0].value, *self._values][:MOST]
        at = self.plan.anchors.index(now.i)
        last = now.i == self.plan.anchors[-1]
        stop = self.stop if last else self.plan.anchors[at + 1]
        if stop == now.i + 1 and not last:
            return
        base, moved = self._moves(now, steps[0].result, stop)
        if last:
            self.moved, self.target = moved, self._path[stop] - base
        else:
            self._expected = base + torch.einsum("j,jbp->bp", torch.tensor(self.plan.weights[at]), moved)

    def _moves(self, now: Evaluation, x: Tensor, stop: int) -> tuple[Tensor, Tensor]:
        base = went(now, x, torch.zeros_like(x), stop)
        return base, torch.stack([went(now, x, value, stop) - base for value in self._values])

    def _compare(self, latent: Tensor) -> None:
        expected, self._expected = self._expected, None
        if expected is not None:
            came = looked_at(latent)
            self.error = max(self.error, float((came - expected).norm() / came.norm().clamp(min=1e-12)))


Generate = Callable[[StepRule, int], Any]
"""Makes a clip, by its number, under a rule."""


def fit(anchors: Sequence[int], paths: Sequence[Sequence[Tensor]], network: Any, generate: Generate) -> Fitted | None:
    """Coefficients of every segment; None where what comes of them cannot be foretold (a step that draws noise).

    Args:
        anchors: Evaluations that are computed, the first among them.
        paths: Of each clip, the latents of its dense generation.
        network: What is called.
        generate: Makes clips.
    """
    n, weights = len(paths[0]) - 1, []  # type: int, list[tuple[float, ...]]
    with Tape(network) as tape:
        for j, (anchor, stop) in enumerate(zip(anchors, (*anchors[1:], n), strict=True)):
            if stop == anchor + 1:
                weights.append(())
                continue
            plan = Fitted(tuple(anchors[: j + 1]), tuple(weights))
            seen = _seen(plan, stop, paths, tape, generate)
            if seen is None:
                return None
            moved, target = seen
            known = anchors[max(0, j + 1 - MOST) : j + 1][::-1]
            usual = mean_taylor(known, range(anchor + 1, stop))
            weights.append(tuple(least_squares(moved, target, usual=usual, gaps=known).tolist()))
    return Fitted(tuple(anchors), tuple(weights))


def _seen(
    plan: Fitted, stop: int, paths: Sequence[Sequence[Tensor]], tape: Tape, generate: Generate
) -> tuple[Tensor, Tensor] | None:
    """What values do to all clips' latents behind a plan's last anchor, [J, B, P], and what should be done, [B, P]."""
    moved, target = [], []
    for clip, path in enumerate(paths):
        tape.rewind(clip)
        rule = FittingRule(plan, stop, path)
        with suppress(Enough):
            generate(rule, clip)
        if rule.moved is None or rule.target is None or rule.error > CLOSE:
            return None
        moved.append(rule.moved)
        target.append(rule.target)
    return torch.cat(moved, 1), torch.cat(target)


def dense_paths(count: int, clips: int, generate: Generate) -> list[list[Tensor]] | None:
    """Latents of the dense generations of so many clips; None if they are not of ``count`` evaluations, a step each."""
    found = []
    for clip in range(clips):
        path = Path()
        generate(path, clip)
        if not path.fits(count):
            return None
        found.append(path.latents)
    return found


def shares_at(plan: Fitted, i: int) -> dict[int, float]:
    """Of a served evaluation, the share of each anchor's output by its number."""
    j = max(at for at, anchor in enumerate(plan.anchors) if anchor < i)
    marks = plan.anchors[j + 1 - len(plan.weights[j]) : j + 1][::-1]
    return dict(zip(marks, plan.weights[j], strict=True))


def went(now: Evaluation, x: Tensor, value: Tensor, stop: int) -> Tensor:
    """The latent before evaluation ``stop``, [B, P], if one value is taken from evaluation ``now.i + 1`` on."""
    scheduler = copy.deepcopy(now.course.scheduler)
    scheduler.__class__ = original(type(scheduler))  # nobody is to take its steps for the pipeline's
    for i in range(now.i + 1, stop):
        x = scheduler.step(value, scheduler.timesteps[now.course.places[i]], x, return_dict=False)[0]
    return looked_at(x)


def looked_at(latent: Tensor) -> Tensor:
    """[B, P] in float32 on the CPU, at the same positions every time."""
    flat = latent.detach().flatten(1)
    if flat.shape[1] > POSITIONS:
        flat = flat[:, :: flat.shape[1] // POSITIONS + 1]
    return flat.to("cpu", torch.float32, copy=True)
