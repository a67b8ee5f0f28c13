"""Numbers in a configuration that would make endless work of a few bytes: so many layers has no network."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple


class _Limit(NamedTuple):
    """Of fields with such a name: the largest whole number, and the longest list."""

    name: re.Pattern[str]
    largest: int
    longest: int


_LIMITS = (
    _Limit(re.compile(r"(?:^|_)(?:layers|depths?|blocks|levels)(?:_per_block)?$"), 1000, 1000),
    _Limit(re.compile(r"channels|heads"), 1_000_000, 1000),
    _Limit(re.compile(r"sample_size|video_length"), 4096, 16),
    _Limit(re.compile(r"train_timesteps"), 1_000_000, 1_000_000),
    _Limit(re.compile(""), 1_000_000_000, 1_000_000),
)


def check_config(config: Mapping[str, Any], *, source: Path | str) -> None:
    """Make sure that a network or schedule of this configuration can be made in a time that has an end.

    Raises:
        ValueError: Names ``source``, the field and its value.
    """
    for name, value in config.items():
        _check(str(name), value, next(limit for limit in _LIMITS if limit.name.search(str(name))), source)


def _check(name: str, value: Any, limit: _Limit, source: Path | str) -> None:
    if isinstance(value, Mapping):
        check_config(value, source=source)
    elif isinstance(value, list | tuple):
        if len(value) > limit.longest:
            raise ValueError(f"{source}: {name} has {len(value):,} entries; at most {limit.longest:,} make sense")
        for one in value:
            _check(name, one, limit, source)
    elif isinstance(value, int) and not -limit.largest <= value <= limit.largest:
        told = f"{value:,}" if abs(value) < 10**30 else f"a number of {len(str(value))} digits"
        raise ValueError(f"{source}: {name} = {told}; at most {limit.largest:,} makes sense")
