"""How each tool is put on a pipeline of a trained model, and at which values of its knob: those that span 1.5x to 3x.

Diffusers' DiT and PixArt have no ``enable_cache``; what comes of asking is an attempt in the record. Its methods are
run all the same: the class is joined with ``CacheMixin``, its cache context is opened around the call, and the timestep
that some of them ask the pipeline for is read off the network's call.
"""

import ast
import contextlib
import functools
import io
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from videoaccel.comparison.settings import Setting
from videoaccel.generation.accelerate import accelerate

MODULES = r"transformer_blocks\.\d+\.(attn1|attn2|ff)"
"""What diffusers' TaylorSeer forecasts, as its paper does; by default it matches no module of these networks."""

CONFIGS = (
    "TaylorSeerCacheConfig", "FirstBlockCacheConfig", "MagCacheConfig", "PyramidAttentionBroadcastConfig",
    "FasterCacheConfig",
)  # fmt: skip


@dataclass(frozen=True)
class Knowledge:
    """What was found out about a model before any method runs.

    Attributes:
        steps: Of its sampling.
        prior: The file that ``videoaccel.calibrate`` wrote.
        ratios: What diffusers' MagCache printed when it calibrated.
    """

    steps: int
    prior: Path | None = None
    ratios: Sequence[float] = ()


@dataclass(frozen=True)
class Way:
    """One tool at one value of its knob.

    Attributes:
        tool: ``cache-dit``, ``diffusers`` or ``videoaccel``.
        method: As in the table.
        name: The knob and its value.
        on: Puts it on a pipeline for as long as the context is open.
    """

    tool: str
    method: str
    name: str
    on: Callable[[Any], AbstractContextManager[None]] = field(compare=False)

    @property
    def setting(self) -> Setting:
        """As tables of comparisons know it."""
        return Setting(self.method, self.name)


def ways(known: Knowledge) -> list[Way]:
    """All tools at all values."""
    return [*_of_cache_dit(known.steps), *_of_diffusers(known), *_of_ours(known)]


# cache-dit ---------------------------------------------------------------------------------------------------------


def _of_cache_dit(steps: int) -> list[Way]:
    found = []
    for taylor in (False, True):
        with_taylor = " + TaylorSeer" if taylor else ""
        for threshold in (0.03, 0.06, 0.12, 0.24, 0.5):
            on = functools.partial(dbcache, steps=steps, taylor=taylor, threshold=threshold)
            found.append(Way("cache-dit", f"DBCache{with_taylor}", f"threshold={threshold:g}", on))
        for policy in ("slow", "medium", "fast", "ultra"):
            on = functools.partial(dbcache, steps=steps, taylor=taylor, policy=policy)
            found.append(Way("cache-dit", f"DBCache, step mask{with_taylor}", f"policy={policy}", on))
    return found


