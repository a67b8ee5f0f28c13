"""Turning acceleration on from Python."""

from pathlib import Path
from typing import Any, Protocol

from videoaccel.adapters.attach import attach, denoisers, detach
from videoaccel.common.reading import parse_bytes
from videoaccel.planning.prior import Prior
from videoaccel.policies.sada import Sada
from videoaccel.session.policy import Policy
from videoaccel.session.registry import beside_file, make_policy, named_method


class Accelerated(Protocol):
    """What :func:`accelerate` sets; :class:`videoaccel.VideoPipeline` has it."""

    policy: Policy | None
    prior: Prior | None
    foreign_prior: bool
    cache_memory: int | None


def accelerate(
    pipe: Any,
    method: str | None,
    *,
    prior: Prior | str | Path | None = None,
    foreign_prior: bool = False,
    cache_memory: int | str | None = None,
    guidance_scale: float | None = None,
    **fields: Any,
) -> Any:
    """Accelerate all that a pipeline generates from now on.

    Args:
        pipe: A :class:`videoaccel.VideoPipeline`, for which all methods work, or a pipeline of diffusers, for which
            ``sada`` does.
        method: Name of a method (see :func:`videoaccel.policy_names`) or of a configuration in the box, or a YAML file;
            None turns acceleration off.
        prior: Calibrated errors, or their file; default those found for the model and setting.
        foreign_prior: Take a prior made for other steps, size, frames, guidance or type.
        cache_memory: Bytes that stored values may take, such as 2**30 or "1GiB".
        guidance_scale: Of a pipeline of diffusers that does not keep its guidance scale, the one you generate with.
        **fields: Fields of the method, such as ``speedup=2.0`` for ``soda``.

    Returns:
        The same pipeline; of a pipeline of diffusers an :class:`videoaccel.adapters.attach.Attached`, whose ``remove``
        puts everything back (None if ``method`` is).

    Raises:
        ValueError: There is no such method or field, a value is out of range, or the pipeline takes no method.
        FileNotFoundError: The prior's file is not there.
    """
    policy = None
    if method is not None:
        name, of_file = named_method(method)
        policy = make_policy(name, **beside_file(of_file, fields))
    others = (prior, cache_memory, guidance_scale)
    if policy is None and (fields or foreign_prior or any(other is not None for other in others)):
        raise ValueError("without a method there is nothing for fields or a prior to change")
    if missing := [name for name in Accelerated.__annotations__ if not hasattr(pipe, name)]:
        if not denoisers(pipe):
            raise ValueError(f"{type(pipe).__name__} takes no acceleration: it has no {missing[0]}; VideoPipeline does")
        if cache_memory is not None:
            raise ValueError("cache_memory is for VideoPipeline; sada keeps a few predictions of what diffusers runs")
        return _outside(pipe, policy, guidance_scale=guidance_scale, uses_prior=prior is not None or foreign_prior)
    if guidance_scale is not None:
        raise ValueError("guidance_scale is for pipelines of diffusers; this one is told when it generates")
    loaded = Prior.load(prior) if isinstance(prior, str | Path) else prior
    limit = None if cache_memory is None else parse_bytes(cache_memory)
    pipe.policy, pipe.prior, pipe.foreign_prior, pipe.cache_memory = policy, loaded, foreign_prior, limit
    return pipe


def _outside(pipe: Any, policy: Policy | None, *, guidance_scale: float | None, uses_prior: bool) -> Any:
    if policy is None:
        return detach(pipe)
    if not isinstance(policy, Sada):
        raise ValueError(f"{policy.name} is for VideoPipeline; of {type(pipe).__name__} only sada can be told")
    if uses_prior:
        raise ValueError("sada uses no prior")
    return attach(pipe, policy, guidance_scale=guidance_scale)
