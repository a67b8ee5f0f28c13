"""The schedules by name, and one made of another."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from videoaccel.models.config_limits import check_config
from videoaccel.sampling.ddim import DDIMSchedule
from videoaccel.sampling.rectified_flow import RectifiedFlowScheduler
from videoaccel.sampling.solvers import DDPMSchedule, DPMSolverSchedule, LCMSchedule

SCHEDULES: Mapping[str, Any] = MappingProxyType(
    {
        "rectified_flow": RectifiedFlowScheduler,
        "ddim": DDIMSchedule,
        "ddpm": DDPMSchedule,
        "dpm_solver": DPMSolverSchedule,
        "lcm": LCMSchedule,
    }
)

THEIRS: Mapping[str, str] = MappingProxyType(
    {
        "DDIMScheduler": "ddim",
        "DDPMScheduler": "ddpm",
        "DPMSolverMultistepScheduler": "dpm_solver",
        "LCMScheduler": "lcm",
    }
)
"""diffusers' classes, whose files are read."""


def kind_named(name: str | None) -> str | None:
    """The schedule that is read from files of a class, ours or diffusers'; None if it is none."""
    ours = {kind.__name__: key for key, kind in SCHEDULES.items()}
    return {**THEIRS, **ours}.get(name or "")


def with_fields(kind: Any, saved: Mapping[str, Any], fields: Mapping[str, Any]) -> Any:
    """A schedule with some fields replaced; the field ``kind`` makes another schedule of it, for the same network.

    Args:
        kind: Its class.
        saved: Its fields.
        fields: Those to replace.

    Raises:
        ValueError: There is no such field or kind, or a value makes no sense.
    """
    told = dict(fields)
    check_config({**saved, **told}, source="the scheduler")
    name = told.pop("kind", None)
    if name is None or SCHEDULES.get(name) is kind:
        return kind.from_config({**saved, **told})
    if name not in SCHEDULES:
        raise ValueError(f"no schedule is called {name!r}; there are {', '.join(SCHEDULES)}")
    shared = SCHEDULES[name]._get_init_keys(SCHEDULES[name]) & kind._get_init_keys(kind)
    kept = {key: value for key, value in saved.items() if key in shared and key != "variance_type"}
    return SCHEDULES[name].from_config({**kept, **told})
