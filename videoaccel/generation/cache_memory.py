"""How much memory a method's stored values take: foretold before a generation, and kept within a limit.

A limit is met in this order: the method as it is; its coarser forms, which store one residual where others store many;
fewer slots, that is, places without room are computed in every step. A method that promises a target takes no part in
the last.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, NamedTuple

import torch

from videoaccel.common.wording import as_bytes
from videoaccel.generation.rehearsal import CHANNELS, rehearse
from videoaccel.session.action_session import ActionSession
from videoaccel.session.actions import Place
from videoaccel.session.job import Job, Mix, local_mix
from videoaccel.session.policy import Policy, Session

SHARE = 0.8
"""Of what is free; a step's own tensors need the rest."""

MOST_TERMS = 3
"""Tensors of the stream's size that a method keeps of a module."""


class Foretold(NamedTuple):
    """What a method's session will hold.

    Attributes:
        peak: Most bytes after a step.
        slots: Most bytes of every slot, in the order in which they are filled.
    """

    peak: int
    slots: Mapping[Place, int]


def foretell(policy: Policy, job: Job, *, frames: int, width: int) -> Foretold:
    """Rehearse a method with no limit to its memory.

    Two small widths are rehearsed. What is stored is a stream, which grows with the width, or a velocity, which does
    not, so that two points give the line. A method that decides by what it sees decides on random numbers then.

    Args:
        policy: The method.
        job: The generation.
        frames: Token frames T.
        width: Channels C of the residual stream.
    """
    free = replace(job, cache_memory=None)
    sessions = [policy.session(free), policy.session(free)]
    for times, session in enumerate(sessions, start=1):
        rehearse(session, free, frames=frames, channels=times * CHANNELS)
    narrow, wide = sessions

    def at_width(low: int, high: int) -> int:
        return low + (high - low) * (width - CHANNELS) // CHANNELS

    slots = {}
    if isinstance(narrow, ActionSession) and isinstance(wide, ActionSession):
        slots = {place: at_width(low, wide.sizes[place]) for place, low in narrow.sizes.items()}
    return Foretold(at_width(narrow.peak_bytes, wide.peak_bytes), slots)


def spare(job: Job, free: int, *, frames: int, width: int) -> int | None:
    """What a method may store where nobody has said: None where nothing that it could store is too much.

    Args:
        job: The generation.
        free: Bytes of the device that are free.
        frames: Token frames T.
        width: Channels C of the residual stream.
    """
    modules = sum(map(len, job.blocks.values()))
    stream = job.rows * frames * job.places * width * job.dtype.itemsize
    limit = int(SHARE * free)
    return limit if MOST_TERMS * modules * stream > limit else None


def free_bytes(device: torch.device) -> int:
    """Bytes of a CUDA device that are free, those that PyTorch holds without using them included."""
    held = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return torch.cuda.mem_get_info(device)[0] + held


def free_on_gpu(device: torch.device) -> int | None:
    """`free_bytes`; None of a device that is no GPU."""
    return free_bytes(device) if device.type == "cuda" else None


def fit_here(
    policy: Policy, job: Job, *, device: torch.device, alone: bool, frames: int, width: int, mix: Mix = local_mix
) -> tuple[Session, int | None]:
    """The session of a method within the memory that was allowed; on a GPU, if nobody has said, within what is free.

    Args:
        policy: The method.
        job: The generation.
        device: Where it runs.
        alone: Whether it runs on one rank: of several each would find another number.
        frames: Token frames T.
        width: Channels C of the residual stream.
        mix: How tokens are mixed.

    Returns:
        The session, and the limit in bytes; None if there is none.

    Raises:
        ValueError: No form of the method keeps within it.
    """
    size = {"frames": frames, "width": width}
    free = free_on_gpu(device) if alone and job.cache_memory is None else None
    limit = None if free is None else spare(job, free, **size)
    if limit is None:
        return fit(policy, job, mix=mix, **size), job.cache_memory
    try:
        return fit(policy, replace(job, cache_memory=limit), mix=mix, **size), limit
    except ValueError as error:
        raise ValueError(f"{error}; that is four fifths of the memory that is free here") from None


def fit(policy: Policy, job: Job, *, frames: int, width: int, mix: Mix = local_mix) -> Session:
    """The session of a method; where the job has a limit, in the first form that keeps within it.

    Args:
        policy: The method.
        job: The generation.
        frames: Token frames T.
        width: Channels C of the residual stream.
        mix: How tokens are mixed.

    Raises:
        ValueError: No form keeps within the limit; names the least limit that would do.
    """
    form, foretold = policy, None
    if job.cache_memory is not None:
        form, foretold = _form_within(policy, job, job.cache_memory, frames=frames, width=width)
    session = form.session(job, mix=mix)
    session.made_by, session.foretold_bytes = form, foretold
    return session


def coarsened(asked: Policy, session: Session) -> dict[str, Any]:
    """Fields of a method that a limit has changed in its session, with their values there; none where none was."""
    asked_for, made = asked.model_dump(mode="json"), (session.made_by or asked).model_dump(mode="json")
    return {name: value for name, value in made.items() if value != asked_for.get(name)}


def _form_within(policy: Policy, job: Job, limit: int, *, frames: int, width: int) -> tuple[Policy, int]:
    """The form to use and its memory."""
    form, least = policy, None
    while True:
        found = foretell(form, job, frames=frames, width=width)
        if found.peak <= limit:
            return form, found.peak
        least = found.peak if least is None else min(least, found.peak)
        coarser = form.coarser()
        if coarser is None:
            break
        form = coarser
    if not any(part.all_or_nothing for part in policy.parts) and found.slots:
        if kept := _greedy(found.slots, limit):
            return form, kept
        least = min(found.slots.values())
    raise ValueError(
        f"{policy.name} stores at least {as_bytes(least)} here, which is more than "
        f"`cache_memory={as_bytes(limit)}` allows"
    )


def _greedy(slots: Mapping[Place, int], limit: int) -> int:
    """Bytes of the slots that find room, first come first served."""
    taken = 0
    for size in slots.values():
        taken += size if taken + size <= limit else 0
    return taken
