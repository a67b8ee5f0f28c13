"""What a generation would do, by whatever model: the public ``plan``."""

from collections.abc import Mapping
from typing import Any, overload

from videoaccel.common.stages import Listener
from videoaccel.generation.pipeline import VideoPipeline
from videoaccel.outside.find import find_outside
from videoaccel.planning.plan_report import PlanReport
from videoaccel.preview import preview
from videoaccel.preview.outside import plan_outside, plan_pipeline
from videoaccel.preview.outside_plan import OutsidePlan
from videoaccel.settings.generate import GenerateSettings


@overload
def plan(
    settings: GenerateSettings,
    *,
    time: bool = True,
    listener: Listener | None = None,
    pipe: VideoPipeline | None = None,
) -> PlanReport | OutsidePlan: ...


@overload
def plan(settings: Any, method: str, *, call: Mapping[str, Any], **asked: Any) -> OutsidePlan: ...


def plan(
    settings: GenerateSettings | Any,
    method: str | None = None,
    *,
    call: Mapping[str, Any] | None = None,
    time: bool = True,
    listener: Listener | None = None,
    pipe: VideoPipeline | None = None,
    **asked: Any,
) -> PlanReport | OutsidePlan:
    """Show what a generation would do.

    Args:
        settings: Those of the generation, by whatever model; a prompt is not needed. Or a pipeline of diffusers that is
            loaded, of which the other arguments tell the rest.
        method: Of that pipeline, the method.
        call: Arguments of its call by name.
        time: Of our own models, measure milliseconds, too, once on this machine.
        listener: Told of the stages ``load``, ``plan`` and ``time``.
        pipe: Our own model, if it is loaded already.
        **asked: Of that pipeline, ``prior``, ``foreign_prior``, ``of`` and fields of the method, as of
            :func:`videoaccel.accelerate`.

    Returns:
        The plan, which ``print`` shows in lines; :class:`videoaccel.preview.outside_plan.OutsidePlan` of a pipeline of
        diffusers.

    Raises:
        ValueError: No method is named, its errors were not measured, or its target cannot be reached.
    """
    if isinstance(settings, GenerateSettings):
        given = [name for name, value in {"method": method, "call": call, **asked}.items() if value is not None]
        if given:
            raise ValueError(f"{given[0]} is for a pipeline of diffusers that is loaded; settings say their own")
        if (found := find_outside(settings)) is not None:
            return plan_outside(settings, found, listener=listener)
        return preview.plan(settings, time=time, listener=listener, pipe=pipe)
    if method is None or call is None:
        raise ValueError("a pipeline is planned for a method and a call: plan(pipe, 'soda', speedup=2, call={...})")
    return plan_pipeline(settings, method, call, **asked)
