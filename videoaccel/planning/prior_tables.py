"""What the tables of a prior look like, so that a damaged one is named before a method plans with it."""

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from torch import Tensor

_AXES: Mapping[str, str] = MappingProxyType(
    {
        "adacache.distance": "N", "magcache.ratio": "N", "teacache.output": "N", "teacache.probe": "N",
        "soda.psnr": "N", "influence.step": "N", "influence.site": "NM", "lemica.error": "N*", "soda.velocity": "N**",
        "soda.cache": "NM*", "soda.forecast": "NM*", "soda.prune": "NM**", "soda.fitted.anchors": "NN",
        "soda.fitted.quality": "N23", "soda.fitted.weights": "NN3", "soda.fitted.rank": "N2",
        "soda.fitted.held": "N3", "soda.fitted.plain": "N3",
    }
)  # fmt: skip
"""Axes of the tables of our own models: N steps, M module sites, * any number, digits so many."""


def check_tables(
    tables: Mapping[str, Tensor], setting: Mapping[str, Any], *, source: Path | None, sites: int | None = None
) -> None:
    """Make sure that the tables of one of our own models have the axes that methods count on.

    Args:
        tables: By name.
        setting: What they were made for; without ``steps`` it is another's pipeline, whose tables have other axes.
        source: The file, for the message.
        sites: M of the network that they are for; None if it is not known.

    Raises:
        ValueError: One has others; names file and table.
    """
    steps = setting.get("steps")
    for name, table in tables.items():
        if not table.is_floating_point():
            raise ValueError(f"{source} is a prior that is damaged: table {name} holds {table.dtype}")
        if steps is None or name not in _AXES:
            continue
        sizes = [steps if axis == "N" else sites if axis == "M" else axis for axis in _AXES[name]]
        wanted = [n if size in ("*", None) else int(size) for size, n in zip(sizes, table.shape, strict=False)]
        if len(sizes) != table.ndim or wanted != list(table.shape) or not table.numel():
            raise ValueError(f"{source} is a prior that is damaged: table {name} is {list(table.shape)}")
