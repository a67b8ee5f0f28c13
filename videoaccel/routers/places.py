"""Where routers go, and what stands beside them while they are trained."""

from __future__ import annotations

from pathlib import Path

from videoaccel.common.files import check_file
from videoaccel.settings.tensor_heads import ROUTERS, check_format


def part_path(out: Path) -> Path:
    """Where the state of a training under way is."""
    return out.with_name(out.name.removesuffix(".safetensors") + ".part")


def marks_path(out: Path) -> Path:
    """Where what every iteration was worth is."""
    return out.with_suffix(".jsonl")


def check_output(out: Path) -> None:
    """Make sure that routers, and what stands beside them, can be written; of what is there only routers go.

    Raises:
        ValueError: Something else is there.
        OSError: It cannot be written.
    """
    for path in (out, part_path(out), marks_path(out)):
        check_file(path)
    if out.exists():
        try:
            check_format(out, ROUTERS, what="no file of routers")
        except ValueError as error:
            raise FileExistsError(f"{error}; choose another `output`") from None
