"""Mask strategies as text and as values; `videoaccel.sampling.conditioning` says what they mean and applies them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from videoaccel.common.picture_names import is_image
from videoaccel.settings.latent_frames import Chunks


class Group(NamedTuple):
    """One group of a mask strategy; starts and length in latent frames."""

    loop: int
    """The loop it is for."""
    reference: int = 0
    """Which of the row's references."""
    reference_start: int = 0
    """First frame to take from it."""
    target_start: int = 0
    """Where that goes in the clip."""
    length: int = 1
    """Frames to take, cut to what fits on both sides."""
    edit: float = 0.0
    """0 keeps them; above, they start to change at timestep ``edit * 1000``; 1 generates anew."""


def parse_mask_strategy(strategy: str | None) -> list[Group]:
    """Read a mask strategy; an empty one (or None) has no groups.

    Raises:
        ValueError: If a field is missing in between, is no number, or is out of range; it names group and field.

    >>> parse_mask_strategy("0;1,0,-5")[1]
    Group(loop=1, reference=0, reference_start=-5, target_start=0, length=1, edit=0.0)
    """
    if not strategy:
        return []
    return [_parse_group(group, number) for number, group in enumerate(strategy.split(";"))]


def format_mask_strategy(groups: Sequence[Group]) -> str:
    """Write a mask strategy: the text that `parse_mask_strategy` reads as these groups."""
    return ";".join(",".join(str(field) for field in group) for group in groups)


def _parse_group(text: str, number: int) -> Group:
    fields = text.split(",")
    if len(fields) > len(Group._fields):
        raise ValueError(f"group {number} of the mask strategy, {text!r}, has {len(fields)} fields; there are six")
    values: dict[str, float] = {}
    for name, field in zip(Group._fields, fields, strict=False):
        kind = float if name == "edit" else int
        try:
            values[name] = kind(field)
        except ValueError:
            expected = "a number" if kind is float else "a whole number"
            raise ValueError(
                f"group {number} ({text}) of the mask strategy: {name} must be {expected}; got {field!r}"
            ) from None
    group = Group(**values)  # type: ignore[arg-type]  # the kinds are right: int for all but edit
    check_group(group, f"group {number} ({text}) of the mask strategy")
    return group


def check_group(group: Group, where: str) -> None:
    """Make sure that a group's numbers are in range.

    Args:
        group: The group.
        where: What errors call it.

    Raises:
        ValueError: One is not.
    """
    ranges = {
        "loop": (group.loop >= 0, "0 or more"),
        "reference": (group.reference >= 0, "0 or more"),
        "length": (group.length >= 1, "at least 1"),
        "edit": (0 <= group.edit <= 1, "between 0 and 1"),
    }
    for name, (fits, expected) in ranges.items():
        if not fits:
            raise ValueError(f"{where}: {name} must be {expected}; got {getattr(group, name)}")


def check_places(
    strategy: str | None,
    references: Sequence[str],
    *,
    loops: int,
    frames: int | None = None,
    chunks: Chunks | None = None,
    lengths: Sequence[int] | None = None,
) -> list[Group]:
    """Make sure that a mask strategy takes and puts what there is to take and to put to, as far as is known.

    Args:
        strategy: As given.
        references: Names of the files.
        loops: How many run.
        frames: Of a clip; None if it is not known.
        chunks: How the model's VAE takes clips apart; None if it is not known.
        lengths: Frames of each reference; by default only those of pictures are known.

    Returns:
        The groups.

    Raises:
        ValueError: A loop, a reference or a start is out of range, or a reference is not used.
    """
    groups, texts = parse_mask_strategy(strategy), (strategy or "").split(";")
    for number, (group, text) in enumerate(zip(groups, texts, strict=False)):
        where = f"group {number} ({text}) of the mask strategy"
        if group.loop >= loops:
            raise ValueError(f"{where} is for loop {group.loop}, but {last_loop(loops)}")
        # Every loop adds the clip before it.
        known = len(references) + group.loop
        if group.reference >= known:
            raise ValueError(
                f"{where}: there is no reference {group.reference}; loop {group.loop} has {known}, counted from 0"
            )
        if chunks is not None and frames is not None:
            check_start(group.target_start, chunks.latents(frames), f"{where}: target_start")
        if chunks is not None and group.reference < len(references):
            file = references[group.reference]
            length = lengths[group.reference] if lengths is not None else 1 if is_image(file) else None
            if length is not None:
                check_start(group.reference_start, chunks.latents(length), f"{where}: reference_start in {file}")
    used = {group.reference for group in groups}
    if unused := [f"{number} ({path})" for number, path in enumerate(references) if number not in used]:
        raise ValueError(
            f"the mask strategy {strategy!r} does not use reference {unused[0]}; leave it out or add a group"
        )
    return groups


def check_start(start: int, latents: int, what: str) -> None:
    """Make sure that a start lies in a clip of so many latent frames; a negative one counts from the end.

    Raises:
        ValueError: It does not; says where it may lie.
    """
    if not -latents <= start < latents:
        raise ValueError(f"{what} must lie in {-latents}..{latents - 1}, the latent frames there are; got {start}")


def last_loop(loops: int) -> str:
    """Which loop is the last one, for errors."""
    return f"the last one is {loops - 1}, counted from 0; raise `loops` (now {loops}), or give an earlier one"