@contextmanager
def dbcache(
    pipe: Any, *, steps: int, taylor: bool = False, threshold: float | None = None, policy: str | None = None
) -> Iterator[None]:
    """DBCache by a threshold of the first block's residual after a fifth of the steps, or by one of its step masks."""
    import cache_dit

    fields: dict[str, Any] = {"Fn_compute_blocks": 1, "max_warmup_steps": max(2, steps // 5)}
    if policy is not None:
        mask = cache_dit.steps_mask(mask_policy=policy, total_steps=steps)
        fields |= {"steps_computation_mask": mask, "steps_computation_policy": "static", "num_inference_steps": steps}
    else:
        fields |= {"residual_diff_threshold": threshold}
    calibrator = cache_dit.TaylorSeerCalibratorConfig(taylorseer_order=1) if taylor else None
    cache_dit.enable_cache(pipe, cache_config=cache_dit.DBCacheConfig(**fields), calibrator_config=calibrator)
    try:
        yield
    finally:
        cache_dit.disable_cache(pipe)


# diffusers ---------------------------------------------------------------------------------------------------------


def _of_diffusers(known: Knowledge) -> list[Way]:
    found = []
    sweeps: dict[str, tuple[str, Sequence[float], Callable[..., Any]]] = {
        "TaylorSeerCache": ("interval", (2, 3, 4, 5), _taylorseer),
        "FirstBlockCache": ("threshold", (0.03, 0.08, 0.2, 0.5), _first_block),
        "MagCache": ("threshold", (0.03, 0.06, 0.12, 0.3), functools.partial(_magcache, known=known)),
        "PyramidAttentionBroadcast": ("range", (2, 3, 4, 6), _pyramid),
        "FasterCache": ("range", (2, 3, 4, 5), _faster),
    }
    for method, (knob, values, config) in sweeps.items():
        for value in values:
            on = functools.partial(mixed_in, config=functools.partial(config, value))
            found.append(Way("diffusers", method, f"{knob}={value:g}", on))
    return found


@contextmanager
def mixed_in(pipe: Any, config: Callable[[Callable[[], float]], Any]) -> Iterator[None]:
    """A cache of diffusers on a network whose class has none, see the top of the file."""
    from diffusers.models.cache_utils import CacheMixin

    network, seen = pipe.transformer, {"timestep": 0.0}
    plain = type(network)

    def look(module: Any, args: Any, kwargs: Any) -> None:
        told = kwargs.get("timestep", args[1] if len(args) > 1 else None)
        seen["timestep"] = float(torch.as_tensor(told).flatten()[0])

    hook = network.register_forward_pre_hook(look, with_kwargs=True)
    network.__class__ = type(plain.__name__, (plain, CacheMixin), {"__module__": plain.__module__})
    try:
        network.enable_cache(config(lambda: seen["timestep"]))
        try:
            with network.cache_context("both"):
                yield
        finally:
            network.disable_cache()
    finally:
        hook.remove()
        network.__class__ = plain


def attempts(pipe: Any) -> dict[str, str]:
    """What comes of ``enable_cache`` on the network as it is, by the name of the configuration."""
    found = {}
    for name in CONFIGS:
        try:
            pipe.transformer.enable_cache(_example(name))
        except Exception as error:
            found[name] = f"{type(error).__name__}: {error}"
        else:
            pipe.transformer.disable_cache()
            found[name] = "enabled"
    return found


def magnitudes(pipe: Any, generate: Callable[[], Any], *, steps: int) -> list[float]:
    """What diffusers' MagCache prints while it calibrates on one generation."""
    import diffusers

    told = io.StringIO()
    config = diffusers.MagCacheConfig(num_inference_steps=steps, calibrate=True)
    with contextlib.redirect_stdout(told), mixed_in(pipe, lambda _: config):
        generate()
    lines = [line for line in told.getvalue().splitlines() if line.startswith("[")]
    if not lines:
        raise ValueError("diffusers' MagCache printed no ratios; its calibration may have changed")
    return [float(value) for value in ast.literal_eval(lines[-1])]


def _example(name: str) -> Any:
    import diffusers

    needed = {"MagCacheConfig": {"mag_ratios": [1.0] * 10}}
    return getattr(diffusers, name)(**needed.get(name, {}))


def _taylorseer(interval: float, timestep: Callable[[], float]) -> Any:
    import diffusers

    return diffusers.TaylorSeerCacheConfig(
        cache_interval=int(interval), disable_cache_before_step=3, max_order=1, taylor_factors_dtype=torch.float32,
        cache_identifiers=[MODULES],
    )  # fmt: skip


def _first_block(threshold: float, timestep: Callable[[], float]) -> Any:
    import diffusers

    return diffusers.FirstBlockCacheConfig(threshold=threshold)


def _magcache(threshold: float, timestep: Callable[[], float], *, known: Knowledge) -> Any:
    import diffusers

    return diffusers.MagCacheConfig(
        threshold=threshold, max_skip_steps=5, num_inference_steps=known.steps, mag_ratios=list(known.ratios)
    )


def _pyramid(every: float, timestep: Callable[[], float]) -> Any:
    import diffusers

    return diffusers.PyramidAttentionBroadcastConfig(
        spatial_attention_block_skip_range=int(every), cross_attention_block_skip_range=int(every),
        current_timestep_callback=timestep,
    )  # fmt: skip


def _faster(every: float, timestep: Callable[[], float]) -> Any:
    import diffusers

    return diffusers.FasterCacheConfig(
        unconditional_batch_skip_range=int(every), attention_weight_callback=lambda _: 0.5,
        current_timestep_callback=timestep,
    )  # fmt: skip


# ours --------------------------------------------------------------------------------------------------------------

RATIOS = (1.25, 1.5, 2.0, 2.5, 3.0, 3.75)
"""Of which the first and the last are there so that curves go on to 1.5x, which few numbers of calls leave exactly, and
to 3x by the clock."""

SWEEPS: dict[str, tuple[str, Sequence[float]]] = {
    "soda": ("flops_ratio", RATIOS),
    "sada": ("threshold", (0.05, 0.12, 0.35, 0.8)),
    "taylorseer": ("period", (2, 3, 4, 5)),
    "first_block": ("threshold", (0.05, 0.12, 0.3, 0.6)),
    "teacache": ("threshold", (0.1, 0.2, 0.5, 1.0)),
    "magcache": ("max_skips", (1, 2, 3, 5)),
    "fora": ("period", (2, 3, 4, 5)),
    "fixed_linear": ("period", (1.25, 1.5, 2, 2.5, 3)),
    "fewer_steps": ("share", (0.8, 0.66, 0.5, 0.4, 0.33)),
}
"""By method the knob and its values; LeMiCa's budgets are of the number of steps."""

MEASURED = ("soda", "teacache", "magcache", "lemica")
"""Methods that plan with the prior."""


def _of_ours(known: Knowledge) -> list[Way]:
    budgets = tuple(sorted({round(known.steps / ratio) for ratio in RATIOS}, reverse=True))
    return [
        Way(
            "videoaccel",
            method,
            f"{knob}={value:g}",
            functools.partial(ours, method=method, known=known, **{knob: value}),
        )
        for method, (knob, values) in {**SWEEPS, "lemica": ("budget", budgets)}.items()
        for value in values
    ]


@contextmanager
def ours(pipe: Any, *, method: str, known: Knowledge, **fields: Any) -> Iterator[None]:
    """A method of this project."""
    options = {"prior": known.prior, "calibrate": False} if method in MEASURED else {}
    with accelerate(pipe, method, **options, **fields):
        yield
