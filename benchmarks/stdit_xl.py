"""STDiT3-XL/2 with random weights on a GPU: milliseconds a step, achieved TFLOP/s, every attention backend that runs.

    python -m benchmarks.stdit_xl                       # bfloat16, 480p 9:16, 51 frames, guidance in one batch
    python -m benchmarks.stdit_xl --device cpu --depth 1 --resolution 144p --frames 17 --rounds 1   # does it run?

TFLOP/s are the matrix products of one step, counted by hand below (PyTorch's counter misses fused attention on some
devices), over the median time; beside them stands the rate of one large matrix product measured on the same device.
"""

import argparse
import statistics
from typing import Any

import torch

from benchmarks.measure import interleaved, keep
from videoaccel.common.stages import peak_memory
from videoaccel.generation.attention_kernels import attention_kernel, why_not
from videoaccel.models.stdit import STDiT3
from videoaccel.session.policy import Job, Session, kernel_mix
from videoaccel.settings.early import BACKENDS
from videoaccel.settings.sizes import resolve_size

TEXT_TOKENS = 120


def step_flops(model: STDiT3, *, rows: int, frames: int, places: int, text: int) -> float:
    """Multiply-adds times two of one forward pass, text keys and values not counted (once per generation)."""
    c, tokens = model.config.hidden_size, rows * frames * places
    linear = tokens * c * c * (3 + 1 + 1 + 1 + 2 * model.config.mlp_ratio)
    cross = 2 * tokens * text * c
    space, time = 2 * tokens * places * c, 2 * tokens * frames * c
    return 2.0 * model.config.depth * (2 * (linear + cross) + space + time)


def matmul_tflops(device: torch.device, dtype: torch.dtype, size: int) -> float:
    """Rate of one square matrix product, the best of several."""
    a, b = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    (seconds,) = interleaved([lambda: a @ b], rounds=10)
    return 2 * size**3 / min(seconds) / 1e12


def inputs(
    model: STDiT3, *, height: int, width: int, frames: int, device: torch.device, dtype: torch.dtype
) -> dict[str, Any]:
    """One guided step: two rows, a prompt of TEXT_TOKENS."""
    latent = (frames // 17 * 5 or 1, height // 8, width // 8)
    x = torch.randn(2, 4, *latent, device=device)
    mask = (torch.arange(model.config.model_max_length, device=device) < TEXT_TOKENS).long()[None]
    y = torch.randn(2, 1, model.config.model_max_length, model.config.caption_channels, device=device, dtype=dtype)
    size = {"fps": torch.tensor([24.0], device=device), "height": height, "width": width, "latent_size": latent}
    context = model.prepare(y, mask=mask, **size)
    return {"x": x, "timestep": torch.full((2,), 500.0, device=device), "context": context}


@torch.inference_mode()
def main() -> None:
    """Measure and keep the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--resolution", default="480p")
    parser.add_argument("--frames", type=int, default=51)
    parser.add_argument("--depth", type=int, default=28)
    parser.add_argument("--rounds", type=int, default=10)
    args = parser.parse_args()
    device, dtype = torch.device(args.device), getattr(torch, args.dtype)
    torch.manual_seed(0)
    with torch.device(device):
        model = STDiT3(depth=args.depth).to(dtype=dtype).eval()
    height, width = resolve_size(resolution=args.resolution, aspect="9:16")
    step = inputs(model, height=height, width=width, frames=args.frames, device=device, dtype=dtype)
    frames, rows, columns = model.token_grid(step["x"].shape[2:])
    sigmas = torch.tensor([[1.0, 0.0]])
    job = Job(sigmas, tuple(step["x"].shape[1:]), 7.0, ("cond", "uncond"), None, rows * columns, dtype, seed=0)
    runs = {name: Session(job, mix=kernel_mix(attention_kernel(name))).run for name in BACKENDS if not why_not(name)}
    seconds = interleaved([lambda run=run: model(**step, run=run) for run in runs.values()], rounds=args.rounds)
    flops = step_flops(model, rows=2, frames=frames, places=rows * columns, text=TEXT_TOKENS)
    medians = {name: statistics.median(values) for name, values in zip(runs, seconds, strict=True)}
    result = {
        "model": f"STDiT3-XL/2, depth {args.depth}, {args.dtype}, random weights, 2 rows (guidance)",
        "clip": f"{args.resolution} 9:16 ({height}x{width}), {args.frames} frames: {frames} x {rows * columns} tokens",
        "milliseconds_per_step": {name: round(value * 1e3, 2) for name, value in medians.items()},
        "spread_milliseconds": {
            name: [round(min(v) * 1e3, 2), round(max(v) * 1e3, 2)] for name, v in zip(runs, seconds, strict=True)
        },
        "tflop_per_step": round(flops / 1e12, 3),
        "achieved_tflops": {name: round(flops / value / 1e12, 2) for name, value in medians.items()},
        "matmul_tflops_of_this_device": round(matmul_tflops(device, dtype, 8192 if device.type == "cuda" else 512), 2),
        "backends_off": {name: why_not(name) for name in BACKENDS if why_not(name)},
        "peak_memory_mib": round(peak_memory(device) / 2**20),
        "rounds": args.rounds,
    }
    keep("stdit_xl" if device.type == "cuda" else "stdit_xl_cpu_check", result)


if __name__ == "__main__":
    main()
