"""Whether there can be calibrated tables for a job at all, said before text is encoded."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

from torch import nn

from videoaccel.common.home import expand
from videoaccel.jobs.parts import load_pipeline
from videoaccel.jobs.resolve import WorkOrder
from videoaccel.planning.prior import setting_of
from videoaccel.planning.shelf import advice, settings_on_shelf
from videoaccel.settings.tensor_heads import PRIOR, check_format


def check_tables(order: WorkOrder) -> None:
    """Make sure that a method which needs a prior, and is given none, may find one: of such clips, whatever the model.

    Whether it is the model's own is seen once that is loaded.

    Raises:
        ValueError: There is none; says which is the nearest of the model.
    """
    s, policy = order.settings, order.policy
    if policy is None or not policy.required or s.prior or s.allow_foreign_prior or s.edit is not None:
        return
    assert s.steps is not None and isinstance(s.frames, int) and s.guidance is not None
    size = (order.height, order.width)
    wanted: dict[str, Any] = {
        "steps": s.steps, "size": list(size), "frames": s.frames, "guidance": float(s.guidance),
    }  # fmt: skip
    found = settings_on_shelf()
    if any(all(one.get(name) == value for name, value in wanted.items()) for one in found):
        return
    nearest = ""
    if found:  # the network says which of them are its own; that it is loaded for nothing costs less than text would
        pipe = load_pipeline(order)
        model = cast(nn.Module, pipe.transformer)
        setting = setting_of(model, pipe.scheduler, steps=s.steps, size=size, frames=s.frames, guidance=s.guidance)
        nearest = advice(setting)
    raise ValueError(
        f"{policy.name} needs calibrated tables, which are not there for this model and setting; videoaccel calibrate "
        f"measures them{nearest}{beside_model(s.model, wanted)}"
    )


def beside_model(model: str, wanted: Mapping[str, Any]) -> str:
    """That a prior lies beside a model's folder by its name, and in what it differs; empty if none does.

    It is not taken unasked: a clip's sidecar names what it was made with, and what lies there may be another's.
    """
    folder = expand(model)
    if folder.name in ("", ".."):
        folder = folder.resolve()
    path = folder.with_name(f"{folder.name}-prior.safetensors") if folder.name else folder
    if not folder.is_dir() or not path.is_file():
        return ""
    try:
        made_for = check_format(path, PRIOR, what="no prior").get("setting") or {}
    except (OSError, ValueError):
        return ""
    names = ("steps", "size", "frames", "guidance")
    other = [f"{name} {made_for.get(name)}" for name in names if made_for.get(name) != wanted.get(name)]
    return f"; `prior={path}` takes the one that lies beside the model" + (f", of {', '.join(other)}" if other else "")
