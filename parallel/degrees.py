"""How many ranks work on what: clips side by side, guidance branches, places of one clip."""

from typing import NamedTuple

from videoaccel.common.wording import short

BRANCHES = 2
"""Guidance branches: what the network says with the prompt, and without."""


class Degrees(NamedTuple):
    """Numbers of ranks whose product is the number of all.

    Attributes:
        data: Groups of ranks that make clips of their own.
        guidance: Groups of a clip's ranks that run guidance branches of their own.
        sequence: Ranks that share the places of a frame.
    """

    data: int = 1
    guidance: int = 1
    sequence: int = 1

    def __str__(self) -> str:
        return f"data {self.data} x guidance {self.guidance} x sequence {self.sequence}"

    @property
    def ranks(self) -> int:
        """Their product."""
        return self.data * self.guidance * self.sequence

    @property
    def clip(self) -> int:
        """Ranks that work on one clip."""
        return self.guidance * self.sequence


def possible_degrees(ranks: int, *, splits_guidance: bool) -> list[Degrees]:
    """All ways to multiply to ``ranks``, clips side by side last."""
    guidance = (BRANCHES, 1) if splits_guidance else (1,)
    return [
        Degrees(data, branches, ranks // data // branches)
        for data in range(1, ranks + 1)
        if ranks % data == 0
        for branches in guidance
        if ranks // data % branches == 0
    ]


def choose_degrees(
    ranks: int,
    *,
    data: int | None = None,
    guidance: int | None = None,
    sequence: int | None = None,
    whole: str | None = None,
) -> Degrees:
    """The degrees for so many ranks; what is not given is chosen.

    Guidance is split first where there are ranks for it: its halves exchange one latent a step, where ranks that share
    places exchange the whole stream twice a layer. What remains shares places. Clips are made side by side only if
    ``data`` says so (or nothing else is left).

    Args:
        ranks: Of all.
        data: See :class:`Degrees`; likewise ``guidance`` and ``sequence``.
        guidance: 1 or 2.
        sequence: Any number.
        whole: Why guidance cannot be split; None if it can.

    Raises:
        ValueError: What is given does not multiply to ``ranks``, with what would, or guidance cannot be split.

    >>> choose_degrees(8), choose_degrees(3)
    (Degrees(data=1, guidance=2, sequence=4), Degrees(data=1, guidance=1, sequence=3))
    """
    given = {"dp": data, "cfg_parallel": guidance, "sp": sequence}
    for name, degree in {"ranks": ranks, **given}.items():
        if degree is not None and (type(degree) is not int or degree < 1):
            raise ValueError(f"`{name}` must be a whole number of at least 1, got {short(degree)}")
    if guidance not in (None, 1, BRANCHES):
        raise ValueError(f"`cfg_parallel` is 1 or {BRANCHES}, for there are two guidance branches; got {guidance}")
    if guidance == BRANCHES and whole:
        raise ValueError(f"`cfg_parallel={guidance}` cannot be: {whole}")
    every = possible_degrees(ranks, splits_guidance=whole is None)
    wanted = (data, guidance, sequence)
    fitting = [d for d in every if all(want in (None, degree) for want, degree in zip(wanted, d, strict=True))]
    if fitting:
        return fitting[0]
    said = [f"`{name}={degree}`" for name, degree in given.items() if degree is not None]
    verb = "do not multiply to" if len(said) > 1 else "does not divide"
    raise ValueError(f"{' and '.join(said)} {verb} {_ranks(ranks)}; these would: {'; '.join(map(_spelled, every))}")


def why_these(degrees: Degrees, *, whole: str | None, scheme: str) -> str:
    """A sentence on what the ranks do, for people."""
    parts = []
    if degrees.data > 1:
        parts.append(f"{degrees.data} groups make clips side by side")
    if degrees.guidance > 1:
        parts.append("each guidance branch has ranks of its own, which exchange one latent a step")
    elif whole:
        parts.append(f"guidance is not split: {whole}")
    if degrees.sequence > 1:
        ways = {"dsp": "switch to frames and back around spatial attention", "ulysses": "spread heads in attention"}
        parts.append(f"{degrees.sequence} ranks share the places of a clip and {ways[scheme]}")
    return f"{_ranks(degrees.ranks)} as {degrees}: {'; '.join(parts) or 'nothing is shared'}"


def _ranks(count: int) -> str:
    return f"{count} rank{'' if count == 1 else 's'}"


def _spelled(degrees: Degrees) -> str:
    return f"dp {degrees.data} x cfg_parallel {degrees.guidance} x sp {degrees.sequence}"
