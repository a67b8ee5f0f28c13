"""Where the time of a generation goes: stages with their seconds, peak memory and progress."""

import resource
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch

Listener = Callable[[str, int, int], None]
"""Told (stage, steps done, steps in all) at the start of a stage and after every step of it."""


class StageClock:
    """Times stages and tells a listener how far they are.

    Args:
        listener: Progress display; None is silent.
        device: Device to wait for before a time is taken.

    >>> clock = StageClock()
    >>> with clock.stage("denoise", total=2) as step:
    ...     step(); step()
    >>> list(clock.seconds)
    ['denoise']
    """

    def __init__(self, listener: Listener | None = None, *, device: torch.device | str = "cpu") -> None:
        self.listener, self.device = listener, torch.device(device)
        self.seconds: dict[str, float] = {}

    @contextmanager
    def stage(self, name: str, *, total: int = 1) -> Iterator[Callable[[], None]]:
        """Time a block; call what it yields after each of its ``total`` steps. Stages of one name add up."""
        done = 0

        def step() -> None:
            nonlocal done
            done += 1
            self._tell(name, done, total)

        self._tell(name, 0, total)
        start = self._now()
        try:
            yield step
        finally:
            self.seconds[name] = self.seconds.get(name, 0.0) + self._now() - start

    def _now(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter()

    def _tell(self, name: str, done: int, total: int) -> None:
        if self.listener is not None:
            self.listener(name, done, total)


def peak_memory(device: torch.device | str = "cpu") -> int:
    """Bytes: the most that was allocated on a CUDA device, or the largest resident size of this process."""
    device = torch.device(device)
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
