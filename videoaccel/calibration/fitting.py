"""Coefficients of what is served between network calls, fitted on the accelerated trajectory itself.

From one anchor to the next one velocity is served, a combination of those of the last anchors. Its coefficients make
the latent at the next anchor as like the dense run's as can be, over all clips, starting from where the accelerated run
is by then: so a segment also repairs what those before it left over.

Latents of runs that go on side by side are kept run by run, as the very tensors that the solver made: what a multistep
solver knows of earlier steps belongs to these, and a copy or a part of one begins anew with a step of first order.

Shape legend: N steps, B clips, J velocities that are combined, Z latent channels, T latent frames, h, w latent sizes.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

from videoaccel.calibration.probing import Tick, ignore
from videoaccel.calibration.replay import dense_path
from videoaccel.generation.prepared import Denoising
from videoaccel.models.seam import direct
from videoaccel.planning.fitted import MOST, Fitted
from videoaccel.sampling.guidance import combine
from videoaccel.session.actions import taylor_weights

RIDGE = 1e-3
"""How strongly coefficients are held to Taylor's, relative to what each difference of the velocities weighs itself."""


Latents = tuple[Tensor, ...]
"""Of each run [b, Z, T, h, w], as its solver left it; b clips each, B in all."""


@dataclass(frozen=True)
class Clips:
    """Clips that run side by side, and where their dense runs were.

    Attributes:
        runs: Denoising runs of one setting, each of one clip or several.
        wanted: Dense latents before every step, and the finished ones: N + 1 of [B, Z, T, h, w].
        tick: Told of network calls, one a clip.
    """

    runs: Sequence[Denoising]
    wanted: Sequence[Tensor]
    tick: Tick = ignore

    @classmethod
    def of(cls, runs: Sequence[Denoising], *, tick: Tick = ignore) -> "Clips":
        """Make the dense runs."""
        paths = [dense_path(run, tick=tick) for run in runs]
        return cls(runs, [torch.cat(latents) for latents in zip(*(path.latents for path in paths), strict=True)], tick)

    @property
    def steps(self) -> int:
        """N."""
        return len(self.wanted) - 1

    def velocity(self, i: int, x: Latents) -> Tensor:
        """What the network says in step ``i``, guided, float32 [B, Z, T, h, w]."""
        found = []
        for run, part in zip(self.runs, x, strict=True):
            call = run.network(direct).at(part, run.timesteps[i], None)
            found.append(combine(run.layout.join(call(), dict), run.guidance_scale).float())
            self.tick(len(part))
        return torch.cat(found)

    def serve(self, start: int, stop: int, x: Latents, velocity: Tensor) -> Latents:
        """The latents before step ``stop`` if the same velocity is taken in all steps from ``start`` on."""
        found = []
        for run, part, served in zip(self.runs, x, self.parts(velocity), strict=True):
            for i in range(start, stop):
                part = run.update(i, part, served)
            found.append(part)
        return tuple(found)

    def parts(self, x: Tensor) -> Latents:
        """Run by run what is one tensor [B, ...]; as latents these have no past."""
        return x.split([len(run.z) for run in self.runs])


class Node(NamedTuple):
    """An accelerated run that has come to an anchor.

    Attributes:
        x: The latents there.
        velocities: Of this anchor and those before it, at most as many as are combined.
    """

    x: Latents
    velocities: tuple[Tensor, ...]


@dataclass
class Fit:
    """Fits on some clips. Runs that share their first anchors share the network calls there.

    Attributes:
        clips: What is fitted on.
        ridge: See :data:`RIDGE`.
        most: J, at most.
    """

    clips: Clips
    ridge: float = RIDGE
    most: int = MOST
    _nodes: dict[tuple[int, ...], Node] = field(default_factory=dict)
    _weights: dict[tuple[tuple[int, ...], int], tuple[float, ...]] = field(default_factory=dict)

    @torch.inference_mode()
    def along(self, anchors: Sequence[int]) -> tuple[Fitted, Tensor]:
        """Coefficients of every segment, and the finished latents."""
        marks = tuple(anchors)
        self._nodes = {known: node for known, node in self._nodes.items() if known == marks[: len(known)]}
        ends = (*marks[1:], self.clips.steps)
        weights = tuple(self.weights(marks[: j + 1], stop) for j, stop in enumerate(ends))
        return Fitted(marks, weights), torch.cat(self.arrive(marks, self.clips.steps))

    def weights(self, anchors: tuple[int, ...], stop: int) -> tuple[float, ...]:
        """Coefficients from the last of some anchors to the next one, ``stop``; none where nothing is served."""
        start = anchors[-1] + 1
        if stop <= start:
            return ()
        if (anchors, stop) not in self._weights:
            node = self.node(anchors)
            x = self.clips.serve(start - 1, start, node.x, node.velocities[0])
            base = torch.cat(self.clips.serve(start, stop, x, torch.zeros_like(node.velocities[0])))
            moved = torch.stack([torch.cat(self.clips.serve(start, stop, x, v)) - base for v in node.velocities])
            known = anchors[-len(node.velocities) :][::-1]
            usual = mean_taylor(known, range(start, stop))
            found = least_squares(moved, self.clips.wanted[stop] - base, usual=usual, gaps=known, ridge=self.ridge)
            self._weights[anchors, stop] = tuple(found.tolist())
        return self._weights[anchors, stop]

    def arrive(self, anchors: tuple[int, ...], stop: int) -> Latents:
        """The latents before step ``stop``."""
        return _arrive(self.clips, self.node(anchors), anchors[-1], stop, self.weights(anchors, stop))

    def node(self, anchors: tuple[int, ...]) -> Node:
        """The run at the last of some anchors."""
        if anchors not in self._nodes:
            before = anchors[:-1]
            x = self.arrive(before, anchors[-1]) if before else self.clips.parts(self.clips.wanted[0])
            kept = self._nodes[before].velocities if before else ()
            self._nodes[anchors] = Node(x, (self.clips.velocity(anchors[-1], x), *kept)[: self.most])
        return self._nodes[anchors]


