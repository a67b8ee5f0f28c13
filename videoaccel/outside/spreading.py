"""One clip of a pipeline of diffusers over several ranks, by diffusers' own context parallelism (Ulysses).

Every rank holds the whole pipeline and runs the whole call with the same random numbers; of the denoisers each computes
a part of the tokens, and has the whole output afterwards. Decisions of methods are agreed upon
(:mod:`videoaccel.adapters.agreement`).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.distributed.device_mesh import init_device_mesh

from videoaccel.adapters.attach import NETWORKS, networks_of
from videoaccel.adapters.swap import original
from videoaccel.outside.find import Found

MASKED = ("LTXVideoTransformer3DModel", "LTX2VideoTransformer3DModel")
"""Networks whose plan does not hold in diffusers 0.42.1: their text's mask is laid out for all heads, of which a rank
has a part. Another diffusers is tried."""

REASON = "diffusers cannot spread it over ranks: its class has no plan of what to split"


def require_plans(found: Found, kind: type) -> None:
    """Make sure that denoisers can be spread, as far as a pipeline's index tells.

    Raises:
        ValueError: One cannot.
    """
    if (reason := why_alone(found, kind)) is not None:
        raise ValueError(_refusal(reason))


def why_alone(found: Found, kind: type) -> str | None:
    """Why a pipeline's denoisers cannot be spread, as far as its index tells; None if they may be."""
    import diffusers

    for name in NETWORKS:
        part = found.index.get(name)
        if isinstance(part, list) and isinstance(part[-1], str):
            network = getattr(diffusers, part[-1], None)
            if isinstance(network, type) and (reason := _reason(kind.__name__, name, network)) is not None:
                return reason
    return None


def spread(pipe: Any, ranks: int, device: torch.device) -> None:
    """Have so many ranks, all that there are, share the work of a pipeline's denoisers.

    Raises:
        ValueError: One of these cannot be spread.
    """
    from diffusers import ContextParallelConfig

    networks = networks_of(pipe)
    for name, network in networks.items():
        if (reason := _reason(type(pipe).__name__, name, original(type(network)))) is not None:
            raise ValueError(_refusal(reason))
    mesh = init_device_mesh(device.type, (1, ranks), mesh_dim_names=("ring", "ulysses"))
    for network in networks.values():
        # Any number of tokens and heads, whether or not they divide evenly.
        config = ContextParallelConfig(ulysses_degree=ranks, ulysses_anything=True, mesh=mesh)
        with _counted_devices():
            _enable(network, config)


def _reason(kind: str, name: str, network: type) -> str | None:
    """Why a network cannot be spread; None if it may be."""
    import diffusers

    which = f"the {name} of a {kind} is a {network.__name__}, and"
    if getattr(network, "_cp_plan", None) is None:
        return f"{which} {REASON}"
    if network.__name__ in MASKED and diffusers.__version__ == "0.42.1":
        return f"{which} diffusers 0.42.1 gives each rank a mask of all heads, which does not fit"
    return None


def _refusal(reason: str) -> str:
    return f"`sp` and `gpus` have no place here: {reason}; videoaccel render makes clips side by side"


def _enable(network: nn.Module, config: Any) -> None:
    enable: Any = network.enable_parallelism
    enable(config=config)


@contextmanager
def _counted_devices() -> Iterator[None]:
    """Diffusers takes a rank's number modulo the number of accelerators, also where there are CPUs alone."""
    count = torch.accelerator.device_count
    if count():
        yield
        return
    torch.accelerator.device_count = lambda: 1
    try:
        yield
    finally:
        torch.accelerator.device_count = count
