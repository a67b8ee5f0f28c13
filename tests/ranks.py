"""A pool of CPU ranks (gloo, one thread each) that lives as long as the test session."""

import contextlib
import gc
import tempfile
import traceback
from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

TIMEOUT_S = 600

LARGE = (
    "torch",
    "torch.distributed.device_mesh",
    "diffusers.pipelines.pipeline_utils",
    "transformers.models.t5",
    "videoaccel.generation.pipeline",
)
"""What takes long to import: done once, in the process that ranks are forked from."""


def _serve(rank: int, size: int, store: str, pipe: Any) -> None:
    torch.set_num_threads(1)
    gc.freeze()  # as tests/conftest.py does
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=size)
    while (work := pipe.recv()) is not None:
        function, arguments = work
        try:
            pipe.send((True, function(*arguments)))
        except BaseException:
            pipe.send((False, traceback.format_exc()))
    dist.destroy_process_group()


class RankPool:
    """Runs importable functions on every rank at once."""

    def __init__(self, size: int) -> None:
        context = mp.get_context("forkserver")
        context.set_forkserver_preload(list(LARGE))
        self.folder = tempfile.TemporaryDirectory()
        self.pipes, self.processes = [], []
        for rank in range(size):
            ours, theirs = context.Pipe()
            process = context.Process(
                target=_serve, args=(rank, size, f"{self.folder.name}/store", theirs), daemon=True
            )
            process.start()
            self.pipes.append(ours)
            self.processes.append(process)

    def run(self, function: Callable[..., Any], *arguments: Any) -> list[Any]:
        """Call the function on every rank; returns the results by rank, raises what any rank raised."""
        for pipe in self.pipes:
            pipe.send((function, arguments))
        results = []
        for rank, pipe in enumerate(self.pipes):
            assert pipe.poll(TIMEOUT_S), f"rank {rank} did not answer in {TIMEOUT_S} s"
            results.append(pipe.recv())
        for rank, (good, value) in enumerate(results):
            assert good, f"rank {rank}: {value}"
        return [value for _, value in results]

    def close(self) -> None:
        """End the ranks."""
        for pipe, process in zip(self.pipes, self.processes, strict=True):
            with contextlib.suppress(OSError):
                pipe.send(None)
            process.join(10)
            process.kill()
        self.folder.cleanup()


class RankPools:
    """One pool a size, made when first asked for."""

    def __init__(self) -> None:
        self.pools: dict[int, RankPool] = {}

    def __call__(self, size: int) -> RankPool:
        """The pool of this many ranks."""
        if size not in self.pools:
            self.pools[size] = RankPool(size)
        return self.pools[size]

    def close(self) -> None:
        """End all pools."""
        for pool in self.pools.values():
            pool.close()


@contextlib.contextmanager
def rank_pools() -> Iterator[RankPools]:
    """Pools for the length of a test session."""
    pools = RankPools()
    try:
        yield pools
    finally:
        pools.close()
