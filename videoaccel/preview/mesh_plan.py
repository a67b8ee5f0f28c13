"""What so many ranks would do with a clip: padding, bytes, memory, time, and which mesh to take. Predicted.

Shape legend: R rows, T frames, S places, C channels.
"""

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from videoaccel.common.files import atomic_write_text
from videoaccel.common.home import cache_folder, kept_nowhere
from videoaccel.common.plain_json import read_json
from videoaccel.generation.prepared import Denoising
from videoaccel.models.seam import Site, Work
from videoaccel.parallel.degrees import possible_degrees
from videoaccel.parallel.links import Link, as_link
from videoaccel.parallel.schemes import AUTO, SCHEMES, choose_scheme
from videoaccel.parallel.traffic import Load, Stream, load
from videoaccel.session.costs import Costs

MLP = 4
"""Width of an MLP's hidden layer over the stream's: the largest tensor of a forward pass."""

NOTABLE = 0.25
"""Padding from which on it is worth a word."""


@dataclass(frozen=True)
class Choice:
    """One way of sharing a clip.

    Attributes:
        load: What a rank pads and sends.
        memory: Bytes of weights, of the stream and of the largest tensor beside it, on a rank; an estimate.
        ms: Predicted milliseconds of a dense step; None without measured costs and a link.
    """

    load: Load
    memory: int
    ms: float | None


@dataclass(frozen=True)
class MeshPlan:
    """Ways for so many ranks to make one clip, the recommended one first.

    Attributes:
        ranks: How many.
        stream: The clip.
        choices: Ways.
        dense_ms: Measured milliseconds of a dense step on one rank; None if nothing was measured.
        link: Measured or given; None if neither.
        splits_guidance: Whether guidance branches may have ranks of their own.
    """

    ranks: int
    stream: Stream
    choices: tuple[Choice, ...]
    dense_ms: float | None
    link: Link | None
    splits_guidance: bool = True

    def reason(self) -> str:
        """Why the first is recommended."""
        best = self.choices[0].load
        way = f" ({best.scheme})" if best.degrees.sequence > 1 else ""
        taken = f"guidance {best.degrees.guidance} x sequence {best.degrees.sequence}{way}"
        frames, places = self.stream.frames, self.stream.places
        spoiled = [
            f"{frames} latent frames on {other.degrees.sequence} ranks pad spatial attention by {other.frame_waste:.0%}"
            for other in ([best] if best.scheme == "dsp" else [choice.load for choice in self.choices])
            if other.scheme == "dsp" and other.frame_waste >= NOTABLE
        ]
        if best.place_waste >= NOTABLE:
            spoiled.append(f"{places} places on {best.degrees.sequence} ranks pad everything by {best.place_waste:.0%}")
        return "; ".join([*dict.fromkeys(spoiled), f"use {taken}", *self._told()])

    def _told(self) -> list[str]:
        """Settings that have `generate` do so, where it would not by itself."""
        best, own = self.choices[0].load, possible_degrees(self.ranks, splits_guidance=self.splits_guidance)[0]
        told = []
        if best.degrees != own:
            told += [f"`cfg_parallel={best.degrees.guidance}`", f"`sp={best.degrees.sequence}`"]
        if best.degrees.sequence > 1 and best.scheme != choose_scheme(AUTO, frames=self.stream.frames):
            told.append(f"`sequence_parallel={best.scheme}`")
        return [f"generate does so if told {' '.join(told)}"] if told else []

    def as_data(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "ranks": self.ranks,
            "stream": self.stream._asdict(),
            "dense_ms_on_one_rank": self.dense_ms,
            "link": None if self.link is None else self.link._asdict(),
            "recommended": self.reason(),
            "choices": [
                {
                    **choice.load._asdict(),
                    "degrees": choice.load.degrees._asdict(),
                    "memory_bytes": choice.memory,
                    "predicted_ms": None if choice.ms is None else round(choice.ms, 3),
                    "predicted_speedup": None
                    if choice.ms is None or self.dense_ms is None
                    else round(self.dense_ms / choice.ms, 3),
                }
                for choice in self.choices
            ],
        }


