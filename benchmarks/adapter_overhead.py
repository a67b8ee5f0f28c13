"""What the adapter for pipelines of diffusers costs a call of the network when nothing is forecast.

Tiny pipelines whose network answers from a table at once, so that the loop around it is all there is: plain, with
``off``, and with a rule that keeps two outputs of every call but forecasts none. Runs are interleaved, differences
paired. ``share`` is of a call that takes 50 ms.
"""

import statistics
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from benchmarks.measure import interleaved, keep
from tests.adapters import image_pipes, video_pipes
from tests.adapters.tiny import Tiny
from videoaccel.adapters.attach import attach, detach
from videoaccel.adapters.periodic import Periodic
from videoaccel.generation.accelerate import accelerate

STEPS, ROUNDS, CALL_S = 40, 25, 0.05

PIPES: dict[str, Callable[[], Tiny]] = {
    "Wan": video_pipes.wan,
    "LTX-2": video_pipes.ltx_2,
    "Flux": image_pipes.flux,
    "Stable Diffusion": image_pipes.stable_diffusion,
}


def answering(network: Any) -> None:
    """Have a network answer from a table of what it said first for arguments of such shapes."""
    forward, told = network.forward, {}

    def look_up(*args: Any, **kwargs: Any) -> Any:
        shapes = tuple(tuple(x.shape) for x in (*args, *kwargs.values()) if isinstance(x, Tensor))
        if shapes not in told:
            told[shapes] = forward(*args, **kwargs)
        return told[shapes]

    network.forward = look_up


def microseconds(make: Callable[[], Tiny]) -> dict[str, float]:
    """By what is attached, the median of paired differences per call, in microseconds."""
    tiny = make()
    answering(getattr(tiny.pipe, "transformer", None) or tiny.pipe.unet)

    def plain() -> None:
        detach(tiny.pipe)
        tiny(steps=STEPS)

    def off() -> None:
        accelerate(tiny.pipe, "off")
        tiny(steps=STEPS)

    def keeping() -> None:
        attach(tiny.pipe, lambda: Periodic(lambda i, n: True, order=1), method="keeping")
        tiny(steps=STEPS)

    calls = {"off": off, "keeping two outputs": keeping}
    plain_s, *others = interleaved([plain, *calls.values()], rounds=ROUNDS)
    count = tiny.calls.total()
    return {
        name: statistics.median(a - b for a, b in zip(seconds, plain_s, strict=True)) / count * 1e6
        for name, seconds in zip(calls, others, strict=True)
    }


def main() -> None:
    """Measure and keep."""
    torch.set_num_threads(1)
    found = {name: microseconds(make) for name, make in PIPES.items()}
    worst = max(value for row in found.values() for value in row.values())
    keep("adapter_overhead", {"microseconds_per_call": found, "share": worst / 1e6 / CALL_S, "rounds": ROUNDS})


if __name__ == "__main__":
    main()
