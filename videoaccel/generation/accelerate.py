"""Turning acceleration on from Python."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol, get_args

from torch import Tensor

from videoaccel.adapters.attach import Attachment, attach, detach, networks_of, takes_attachments
from videoaccel.adapters.blocks import why_not
from videoaccel.adapters.curves import Plans, rule_of
from videoaccel.adapters.lessons import Lessons, MeasuredRule, Of
from videoaccel.adapters.methods import blind, plans, rule_from, rules_of, schedule_of, tables_of, watches_of
from videoaccel.adapters.pipeline_priors import check_kind
from videoaccel.adapters.rule import Computed, StepRule
from videoaccel.adapters.whole_call import check_of_all, schedule_of_all
from videoaccel.common.reading import parse_bytes
from videoaccel.common.user_warning import warn_user
from videoaccel.planning.prior import Prior, setting_of
from videoaccel.planning.shelf import find_prior
from videoaccel.session.policy import Policy
from videoaccel.session.registry import beside_file, make_policy, named_method, titled, told_by

CLIPS = 4
"""Generations that are measured where there is no prior."""


class Outside(NamedTuple):
    """What is asked for of a pipeline that is not ours, see :func:`accelerate`."""

    prior: Prior | str | Path | None
    foreign_prior: bool
    calibrate: bool | int
    of: Of
    title: str


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
    calibrate: bool | int = True,
    of: Of = "denoiser",
    **fields: Any,
) -> Any:
    """Accelerate all that a pipeline generates from now on.

    Args:
        pipe: A :class:`videoaccel.VideoPipeline`, for which all methods work, or a pipeline of diffusers, for which
            those of :func:`videoaccel.adapters.methods.available` do.
        method: Name of a method (see :func:`videoaccel.policy_names`) or of a configuration in the box, or a YAML file;
            None turns acceleration off.
        prior: Calibrated errors, or their file; default those found for the model and setting.
        foreign_prior: Take a prior made for other steps, size, frames, guidance or type.
        cache_memory: Bytes that stored values may take, such as 2**30 or "1GiB".
        calibrate: Of a pipeline of diffusers, and for methods that plan from measured errors: whether the first
            generations are computed whole and measured where there is no prior, or how many (4 unless given).
        of: Likewise, what ``speedup`` is of: the time of the ``denoiser``, or of ``all`` that a call takes.
        **fields: Fields of the method, such as ``speedup=2.0`` for ``soda``.

    Returns:
        The same pipeline; of a pipeline of diffusers an :class:`videoaccel.adapters.attach.Attachment`, whose
        ``remove`` puts everything back (None if ``method`` is).

    Raises:
        ValueError: There is no such method or field, a value is out of range, or the pipeline takes no method.
        FileNotFoundError: The prior's file is not there.
    """
    if isinstance(pipe, str | Path):
        raise ValueError(f"a pipeline that is loaded is accelerated, got the text {str(pipe)!r}; load it first")
    policy, title = None, ""
    if method is not None:
        name, of_file = named_method(method)
        title = titled(str(method), name)
        with told_by(method):
            policy = make_policy(name, **beside_file(of_file, fields))
    if policy is None and (fields or foreign_prior or prior is not None or cache_memory is not None):
        raise ValueError("without a method there is nothing for fields or a prior to change")
    if any(not hasattr(pipe, name) for name in Accelerated.__annotations__):
        if not takes_attachments(pipe):
            what = pipe.__name__ if isinstance(pipe, type) else type(pipe).__name__
            raise ValueError(f"{what} takes no acceleration; give a loaded VideoPipeline or pipeline of diffusers")
        if cache_memory is not None:
            raise ValueError("cache_memory is for VideoPipeline; here a few outputs of the network are kept")
        return _attached(pipe, policy, Outside(prior, foreign_prior, calibrate, of, title))
    if of != "denoiser" or calibrate is not True:
        raise ValueError("of and calibrate are for pipelines of diffusers; here videoaccel.calibrate measures, once")
    loaded = Prior.given(prior)
    limit = None if cache_memory is None else parse_bytes(cache_memory)
    if policy is not None:
        _warn_at_once(pipe, policy, loaded)
    pipe.policy, pipe.prior, pipe.foreign_prior, pipe.cache_memory = policy, loaded, foreign_prior, limit
    return pipe


def _warn_at_once(pipe: Any, policy: Policy, given: Prior | None) -> None:
    """Say now, not in the first call, that a target is out of reach, if the prior for the pipeline's defaults knows."""
    if not policy.required:
        return
    d = pipe.defaults
    size: dict[str, Any] = {"size": (d.height, d.width), "frames": d.num_frames, "guidance": d.guidance}
    setting = setting_of(pipe.transformer, pipe.scheduler, steps=d.steps, **size)
    prior = find_prior(setting) if given is None else given
    if prior is None or prior.differences(setting):  # calls may be of another setting, for which there is one
        return
    try:
        policy.check_tables(prior.tables, steps=d.steps)
    except ValueError as error:
        text = f"{policy.name} cannot do this with the pipeline's own {d.steps} steps: {error}"
        warn_user(text)