def plan_mesh(
    run: Denoising, ranks: int, *, costs: Costs, link: Link | None, groups: int | None = None, whole: str | None = None
) -> MeshPlan:
    """Weigh the ways for ``ranks`` to make one clip.

    Args:
        run: The clip on one rank.
        ranks: How many.
        costs: Of one rank; times if in milliseconds.
        link: How fast ranks exchange.
        groups: Column groups, where a method chooses columns.
        whole: Why guidance cannot be split; None if it can.
    """
    stream = stream_of(run)
    weights = sum(p.nbytes for p in _parameters(run.model))
    timed = costs if costs.unit == "ms" else None
    splits = whole is None and len(run.branches) > 1
    found = [
        Choice(one, weights + _activations(stream, one), _time(stream, one, timed, link))
        for one in _loads(stream, ranks, groups, splits=splits)
    ]
    if timed is not None and link is not None:
        found.sort(key=lambda choice: choice.ms or math.inf)
    else:
        found.sort(
            key=lambda choice: (_padding(choice.load) >= NOTABLE, -choice.load.degrees.guidance, choice.load.switched)
        )
    return MeshPlan(ranks, stream, tuple(found), None if timed is None else timed.dense, link, splits)


@torch.inference_mode()
def stream_of(run: Denoising) -> Stream:
    """The tokens of a clip, seen in a network call in which no block runs."""
    seen: dict[str, torch.Size] = {}

    def look(site: Site, branch: Work, x: Tensor, cond: Any) -> Tensor:
        if site.kind == "block":
            seen["x"] = x.shape
            return x
        out = branch.compute(x, cond, look)
        seen["out"] = out.shape
        return out

    run.once_here(look)
    rows, frames, places, width = seen["x"]
    config: Any = run.model.config
    return Stream(
        rows=rows,
        frames=frames,
        places=places,
        width=width,
        heads=config.get("num_heads") or config["num_attention_heads"],
        number=torch.empty((), dtype=run.model.dtype).element_size(),
        layers=sum(block.axis != "time" for block in run.model.sites),
        out=seen["out"][-1],
        latent=run.z.nbytes,
    )


def _loads(stream: Stream, ranks: int, groups: int | None, *, splits: bool) -> Iterator[Load]:
    for degrees in possible_degrees(ranks, splits_guidance=splits):
        if degrees.data > 1:
            continue
        for scheme in SCHEMES if degrees.sequence > 1 else ["dsp"]:
            yield load(stream, degrees, scheme=scheme, groups=groups)


def _padding(one: Load) -> float:
    return max(one.frame_waste, one.place_waste)


def _activations(stream: Stream, one: Load) -> int:
    shard = stream.bytes / one.degrees.clip * (1 + one.place_waste)
    return round(shard * (2 + MLP))


def _time(stream: Stream, one: Load, costs: Costs | None, link: Link | None) -> float | None:
    """Milliseconds of a dense step: a rank's share of the modules, what all do, and the exchanges."""
    if costs is None or link is None:
        return None
    spatial = sum(
        costs.modules["space", "attn"][1.0]
        for modules in costs.blocks.values()
        for s in modules
        if s[:2] == ("attn", "space")
    )
    local = (costs.dense - costs.rest - spatial) * (1 + one.place_waste)
    switched = spatial * (1 + max(one.frame_waste, 0 if one.scheme == "dsp" else one.place_waste))
    shared = (local + switched) / one.degrees.clip
    calls = stream.layers * {"dsp": 2, "ulysses": 4}[one.scheme] * (one.degrees.sequence > 1)
    calls += (one.degrees.sequence > 1) + (one.degrees.guidance > 1)
    return (
        shared
        + costs.rest / one.degrees.guidance
        + 1000 * (calls * link.latency + (one.switched + one.gathered) / link.speed)
    )


def _parameters(model: Any) -> Iterator[Tensor]:
    assert isinstance(model, nn.Module)
    return model.parameters()


def keep_link(link: Link) -> None:
    """Keep a measured link in the user's cache."""
    folder = cache_folder("links")
    if kept_nowhere(folder):
        return
    folder.mkdir(parents=True, exist_ok=True)
    atomic_write_text(folder / f"{torch.device(link.device).type}.json", json.dumps(link._asdict()))


def kept_link(device: str) -> Link | None:
    """The link that was measured last on this kind of device; None if none was."""
    path = cache_folder("links") / f"{torch.device(device).type}.json"
    try:
        return as_link(read_json(path))
    except (OSError, ValueError, KeyError, TypeError, ArithmeticError):
        return None


def given_link(gigabytes: float, *, device: str, ranks: int) -> Link:
    """A link of so many GB/s; small exchanges cost nothing.

    Raises:
        ValueError: It is not above 0.
    """
    if not gigabytes > 0:
        raise ValueError(f"--link takes GB/s above 0, got {gigabytes:g}")
    return Link(ranks, device, 0.0, gigabytes * 1e9)
