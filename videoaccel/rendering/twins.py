"""Twins: clips of a render that are the same but for the method, so that what it changed can be seen and measured.

Read from sidecars, which others may have written: what is not understood makes a clip nobody's twin.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

from videoaccel.rendering.said import mapping, number, text, whole
from videoaccel.settings.generate import GenerateSettings

Clip = Mapping[str, Any]
"""A clip's sidecar, with ``folder``, the name of its folder."""

EXACT = "exact"
"""What a clip without a method is called."""

_METHOD = {
    "accel", "speedup", "flops_ratio", "min_psnr", "min_worst_psnr", "max_lpips", "anchors", "accel_options", "prior",
    "allow_foreign_prior", "cache_memory", "measure_first", "speedup_of",
}  # fmt: skip
"""Settings that say how a clip was made faster."""

_ELSEWHERE = {
    "prompt", "seed", "seeds", "samples", "keep", "batch_size", "vbench", "model", "vae", "text_encoder", "output",
    "contact_sheet", "explain", "device", "offload", "group_offload", "text_cache", "threads", "gpus", "dp",
    "cfg_parallel", "sp", "provider", "patience", "graphs",
}  # fmt: skip
"""Settings that others of a sidecar say better, or that move a clip by its last bits at most."""

_TARGETS = {
    "speedup": "{:g}x", "flops_ratio": "{:g}x fewer FLOPs", "min_psnr": "{:g} dB", "min_worst_psnr": "worst {:g} dB",
    "max_lpips": "LPIPS {:g}", "anchors": "{:g} anchors",
}  # fmt: skip


def is_exact(record: Mapping[str, Any]) -> bool:
    """Whether everything was computed: without a method, or while its first clips were measured."""
    done = mapping(record.get("acceleration"))
    return not done or done.get("measured") is True


def method_told(record: Mapping[str, Any]) -> str:
    """The method of a clip with its target and fields.

    Args:
        record: Its sidecar.

    >>> method_told({"acceleration": {"method": "soda"}, "settings": {"speedup": 2.0}})
    'soda 2x'
    >>> method_told({"acceleration": {"method": "fora"}, "settings": {"accel_options": {"period": 3}}})
    'fora period 3'
    >>> method_told({"acceleration": None})
    'exact'
    """
    name = text(mapping(record.get("acceleration")).get("method"), most=200)
    if is_exact(record) or name is None:
        return EXACT
    settings = mapping(record.get("settings"))
    options = mapping(settings.get("accel_options"))  # a target may stand among the method's fields, too
    asked = {key: number(settings.get(key) if key not in options else options[key]) for key in _TARGETS}
    targets = [_TARGETS[key].format(value) for key, value in asked.items() if value is not None]
    fields = [f"{key} {_value(value)}" for key, value in options.items() if asked.get(key) is None]
    return " ".join([name, *targets, *fields])


def _value(value: object) -> str:
    shown = value if isinstance(value, str) else json.dumps(value)
    return text(shown, most=200) or ""


def twin_key(record: Mapping[str, Any]) -> str | None:
    """Equal for clips that are the same but for the method: model, prompt, seed, given files, and all other settings.

    Args:
        record: The clip's sidecar.

    Returns:
        None of a sidecar without what it takes.
    """
    prompt, seed = record.get("prompt"), whole(record.get("seed"))
    model, settings = mapping(record.get("model")).get("sha256"), mapping(record.get("settings"))
    file = text(mapping(record.get("output")).get("file")) or ""
    if not (isinstance(prompt, str) and isinstance(model, str) and seed is not None and settings and file):
        return None
    later = {name: _default(name) for name in GenerateSettings.later}  # older sidecars do not have these
    same = {
        name: value
        for name, value in settings.items()
        if name not in _METHOD | _ELSEWHERE and not (name in later and value == later[name])
    }
    prior = settings.get("prior")
    inputs = {path: digest for path, digest in mapping(record.get("inputs")).items() if path != prior}
    kind = "/" if file.endswith("/") else file.rpartition(".")[2]
    parts = [prompt, record.get("texts"), seed, model, inputs, same, kind]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]


def _default(name: str) -> Any:
    value = GenerateSettings.model_fields[name].get_default(call_default_factory=True)
    return list(value) if isinstance(value, tuple) else value


def pairs(clips: Sequence[Clip]) -> list[tuple[Clip, Clip]]:
    """Each clip by a method with its exact twin; of several equal ones the first by name counts.

    Args:
        clips: Sidecars with ``folder``, the name of each clip's folder.
    """
    exact: dict[str, Clip] = {}
    for clip in sorted(clips, key=lambda one: str(one["folder"])):
        if is_exact(clip) and (key := twin_key(clip)) is not None:
            exact.setdefault(key, clip)
    found = ((clip, exact.get(twin_key(clip) or "")) for clip in clips if not is_exact(clip))
    return [(clip, twin) for clip, twin in found if twin is not None]