def _attached(pipe: Any, policy: Policy | None, asked: Outside) -> Attachment | None:
    if policy is None:
        detach(pipe)
        return None
    _check_blocks(pipe, policy)
    if not plans(policy):
        if asked.prior is not None or asked.foreign_prior:
            raise ValueError(f"{policy.name} uses no prior on a pipeline that is not ours")
        if asked.of != "denoiser":
            raise ValueError(f"{policy.name} has no target whose time could be of anything")
        if not isinstance(asked.calibrate, bool):
            raise ValueError(f"{policy.name} measures nothing first; leave calibrate={asked.calibrate!r} out")
        return attach(pipe, rules_of(policy), method=asked.title)
    if asked.of not in get_args(Of):
        raise ValueError(f"a speed-up is of {' or '.join(get_args(Of))}, got of={asked.of!r}")
    if not isinstance(asked.calibrate, int):
        raise ValueError(f"calibrate is a number of generations, or whether there are any, got {asked.calibrate!r}")
    clips = asked.calibrate if not isinstance(asked.calibrate, bool) else CLIPS * asked.calibrate
    if clips < 0:
        raise ValueError(f"calibrate is a number of generations, or whether there are any, got {asked.calibrate}")
    if whole := asked.of == "all":
        check_of_all(policy)
    prior = Prior.given(asked.prior)
    if prior is not None:
        check_kind(prior)
    lessons = Lessons(
        pipe,
        _measured_rule(policy, whole=whole),
        prior=prior,
        foreign=asked.foreign_prior,
        clips=clips,
        needs_share=whole,
        watches=watches_of(policy),
        needs=tables_of(policy),
    )
    return attach(pipe, lessons, method=asked.title, observers=[lessons.meter])


def _check_blocks(pipe: Any, policy: Policy) -> None:
    """Refuse a method that looks for networks' blocks where there are none that can be told."""
    bodies = getattr(policy, "residual", None) == "body"
    networks = networks_of(pipe) if bodies or watches_of(policy) else {}
    for name, network in networks.items():
        if (reason := why_not(network)) and bodies:
            raise ValueError(
                f"{policy.name} forecasts what blocks add, and {name} {reason}; `residual=output` forecasts its output"
            )
        if reason:
            raise ValueError(
                f"{policy.name} decides by what blocks do, and {name} {reason}; on this pipeline these can be had: "
                f"{', '.join(blind())}"
            )


def _measured_rule(policy: Policy, *, whole: bool) -> MeasuredRule:
    """How a method makes rules from what was measured; what is wrong with its fields is said now."""
    adaptive = rule_from(policy)
    if adaptive is None:
        schedule_of(policy)

    def make(share: float | None, tables: Mapping[str, Tensor], names: Sequence[str], known: Plans) -> StepRule:
        try:
            if adaptive is not None:
                return adaptive(tables)
            schedule = schedule_of(policy) if share is None or not whole else schedule_of_all(policy, share)
        except ValueError as error:
            return Computed(str(error))
        return rule_of(schedule, tables, names, plans=known)

    return make
