"""What the sections of the GPU check share: clock, record, and the workload.

The workload is STDiT3-XL/2 with random weights at 480p, 51 frames, guidance in one batch: 15 x 1,590 tokens, 2 rows.
"""

import gc
import json
import statistics
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from videoaccel.generation.prepared import Denoising
from videoaccel.models.stdit import STDiT3
from videoaccel.sampling.rectified_flow import RectifiedFlowScheduler

BF16 = torch.bfloat16
TEXT_TOKENS, GUIDANCE, STEPS = 120, 7.0, 30
SMALL = {"hidden_size": 64, "num_heads": 2, "depth": 2, "caption_channels": 32}
BACKENDS = {
    "default": None,
    "flash": SDPBackend.FLASH_ATTENTION,
    "cudnn": SDPBackend.CUDNN_ATTENTION,
    "efficient": SDPBackend.EFFICIENT_ATTENTION,
}


class DeadContextError(RuntimeError):
    """The device no longer answers: whatever is left needs a new process."""


def using(name: str) -> AbstractContextManager[Any]:
    """PyTorch's attention by one of its kernels."""
    backend = BACKENDS[name]
    return nullcontext() if backend is None else sdpa_kernel(backend)


def step_flops(model: STDiT3, *, rows: int, frames: int, places: int, text: int) -> float:
    """Multiply-adds times two of one forward pass, text keys and values not counted (once per generation).

    By hand: PyTorch's counter misses fused attention on some devices.
    """
    c, tokens = model.config.hidden_size, rows * frames * places
    linear = tokens * c * c * (3 + 1 + 1 + 1 + 2 * model.config.mlp_ratio)
    cross = 2 * tokens * text * c
    space, time_ = 2 * tokens * places * c, 2 * tokens * frames * c
    return 2.0 * model.config.depth * (2 * (linear + cross) + space + time_)


def error(found: Tensor, wanted: Tensor) -> float:
    """Relative L2 distance."""
    found, wanted = found.double().cpu(), wanted.double().cpu()
    return float((found - wanted).norm() / wanted.norm())


