"""CUDA graphs of pieces of work, for :mod:`videoaccel.generation.graphs`.

All graphs of one recorder share a pool of memory: they run one after the other, and nothing but their result, which is
copied before the next runs, is read from it.
"""

import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import torch
from torch import Tensor

from videoaccel.common.wording import as_bytes
from videoaccel.generation.cache_memory import free_bytes
from videoaccel.generation.graphs import NO_CUDA, Asked, Graphs, why_not_recorded

WARM_UP = 2
"""Runs before one is recorded: kernels are compiled, loaded and chosen then, which a recording must not do."""

RUNS = 3
"""That a time is the best of."""

LIMIT = 1 << 34
"""Tokens times squared width, of all rows, above which a graph gains nothing worth trying: a third of what 480p with 51
frames has in Open-Sora's network, where launching takes a tenth of a step (docs/gpu.md)."""

BYTES = 64
"""Of a graph's memory, by token and channel, at most: the stream, queries, keys, values and an MLP's neurons."""

SHARE = 0.25
"""Of the free memory that a graph may take."""


class CudaRecording:
    """A graph and its result."""

    def __init__(self, graph: torch.cuda.CUDAGraph, out: Tensor) -> None:
        self.graph, self.out = graph, out

    def replay(self) -> None:
        """See :class:`videoaccel.generation.graphs.Recording`."""
        self.graph.replay()

    def release(self) -> None:
        """See :class:`videoaccel.generation.graphs.Recording`; waits for what is under way."""
        torch.cuda.synchronize(self.out.device)
        self.graph.reset()


class CudaRecorder:
    """Records on one device.

    Args:
        device: A CUDA device.
        width: C of the network.
    """

    def __init__(self, device: torch.device, *, width: int) -> None:
        self.device, self.width = device, width
        self._pool: Any = None

    def record(self, work: Callable[[], Tensor]) -> CudaRecording:
        """See :class:`videoaccel.generation.graphs.Recorder`."""
        with torch.cuda.device(self.device):
            here, side = torch.cuda.current_stream(), torch.cuda.Stream()
            side.wait_stream(here)
            with torch.cuda.stream(side):
                for _ in range(WARM_UP):
                    work()
            here.wait_stream(side)
            torch.cuda.synchronize()
            if self._pool is None:
                self._pool = torch.cuda.graph_pool_handle()
            graph = torch.cuda.CUDAGraph()
            try:
                # Other threads, such as NCCL's watchdog, may go on asking the device meanwhile.
                with torch.cuda.graph(graph, pool=self._pool, capture_error_mode="thread_local"):
                    out = work()
            except BaseException:
                torch.cuda.set_stream(here)
                _tidy(self.device, self._pool)
                raise
        return CudaRecording(graph, out)

    def milliseconds(self, work: Callable[[], Any]) -> float:
        """See :class:`videoaccel.generation.graphs.Recorder`."""
        found = []
        for _ in range(RUNS):
            torch.cuda.synchronize(self.device)
            start = time.perf_counter()
            work()
            torch.cuda.synchronize(self.device)
            found.append(1000 * (time.perf_counter() - start))
        return min(found)

    def why_no_room(self, work: int) -> str | None:
        """See :class:`videoaccel.generation.graphs.Recorder`."""
        needed = work // self.width * BYTES
        free = free_bytes(self.device)
        if needed <= SHARE * free:
            return None
        return f"a graph may take {as_bytes(needed)}, and {as_bytes(free)} are free"

    def forget(self) -> None:
        """See :class:`videoaccel.generation.graphs.Recorder`."""
        self._pool = None


def _tidy(device: torch.device, pool: Any) -> None:
    """Undo what a recording that broke off leaves behind: PyTorch ends one only where its last call succeeds.

    The allocator would think that the recording goes on, and the generator of random numbers, too.
    """
    index = torch.cuda.current_device() if device.index is None else device.index
    with suppress(RuntimeError, AttributeError):
        torch._C._cuda_endAllocateToPool(index, pool)
    with suppress(RuntimeError, AttributeError):
        generator = torch.cuda.default_generators[index]
        generator.graphsafe_set_state(generator.clone_state())


def why_no_graphs(device: torch.device) -> str | None:
    """Why CUDA graphs cannot be had on a device, which is tried; None if they can."""
    if device.type != "cuda":
        return NO_CUDA
    return why_not_recorded(CudaRecorder(device, width=1))


def cuda_graphs(device: torch.device, *, width: int, asked: Asked) -> Graphs:
    """CUDA graphs of a network of this width, on its device."""
    return Graphs(CudaRecorder(device, width=width), asked=asked, limit=LIMIT)
