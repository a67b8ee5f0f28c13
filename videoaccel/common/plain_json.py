"""JSON that every reader takes: its standard has neither infinities nor not-a-number."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any


def to_json(value: Any, **options: Any) -> str:
    """JSON as the standard has it: infinity is the text "inf", not-a-number is null."""
    return json.dumps(_plain(value), ensure_ascii=False, allow_nan=False, **options)


def _plain(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return None if math.isnan(value) else "inf" if value > 0 else "-inf"
    if isinstance(value, Mapping):
        return {str(name): _plain(item) for name, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value
