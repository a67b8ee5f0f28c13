"""Seconds spent in calls, without waiting for a GPU after each of them."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor


class CallClock:
    """Adds up the time of calls: by the clock on a CPU, by events on the stream of a GPU."""

    def __init__(self) -> None:
        self._seconds = 0.0
        self._events: list[tuple[Any, Any]] = []

    @contextmanager
    def call(self, near: Tensor | None) -> Iterator[None]:
        """Time a block that works on the device of a tensor."""
        if near is not None and near.is_cuda:
            first, last = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
            first.record()
            try:
                yield
            finally:
                last.record()
                self._events.append((first, last))
            return
        start = time.perf_counter()
        try:
            yield
        finally:
            self._seconds += time.perf_counter() - start

    @property
    def seconds(self) -> float:
        """So far; waits for the device."""
        for first, last in self._events:
            last.synchronize()
            self._seconds += first.elapsed_time(last) / 1000
        self._events = []
        return self._seconds
