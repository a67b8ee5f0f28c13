"""VBench's dimensions, names of files, prompts and total score.

Source: Vchitect/VBench (Huang et al. 2024, "VBench: Comprehensive Benchmark Suite for Video Generative Models").
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

from videoaccel.common.plain_json import parse_json


class Dimension(NamedTuple):
    """How a raw score enters the total: scaled from ``low`` to ``high``, without clipping."""

    low: float
    high: float
    weight: float = 1.0


QUALITY: Mapping[str, Dimension] = MappingProxyType(
    {
        "subject_consistency": Dimension(0.1462, 1.0),
        "background_consistency": Dimension(0.2615, 1.0),
        "temporal_flickering": Dimension(0.6293, 1.0),
        "motion_smoothness": Dimension(0.706, 0.9975),
        "dynamic_degree": Dimension(0.0, 1.0, 0.5),
        "aesthetic_quality": Dimension(0.0, 1.0),
        "imaging_quality": Dimension(0.0, 1.0),
    }
)
SEMANTIC: Mapping[str, Dimension] = MappingProxyType(
    {
        "object_class": Dimension(0.0, 1.0),
        "multiple_objects": Dimension(0.0, 1.0),
        "human_action": Dimension(0.0, 1.0),
        "color": Dimension(0.0, 1.0),
        "spatial_relationship": Dimension(0.0, 1.0),
        "scene": Dimension(0.0, 0.8222),
        "appearance_style": Dimension(0.0009, 0.2855),
        "temporal_style": Dimension(0.0, 0.364),
        "overall_consistency": Dimension(0.0, 0.364),
    }
)
QUALITY_SHARE, SEMANTIC_SHARE = 4, 1
"""Of the total."""

SUFFIXES = (".mp4", ".gif")


@dataclass(frozen=True)
class Totals:
    """VBench's three numbers; None where a dimension that enters is missing.

    Attributes:
        quality: Of seven dimensions.
        semantic: Of nine.
        total: Four parts of quality, one of semantics.
        missing: Dimensions without a score.
    """

    quality: float | None
    semantic: float | None
    total: float | None
    missing: tuple[str, ...]


def normalised(name: str, raw: float) -> float:
    """A dimension's score between its empirical bounds; outside of these it is outside of 0 to 1.

    Raises:
        ValueError: VBench has no such dimension.
    """
    dimension = {**QUALITY, **SEMANTIC}.get(name)
    if dimension is None:
        raise ValueError(f"VBench has no dimension {name!r}; it has {', '.join([*QUALITY, *SEMANTIC])}")
    return (raw - dimension.low) / (dimension.high - dimension.low)


def totals(raw: Mapping[str, float | None], *, missing_as_zero: bool = False) -> Totals:
    """Quality, semantic and total score of raw scores by dimension.

    Args:
        raw: Scores; None or absent where there is none.
        missing_as_zero: Count those as a raw score of 0, as VBench's own script does. A table that others read
            should not: the sum then says nothing.
    """
    missing = tuple(name for name in [*QUALITY, *SEMANTIC] if raw.get(name) is None)
    quality, semantic = (_group(group, raw, missing_as_zero) for group in (QUALITY, SEMANTIC))
    total = None
    if quality is not None and semantic is not None:
        total = (QUALITY_SHARE * quality + SEMANTIC_SHARE * semantic) / (QUALITY_SHARE + SEMANTIC_SHARE)
    return Totals(quality, semantic, total, missing)


def _group(group: Mapping[str, Dimension], raw: Mapping[str, float | None], missing_as_zero: bool) -> float | None:
    found = {name: raw.get(name) for name in group}
    if any(value is None for value in found.values()) and not missing_as_zero:
        return None
    weighted = sum(group[name].weight * normalised(name, value or 0.0) for name, value in found.items())
    return weighted / sum(dimension.weight for dimension in group.values())


class Parsed(NamedTuple):
    """A file name of a suite: its prompt, and the number of the sample, if it has one."""

    prompt: str
    number: int | None


def parse_name(name: str) -> Parsed:
    """The prompt and the number in ``{prompt}-{index}.mp4``; a prompt keeps its own hyphens.

    >>> parse_name("a dog-12.gif"), parse_name("rock-carved facade.mp4").prompt, parse_name("a b-0-1.mp4").prompt
    (Parsed(prompt='a dog', number=12), 'rock-carved facade', 'a b-0')
    """
    file = Path(name).name
    stem = file[: -len(Path(file).suffix)] if Path(file).suffix.lower() in SUFFIXES else file
    if found := re.fullmatch(r"(.*)-(\d+)", stem, flags=re.DOTALL):
        return Parsed(found[1], int(found[2]))
    return Parsed(stem, None)


@dataclass(frozen=True)
class Prompt:
    """One row of ``VBench_full_info.json``.

    Attributes:
        text: The prompt, ``prompt_en``.
        dimensions: For which it was written.
        about: ``auxiliary_info``: by dimension, what a clip of it should show.
    """

    text: str
    dimensions: tuple[str, ...]
    about: Mapping[str, Any] = field(default_factory=dict)


def read_full_info(text: str, *, source: str) -> list[Prompt]:
    """The rows of a ``VBench_full_info.json``, in its order; a prompt may stand twice.

    Raises:
        ValueError: It is not such a file, or names a dimension that VBench does not have.
    """
    try:
        rows = parse_json(text)
    except ValueError as error:
        raise ValueError(f"{source} is not valid JSON: {error}") from None
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows) or not rows:
        raise ValueError(f"{source} is no VBench_full_info.json: a list of prompts is wanted")
    return [_prompt(row, i, source) for i, row in enumerate(rows)]


def suite_files(prompts: Sequence[Prompt], samples: int) -> list[str]:
    """Names of the files of a whole run, each prompt's samples together, no name twice."""
    texts = dict.fromkeys(prompt.text for prompt in prompts)
    return [f"{text}-{index}.mp4" for text in texts for index in range(samples)]


def _prompt(row: Mapping[str, Any], i: int, source: str) -> Prompt:
    text, dimensions = row.get("prompt_en"), row.get("dimension")
    if not isinstance(text, str) or not isinstance(dimensions, list):
        raise ValueError(f"{source}: entry {i} has no prompt_en with a list of dimensions")
    if unknown := [name for name in dimensions if not isinstance(name, str) or name not in {**QUALITY, **SEMANTIC}]:
        raise ValueError(f"{source}: entry {i} is for {unknown[0]!r}, which is no dimension of VBench")
    return Prompt(text, tuple(dimensions), row.get("auxiliary_info") or {})
