"""Whether there can be calibrated tables for a job at all, said before text is encoded."""

from __future__ import annotations

from typing import Any, cast

from torch import nn

from videoaccel.jobs.parts import load_pipeline
from videoaccel.jobs.resolve import WorkOrder
from videoaccel.planning.prior import advice, setting_of, settings_on_shelf


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
        f"measures them{nearest}"
    )
