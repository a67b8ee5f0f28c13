"""How long a pipeline's denoising loop takes, and what latents it ends with: seen at its schedulers alone.

It is the same for a plain run as for an accelerated one, and no network is touched.
"""

import threading
import time
from collections.abc import Mapping
from types import TracebackType
from typing import Any

import torch
from torch import Tensor
from typing_extensions import Self

from videoaccel.adapters.attach import schedulers_of
from videoaccel.adapters.doors import Plain, scheduler_members
from videoaccel.adapters.swap import unwatch, watch


class LoopClock:
    """A context around calls of a pipeline; to be entered before anything is attached, so that all of that counts.

    Args:
        pipe: The pipeline.
        device: Where it works.

    Attributes:
        latents: Of every scheduler that stepped, the last result.
    """

    def __init__(self, pipe: Any, device: torch.device) -> None:
        self._schedulers, self._device = schedulers_of(pipe), device
        self._thread = threading.get_ident()
        self._first: Any = None
        self._last: Any = None
        self._results: dict[int, Any] = {}

    def __enter__(self) -> Self:
        for scheduler in self._schedulers:
            watch(scheduler, self, scheduler_members)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for scheduler in self._schedulers:
            unwatch(scheduler, self)

    @property
    def open(self) -> bool:
        """Whether this thread is the one that is timed."""
        return self._thread == threading.get_ident()

    @property
    def seconds(self) -> float | None:
        """From the schedulers' first timesteps to their last step; None if there was none."""
        if self._first is None or self._last is None:
            return None
        if self._device.type == "cuda":
            self._last.synchronize()
            return float(self._first.elapsed_time(self._last)) / 1000
        return float(self._last - self._first)

    @property
    def latents(self) -> list[Tensor]:
        """See the class."""
        return [result for result in self._results.values() if isinstance(result, Tensor)]

    def scheduled(self, scheduler: Any) -> None:
        """See :class:`videoaccel.adapters.doors.Listener`."""
        if self._first is None:
            self._first = self._now()

    def stepped(self, scheduler: Any, plain: Plain, given: Mapping[str, Any]) -> Any:
        """See :class:`videoaccel.adapters.doors.Listener`."""
        result = plain()
        self._last = self._now()
        self._results[id(scheduler)] = result[0] if isinstance(result, tuple) else getattr(result, "prev_sample", None)
        return result

    def _now(self) -> Any:
        if self._device.type != "cuda":
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event