def _arrive(clips: Clips, node: Node, anchor: int, stop: int, weights: Sequence[float]) -> Latents:
    x = clips.serve(anchor, anchor + 1, node.x, node.velocities[0])
    if not weights:
        return x
    served = sum(
        (w * v for w, v in zip(weights, node.velocities, strict=True)), start=torch.zeros_like(node.velocities[0])
    )
    return clips.serve(anchor + 1, stop, x, served)


@torch.inference_mode()
def follow(clips: Clips, fitted: Fitted) -> Tensor:
    """Finished latents [B, ...] of other clips under coefficients that were fitted before."""
    x, velocities = clips.parts(clips.wanted[0]), ()  # type: tuple[Latents, tuple[Tensor, ...]]
    ends = (*fitted.anchors[1:], clips.steps)
    for anchor, stop, weights in zip(fitted.anchors, ends, fitted.weights, strict=True):
        velocities = (clips.velocity(anchor, x), *velocities)[:MOST]
        x = _arrive(clips, Node(x, velocities[: max(1, len(weights))]), anchor, stop, weights)
    return torch.cat(x)


def mean_taylor(anchors: Sequence[int], steps: Sequence[int]) -> Tensor:
    """Coefficients of the mean Taylor forecast of some steps from anchors, the last one first."""
    rows = [taylor_weights([step - anchor for anchor in anchors]) for step in steps]
    return torch.tensor(rows, dtype=torch.float64).mean(0)


def least_squares(
    moved: Tensor, target: Tensor, *, usual: Tensor, gaps: Sequence[int] = (), ridge: float = RIDGE
) -> Tensor:
    """Coefficients c that make ``sum(c * moved)`` most like ``target``, [J] in float64.

    Every clip counts as much as any other: it is weighted by the inverse of its target's energy. What pulls towards
    the usual coefficients acts on value, first and second difference each in its own measure.

    Args:
        moved: What each velocity does to the latent, [J, B, ...].
        target: What shall be done, [B, ...].
        usual: Taylor's coefficients, [J].
        gaps: The J anchors, the last one first.
        ridge: See :data:`RIDGE`.
    """
    count = len(moved)
    energy = target.double().square().flatten(1).sum(1).clamp_min(1e-30)
    basis = _differences(gaps or range(0, -count, -1))
    d = torch.einsum("jk,kbx->jbx", basis, moved.double().flatten(2)) / energy.sqrt()[:, None]
    left = (target.double() / energy.sqrt().view(-1, *[1] * (target.ndim - 1))).flatten(1)
    left = left - torch.einsum("k,kbx->bx", usual.double(), moved.double().flatten(2)) / energy.sqrt()[:, None]
    gram = torch.einsum("jbx,kbx->jk", d, d)
    right = torch.einsum("jbx,bx->j", d, left)
    held = gram + torch.diag(ridge * gram.diagonal() + 1e-12 * gram.diagonal().max().clamp_min(1e-30))
    return usual.double() + torch.linalg.solve(held, right) @ basis


def _differences(anchors: Sequence[int]) -> Tensor:
    """Value, first and further differences as combinations of values, [J, J]."""
    count = len(anchors)
    rows = torch.eye(count, dtype=torch.float64)
    found = [rows[0]]
    level = list(rows)
    for order in range(1, count):
        level = [(level[j] - level[j + 1]) / (anchors[j] - anchors[j + order]) for j in range(count - order)]
        found.append(level[0])
    return torch.stack(found)
