"""How the ranks that were started, or are to be, share the work of some settings."""

from __future__ import annotations

import torch

from videoaccel.common.wording import counted
from videoaccel.parallel.degrees import Degrees, choose_degrees, why_these
from videoaccel.parallel.mesh import local_ranks, ranks_here
from videoaccel.parallel.providers import find_provider
from videoaccel.parallel.schemes import choose_scheme
from videoaccel.session.policy import Policy
from videoaccel.settings.generate import GenerateSettings


def choose_ranks(s: GenerateSettings, policy: Policy | None) -> Degrees:
    """How the ranks share the work: those that were started, or are to be.

    Raises:
        ValueError: The degrees do not fit their number, or the device has no room for them.
    """
    started = ranks_here()
    if started > 1 and s.gpus not in (None, started):
        raise ValueError(f"`gpus={s.gpus}` was asked for, but {counted(started, 'rank')} were started; leave it out")
    ranks = started if started > 1 else s.gpus or 1
    degrees = choose_degrees(ranks, data=s.dp, guidance=s.cfg_parallel, sequence=s.sp, whole=whole_guidance(s, policy))
    if ranks > 1:
        _check_devices(torch.device(str(s.device)), local_ranks(ranks))
        find_provider(s.provider)
    return degrees


def whole_guidance(s: GenerateSettings, policy: Policy | None) -> str | None:
    """Why guidance cannot be split over ranks; None if it can."""
    if s.guidance == 1:
        return "without guidance there is one branch only"
    if policy is not None and any(part.joins_branches for part in policy.parts):
        return f"{s.accel} needs both guidance branches on one rank"
    return None


def _check_devices(device: torch.device, ranks: int) -> None:
    """Make sure that every rank of this machine has a device."""
    if device.type == "mps":
        raise ValueError("ranks cannot share an mps device; use `device=cpu`")
    if device.index is not None:
        raise ValueError(f"every rank takes a GPU of its own: `device=cuda`, not {str(device)!r}")
    if device.type == "cuda" and ranks > (count := torch.cuda.device_count()):
        raise ValueError(f"{counted(ranks, 'rank')} on this machine, but it has {counted(count, 'GPU')}")


def why_ranks(s: GenerateSettings, policy: Policy | None, degrees: Degrees) -> str:
    """What the ranks do, in a sentence."""
    scheme = choose_scheme(s.sequence_parallel, frames=1 if s.frames == 1 else 2)
    return why_these(degrees, whole=whole_guidance(s, policy), scheme=scheme)
