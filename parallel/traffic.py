"""What sharing a clip costs, in closed form: padding, and bytes that each rank sends in a step.

Shape legend: R rows, T frames, S places, C channels, N ranks, H heads; M bytes of the whole stream [R, T, S, C].

Source: the formulas of Dynamic Sequence Parallelism (arXiv 2403.10266) and DeepSpeed Ulysses (arXiv 2309.14509);
padding is ours. The ledger of :class:`videoaccel.parallel.comm.Comm` counts the same numbers.
"""

from typing import NamedTuple

from videoaccel.parallel.degrees import Degrees
from videoaccel.parallel.shards import Shards

INDEX = 4
"""Bytes of an index."""


class Stream(NamedTuple):
    """One clip's tokens in the network.

    Attributes:
        rows: R, guidance branches times samples.
        frames: T.
        places: S.
        width: C.
        heads: H.
        number: Bytes of a number.
        layers: Spatial attentions.
        out: Values that the final layer gives for a token.
        latent: Bytes of one branch's velocity.
    """

    rows: int
    frames: int
    places: int
    width: int
    heads: int
    number: int
    layers: int
    out: int
    latent: int

    @property
    def bytes(self) -> int:
        """M."""
        return self.rows * self.frames * self.places * self.width * self.number


class Load(NamedTuple):
    """What one way of sharing costs a rank.

    Attributes:
        degrees: The ranks of the clip.
        scheme: How places are shared.
        frame_waste: Padding over real frames, in spatial attention.
        place_waste: Padding over real places, everywhere.
        switched: Bytes sent in a step around spatial attention.
        gathered: Bytes sent in a step behind the final layer, and between guidance branches.
    """

    degrees: Degrees
    scheme: str
    frame_waste: float
    place_waste: float
    switched: int
    gathered: int


def load(stream: Stream, degrees: Degrees, *, scheme: str, groups: int | None = None) -> Load:
    """What a rank of a clip pads and sends in one dense step.

    Args:
        stream: The clip.
        degrees: Of the ranks.
        scheme: ``dsp`` or ``ulysses``.
        groups: Column groups, where a method chooses columns.
    """
    ranks = degrees.sequence
    local = stream._replace(rows=stream.rows // degrees.guidance)
    shards = Shards(stream.places, ranks, groups)
    frames = -(-stream.frames // ranks) * ranks if scheme == "dsp" else stream.frames
    sent = local.layers * switch_bytes(local, ranks, scheme=scheme, groups=groups)
    gathered = local.rows * local.frames * shards.each * local.out * local.number * (ranks - 1)
    gathered += stream.latent * (degrees.guidance - 1)
    return Load(degrees, scheme, frames / stream.frames - 1, shards.waste, sent, gathered)


def switch_bytes(
    stream: Stream, ranks: int, *, scheme: str, groups: int | None = None, keep: float = 1.0, keys: str = "all"
) -> int:
    """Bytes that a rank sends for one spatial attention.

    Args:
        stream: The rows that share it.
        ranks: N.
        scheme: ``dsp``, ``ulysses``, or ``ring`` for comparison (no padding).
        groups: Column groups.
        keep: Share of columns that are computed; a whole number of columns in every group.
        keys: ``kept`` or ``all`` columns are looked at.
    """
    padded = Shards(stream.places, ranks, groups).each * ranks
    row = stream.rows * stream.width * stream.number
    if scheme == "ring":
        return 2 * stream.bytes * (ranks - 1) // ranks
    if scheme == "ulysses":
        heads = -(-stream.heads // ranks) * ranks / stream.heads
        whole = row * stream.frames * padded * heads
        share = 4 * keep if keys == "kept" else 2 + 2 * keep
    else:
        whole = row * -(-stream.frames // ranks) * ranks * padded
        share = 2 * keep if keys == "kept" else 1 + keep
    return round(share * whole * (ranks - 1) / ranks**2)
