"""Turning acceleration on from Python."""

from pathlib import Path
from typing import Any, Protocol, TypeVar

from videoaccel.policy import Policy
from videoaccel.prior import Prior
from videoaccel.registry import make_policy


class Accelerated(Protocol):
    """What :func:`accelerate` sets; :class:`videoaccel.VideoPipeline` has it."""

    policy: Policy | None
    prior: Prior | None
    foreign_prior: bool


P = TypeVar("P", bound=Accelerated)


def accelerate(
    pipe: P,
    method: str | None,
    *,
    prior: Prior | str | Path | None = None,
    foreign_prior: bool = False,
    **fields: Any,
) -> P:
    """Accelerate all that a pipeline generates from now on.

    Args:
        pipe: The pipeline.
        method: Name of a method (see :func:`videoaccel.registry.policy_names`); None turns acceleration off.
        prior: Calibrated errors, or their file; default those found for the model and setting.
        foreign_prior: Take a prior made for other steps, size, frames, guidance or type.
        **fields: Fields of the method, such as ``speedup=2.0`` for ``soda``.

    Returns:
        The same pipeline.

    Raises:
        ValueError: There is no such method or field, a value is out of range, or the pipeline takes no method.
        FileNotFoundError: The prior's file is not there.
    """
    if missing := [name for name in Accelerated.__annotations__ if not hasattr(pipe, name)]:
        raise ValueError(f"{type(pipe).__name__} takes no acceleration: it has no {missing[0]}; VideoPipeline does")
    policy = None if method is None else make_policy(method, **fields)
    if policy is None and (fields or prior is not None or foreign_prior):
        raise ValueError("without a method there is nothing for fields or a prior to change")
    loaded = Prior.load(prior) if isinstance(prior, str | Path) else prior
    pipe.policy, pipe.prior, pipe.foreign_prior = policy, loaded, foreign_prior
    return pipe
