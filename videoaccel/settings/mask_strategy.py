"""Mask strategies as text and as values; `videoaccel.sampling.conditioning` says what they mean and applies them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple


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
