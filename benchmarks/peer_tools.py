"""How each tool is put on a pipeline: loosely, so that it reuses all that it may, and strictly, so that it may nothing.

Settings are those that a user would choose for the number of steps; where a tool needs measured constants they are what
would be measured on a network whose answers do not change (magnitudes in a ratio of 1).
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

PutOn = Callable[[Any, int, bool], Any]
"""Puts it on a pipeline, for so many steps, strictly or not."""

LETTERS = "ABCDEFGHIJKLMNOPQR"


@dataclass(frozen=True)
class Tool:
    """One column.

    Attributes:
        name: As in the table.
        package: Whose it is: ``cache-dit``, ``diffusers`` or ``videoaccel``.
        put_on: See :data:`PutOn`.
        may: Whether its settings let it reuse anything in evaluation i, when set up for n.
        before: Generations that it wants for itself before those that are looked at.
    """

    name: str
    package: str
    put_on: PutOn
    may: Callable[[int, int], bool] = lambda i, n: i > 0
    before: int = 0


def warmup(n: int) -> int:
    """Steps at the start that are always computed."""
    return max(1, n // 3)


def mask(n: int) -> list[int]:
    """1 where a step is computed: the start, then every second, and the last."""
    return [int(i < warmup(n) or (i - warmup(n)) % 2 == 1 or i == n - 1) for i in range(n)]


def _cache_dit(pipe: Any, n: int, strict: bool, *, taylor: bool = False, masked: bool = False) -> None:
    import cache_dit

    fields: dict[str, Any] = {
        "Fn_compute_blocks": 1,
        "max_warmup_steps": warmup(n),
        "max_continuous_cached_steps": 2,
        "residual_diff_threshold": 0.0 if strict else 0.5,
    }
    if masked:
        fields |= {"steps_computation_mask": [1] * n if strict else mask(n), "num_inference_steps": n}
    calibrator = cache_dit.TaylorSeerCalibratorConfig(taylorseer_order=1) if taylor else None
    cache_dit.enable_cache(pipe, cache_config=cache_dit.DBCacheConfig(**fields), calibrator_config=calibrator)


def _diffusers(config: Callable[[Any, int, bool], Any], pipe: Any, n: int, strict: bool) -> None:
    """On every denoiser that the pipeline has."""
    networks = [getattr(pipe, name, None) for name in ("transformer", "transformer_2", "unet")]
    for network in filter(None, networks):
        if not hasattr(network, "enable_cache"):
            raise NotImplementedError(f"{type(network).__name__} has no enable_cache")
        network.enable_cache(config(pipe, n, strict))


def _first_block(pipe: Any, n: int, strict: bool) -> Any:
    import diffusers

    return diffusers.FirstBlockCacheConfig(threshold=0.0 if strict else 0.5)


def _taylorseer(pipe: Any, n: int, strict: bool) -> Any:
    import diffusers

    return diffusers.TaylorSeerCacheConfig(
        cache_interval=3, disable_cache_before_step=10**6 if strict else warmup(n), max_order=1,
        taylor_factors_dtype=torch.float32,
    )  # fmt: skip


def _magcache(pipe: Any, n: int, strict: bool) -> Any:
    import diffusers

    return diffusers.MagCacheConfig(
        threshold=0.5, max_skip_steps=0 if strict else 2, retention_ratio=0.2, num_inference_steps=n,
        mag_ratios=[1.0] * n,
    )  # fmt: skip


def _pab(pipe: Any, n: int, strict: bool) -> Any:
    import diffusers

    every = 1 if strict else 2
    return diffusers.PyramidAttentionBroadcastConfig(
        spatial_attention_block_skip_range=every, temporal_attention_block_skip_range=every,
        cross_attention_block_skip_range=every, spatial_attention_timestep_skip_range=(-1, 1001),
        temporal_attention_timestep_skip_range=(-1, 1001), cross_attention_timestep_skip_range=(-1, 1001),
        current_timestep_callback=lambda: pipe.current_timestep,
    )  # fmt: skip


def _fastercache(pipe: Any, n: int, strict: bool) -> Any:
    import diffusers

    # The ranges are its defaults: from the first step on it fails where guidance is distilled.
    attention, branch = ((2000, 2001),) * 2 if strict else ((-1, 681), (-1, 641))
    distilled = bool(getattr(pipe.transformer.config, "guidance_embeds", False))
    frames_first = type(pipe).__name__.startswith("CogVideoX")
    return diffusers.FasterCacheConfig(
        spatial_attention_block_skip_range=2, temporal_attention_block_skip_range=2,
        spatial_attention_timestep_skip_range=attention, temporal_attention_timestep_skip_range=attention,
        unconditional_batch_skip_range=2, unconditional_batch_timestep_skip_range=branch,
        attention_weight_callback=lambda _: 0.5, low_frequency_weight_callback=lambda _: 1.0,
        high_frequency_weight_callback=lambda _: 1.0, is_guidance_distilled=distilled,
        current_timestep_callback=lambda: pipe.current_timestep, tensor_format="BFCHW" if frames_first else "BCFHW",
    )  # fmt: skip


def _seacache(pipe: Any, n: int, strict: bool) -> Any:
    import diffusers

    return diffusers.SeaCacheConfig(threshold=0.0 if strict else 0.5)


def _ours(pipe: Any, n: int, strict: bool, *, method: str, loose: dict[str, Any], tight: dict[str, Any]) -> None:
    from videoaccel.generation.accelerate import accelerate

    accelerate(pipe, method, **(tight if strict else loose))


def _of_diffusers(config: Callable[[Any, int, bool], Any]) -> PutOn:
    return functools.partial(_diffusers, config)


MEASURED: dict[str, Any] = {"calibrate": 1}
OURS: tuple[tuple[str, dict[str, Any], dict[str, Any]], ...] = (
    ("soda", {"speedup": 2.0, **MEASURED}, {"speedup": 1.0, **MEASURED}),
    ("sada", {}, {"threshold": 1e-30}),
    ("fixed_linear", {}, {"period": 1}),
    ("fora", {}, {"period": 1}),
    ("taylorseer", {}, {"warmup": 1000}),
    ("first_block", {"threshold": 0.5}, {"threshold": 0.0}),
    ("teacache", {"threshold": 0.5, **MEASURED}, {"threshold": 0.0, **MEASURED}),
    ("adacache", MEASURED, {"fastest": 1, **MEASURED}),
    ("magcache", MEASURED, {"warmup": 0.99, **MEASURED}),
)
"""Of this project, loosely and strictly. ``lemica`` has a budget and no strict form."""

TOOLS: tuple[Tool, ...] = (
    Tool("DBCache", "cache-dit", _cache_dit, lambda i, n: i >= warmup(n)),
    Tool("DBCache + TaylorSeer", "cache-dit", functools.partial(_cache_dit, taylor=True), lambda i, n: i >= warmup(n)),
    Tool("step mask", "cache-dit", functools.partial(_cache_dit, masked=True), lambda i, n: i >= n or not mask(n)[i]),
    Tool("FirstBlockCache", "diffusers", _of_diffusers(_first_block)),
    Tool("TaylorSeer", "diffusers", _of_diffusers(_taylorseer), lambda i, n: i >= warmup(n)),
    Tool("MagCache", "diffusers", _of_diffusers(_magcache), lambda i, n: i >= int(0.2 * n)),
    Tool("PAB", "diffusers", _of_diffusers(_pab)),
    Tool("FasterCache", "diffusers", _of_diffusers(_fastercache)),
    Tool("SeaCache", "diffusers", _of_diffusers(_seacache)),
    *(
        Tool(
            name,
            "videoaccel",
            functools.partial(_ours, method=name, loose=loose, tight=tight),
            before="calibrate" in tight,
        )
        for name, loose, tight in OURS
    ),
)