class Bench:
    """The device, the workload on it, and the record.

    Args:
        device: Where.
        tiny: A network and a clip of the same kind that take milliseconds on a CPU.
        file: The record, rewritten after every line; None keeps none.
        until: When the time is up, as ``time.time()``.
    """

    def __init__(self, device: torch.device, *, tiny: bool, file: Path | None, until: float) -> None:
        self.device, self.tiny, self.file, self.until = device, tiny, file, until
        self.cuda = device.type == "cuda"
        self.section = ""
        self.record: dict[str, dict[str, Any]] = json.loads(file.read_text()) if file and file.exists() else {}
        self.latent = (2, 6, 8) if tiny else (15, 60, 106)
        self._model: STDiT3 | None = None

    # Record

    def put(self, key: str, value: Any) -> None:
        """Print a result and keep it."""
        self.record.setdefault(self.section, {})[key] = value
        print(f"{self.section}: {key}: {json.dumps(value, default=str)}"[:300], flush=True)
        if self.file is None:
            return
        partial = self.file.with_suffix(".tmp")
        partial.write_text(json.dumps(self.record, indent=1, default=str))
        partial.replace(self.file)

    def attempt(self, key: str, work: Callable[[], Any]) -> None:
        """Keep what ``work`` returns, or why it failed: what cannot run here is a finding, too.

        Raises:
            DeadContextError: It took the device with it.
        """
        try:
            self.put(key, work())
        except (RuntimeError, ImportError, NotImplementedError, ValueError, AttributeError, TypeError) as failure:
            self.put(key, f"failed: {type(failure).__name__}: {' '.join(str(failure).split())[:200]}")
            self.alive()

    def alive(self) -> None:
        """Raise if the device no longer answers.

        Raises:
            DeadContextError: It does not.
        """
        try:
            torch.zeros(1, device=self.device).item()
        except RuntimeError as failure:
            raise DeadContextError(str(failure)) from failure

    @property
    def left(self) -> float:
        """Seconds left."""
        return self.until - time.time()

    # Clock

    def wait(self) -> None:
        """Until the device has done all that is queued."""
        if self.cuda:
            torch.cuda.synchronize()

    def ms(self, work: Callable[[], Any], *, runs: int = 10, warm: int = 3) -> float:
        """Median milliseconds on the device."""
        for _ in range(warm):
            work()
        self.wait()
        if not self.cuda:
            return self.host_ms(work, runs=min(runs, 3))
        marks = [(torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)) for _ in range(runs)]
        for start, end in marks:
            start.record()
            work()
            end.record()
        self.wait()
        return round(statistics.median(start.elapsed_time(end) for start, end in marks), 4)

    def host_ms(self, work: Callable[[], Any], *, runs: int = 3) -> float:
        """Median milliseconds until everything is queued, the device idle before."""
        found = []
        for _ in range(runs):
            self.wait()
            start = time.perf_counter()
            work()
            found.append(1000 * (time.perf_counter() - start))
        self.wait()
        return round(statistics.median(found), 3)

    def peak_gib(self, work: Callable[[], Any]) -> float | None:
        """Most memory of the device while ``work`` runs; None on a CPU."""
        if not self.cuda:
            work()
            return None
        self.clean()
        torch.cuda.reset_peak_memory_stats()
        work()
        self.wait()
        return round(torch.cuda.max_memory_allocated() / 2**30, 3)

    def clean(self) -> None:
        """Give memory back."""
        gc.collect()
        if self.cuda:
            torch.cuda.empty_cache()

    def profile(self, work: Callable[[], Any]) -> list[tuple[str, int, float]]:
        """Kernels of one run: name, launches, milliseconds; the longest first."""
        from torch.profiler import ProfilerActivity, profile

        work()
        self.wait()
        with profile(activities=[ProfilerActivity.CUDA if self.cuda else ProfilerActivity.CPU]) as found:
            work()
            self.wait()
        rows = [
            (e.key, e.count, (e.self_device_time_total if self.cuda else e.self_cpu_time_total) / 1000)
            for e in found.key_averages()
        ]
        return sorted(rows, key=lambda row: -row[2])

    # Workload

    @property
    def model(self) -> STDiT3:
        """The network, bfloat16."""
        if self._model is None:
            self._model = self.fresh()
        return self._model

    def fresh(self, **fields: Any) -> STDiT3:
        """A network of its own with the same weights."""
        torch.manual_seed(0)
        with torch.device(self.device):
            model = STDiT3(**{**(SMALL if self.tiny else {}), **fields})
        for block in model.blocks:
            block.scale_shift_table.data.mul_(0.3)
        return model.to(BF16).eval()

    def step(self, latent: Sequence[int] | None = None, *, model: STDiT3 | None = None) -> dict[str, Any]:
        """Arguments of one guided call."""
        model, size = model or self.model, tuple(latent or self.latent)
        length = model.config.model_max_length
        generator = torch.Generator().manual_seed(1)
        x = torch.randn(2, 4, *size, generator=generator).to(self.device)
        y = torch.randn(2, 1, length, model.config.caption_channels, generator=generator).to(self.device, BF16)
        mask = (torch.arange(length, device=self.device) < min(TEXT_TOKENS, length)).long()[None]
        fps = torch.tensor([24.0], device=self.device)
        context = model.prepare(y, mask=mask, fps=fps, height=480.0, width=848.0, latent_size=size)
        return {"x": x, "timestep": torch.full((2,), 500.0, device=self.device), "context": context}

    def denoising(self, *, steps: int = STEPS, latent: Sequence[int] | None = None) -> Denoising:
        """A generation, ready to start."""
        step = self.step(latent)
        schedule = RectifiedFlowScheduler()
        schedule.set_timesteps(steps, self.device, height=480, width=848, num_frames=51, dtype=BF16)
        return Denoising(
            model=self.model,
            context=step["context"],
            branches=("cond", "uncond"),
            guidance_scale=GUIDANCE,
            z=step["x"][:1],
            timesteps=schedule.timesteps,
            sigmas=schedule.sigmas,
            update=schedule.stepper(),
            mask=None,
            draw=lambda: step["x"][:1],
            seed=0,
        )

    def tflop(self, latent: Sequence[int] | None = None) -> float:
        """Matrix products of one guided call, in 10^12 operations."""
        frames, rows, columns = self.model.token_grid(latent or self.latent)
        return step_flops(self.model, rows=2, frames=frames, places=rows * columns, text=TEXT_TOKENS) / 1e12

    def rate(self, ms: float, latent: Sequence[int] | None = None) -> list[float]:
        """Milliseconds of a call, and the TFLOP/s that they are."""
        return [ms, round(self.tflop(latent) / ms * 1000, 1)]
