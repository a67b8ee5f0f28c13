"""What 8-bit products cost in decibels: the demo model's clips with and without, by the network's own PyTorch form.

    python -m benchmarks.fp8 --clips 16

Rows are rounded as our kernel rounds them on a GPU, so the numbers hold there; the time on a CPU means nothing. The
comparison's prompts (``benchmarks/prompts.txt``), seed 0, 30 steps.
"""

import argparse
import statistics
from pathlib import Path
from typing import Any

import torch

from benchmarks.measure import keep
from videoaccel import VideoPipeline
from videoaccel.models.fp8 import quantize_linears


def psnr(a: torch.Tensor, b: torch.Tensor) -> float:
    """Of clips in [0, 1], in dB."""
    return float(-10 * (a.float() - b.float()).square().mean().clamp_min(1e-12).log10())


def main() -> None:
    """Measure and keep the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=int, default=16)
    args = parser.parse_args()
    lines = Path(__file__).with_name("prompts.txt").read_text(encoding="utf-8").splitlines()
    prompts = [line for line in lines if line.strip() and not line.startswith("#")][: args.clips]
    ask: dict[str, Any] = {"seed": 0, "output_type": "pt"}
    found: dict[str, dict[str, float]] = {}
    exact, low = (VideoPipeline.from_pretrained("demo") for _ in range(2))
    count = quantize_linears(low.transformer)
    for pipe in (exact, low):
        pipe.set_progress_bar_config(disable=True)
    clips = {prompt: exact(prompt, **ask).frames for prompt in prompts}
    for label in ("fp8", "fp8 and SODA at 2x", "SODA at 2x"):
        pipe = exact if label == "SODA at 2x" else low
        pipe.accelerate("soda", speedup=2) if "SODA" in label else pipe.accelerate(None)
        values = [psnr(pipe(prompt, **ask).frames, clip) for prompt, clip in clips.items()]
        found[label] = {"mean_psnr": round(statistics.mean(values), 2), "worst_psnr": round(min(values), 2)}
        print(label, found[label], flush=True)
    keep("fp8", {"model": "demo, float32 but for 8-bit products", "linears": count, "clips": len(prompts), **found})


if __name__ == "__main__":
    main()
