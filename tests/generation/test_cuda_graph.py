"""The order of what is asked of CUDA, with all of it pretended: warming up, recording, tidying up after a failure."""

from contextlib import contextmanager, nullcontext
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from videoaccel.generation import cuda_graph
from videoaccel.generation.cuda_graph import BYTES, SHARE, CudaRecorder

DEVICE = torch.device("cuda", 0)


class Pretended:
    """Notes what is asked of it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.asked: list[str] = []
        self.stream: Any = SimpleNamespace(wait_stream=lambda other: self.asked.append("here waits"))
        side = SimpleNamespace(wait_stream=lambda other: self.asked.append("side waits"))
        generator = SimpleNamespace(clone_state=lambda: "state", graphsafe_set_state=self.asked.append)
        graph = SimpleNamespace(replay=lambda: self.asked.append("replay"), reset=lambda: self.asked.append("reset"))
        for name, value in {
            "device": nullcontext,
            "current_stream": lambda *_: self.stream,
            "Stream": lambda: side,
            "stream": self.on,
            "set_stream": lambda stream: self.asked.append("back"),
            "synchronize": lambda *_: self.asked.append("wait"),
            "graph_pool_handle": lambda: (0, 1),
            "CUDAGraph": lambda: graph,
            "graph": self.recording,
            "default_generators": (generator,),
        }.items():
            monkeypatch.setattr(torch.cuda, name, value)
        ended = lambda index, pool: self.asked.append(f"pool {pool} ended")  # noqa: E731
        monkeypatch.setattr(torch._C, "_cuda_endAllocateToPool", ended, raising=False)

    @contextmanager
    def on(self, stream: Any) -> Any:
        self.asked.append("aside")
        yield

    @contextmanager
    def recording(self, graph: Any, *, pool: Any, capture_error_mode: str) -> Any:
        self.asked.append(f"record in {pool}, {capture_error_mode}")
        yield


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch) -> Pretended:
    return Pretended(monkeypatch)


READY = ["side waits", "aside", "work", "work", "here waits", "wait", "record in (0, 1), thread_local", "work"]


def test_a_recording(cuda: Pretended) -> None:
    def work() -> torch.Tensor:
        cuda.asked.append("work")
        return torch.ones(2)

    made = CudaRecorder(DEVICE, width=8).record(work)
    assert cuda.asked == READY
    made.replay()
    made.release()
    assert cuda.asked[len(READY) :] == ["replay", "wait", "reset"]


def test_a_recording_that_breaks_off(cuda: Pretended) -> None:
    def work() -> torch.Tensor:
        cuda.asked.append("work")
        if len(cuda.asked) == len(READY):
            raise RuntimeError("operation not permitted when stream is capturing")
        return torch.ones(2)

    with pytest.raises(RuntimeError, match="not permitted"):
        CudaRecorder(DEVICE, width=8).record(work)
    assert cuda.asked == [*READY, "back", "pool (0, 1) ended", "state"]


def test_memory_is_asked_for(monkeypatch: pytest.MonkeyPatch, cuda: Pretended) -> None:
    recorder, tokens = CudaRecorder(DEVICE, width=8), 1 << 20
    needed = tokens * 8 * BYTES
    monkeypatch.setattr(cuda_graph, "free_bytes", lambda device: int(needed / SHARE))
    assert recorder.why_no_room(tokens * 8**2) is None
    monkeypatch.setattr(cuda_graph, "free_bytes", lambda device: needed)
    assert recorder.why_no_room(tokens * 8**2) == "a graph may take 512 MiB, and 512 MiB are free"
    assert recorder.milliseconds(lambda: None) < 1000
