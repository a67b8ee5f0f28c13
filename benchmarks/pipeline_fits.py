"""What fitted steps are worth on a pipeline of diffusers: the small PixArt, calibrated with them and without.

    python -m benchmarks.pipeline_fits

Ten sentences are measured, with ``fit=N`` and with ``fit=0``; then twelve others are made by ``soda`` at four targets
and compared with the exact pictures. About six minutes on one core. Writes ``benchmarks/results/pipeline_fits.json``.
"""

import argparse
import random
import statistics
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

import torch
from diffusers import PixArtAlphaPipeline
from torch import Tensor

import videoaccel
from benchmarks.measure import keep
from examples.small_models.pixart import ways
from examples.small_models.recipe import kinds, still_scenes
from videoaccel.calibration.outside_curve import pixels, psnr

MODEL = "examples/small_models/pixart"
MEASURED, MADE, RATIOS = 10, 12, (1.5, 2.0, 2.5, 3.0)
OTHER_SEED = 100


def calls(first: int, count: int) -> list[dict[str, Any]]:
    """Arguments of generations, each of another kind and seed."""
    sentences = [ways(scene)[1] for scene in still_scenes(kinds(), seed=0)]
    random.Random(3).shuffle(sentences)
    return [
        {
            "prompt": sentences[k % len(sentences)],
            "generator": torch.Generator().manual_seed(k),
            "num_inference_steps": 20,
            "use_resolution_binning": False,
            "output_type": "np",
        }
        for k in range(first, first + count)
    ]


def made(pipe: Any) -> list[Tensor]:
    """The pictures that are compared."""
    return [pixels(pipe(**call)) for call in calls(OTHER_SEED, MADE)]


def kept(pipe: Any, fit: int, exact: list[Tensor]) -> list[dict[str, Any]]:
    """Calibrate, and a row a target."""
    rows, began = [], time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        prior = videoaccel.calibrate(pipe, calls=calls(0, MEASURED), out=Path(folder) / "prior.safetensors", fit=fit)
        seconds = round(time.monotonic() - began)
        for ratio in RATIOS:
            with videoaccel.accelerate(pipe, "soda", flops_ratio=ratio, prior=prior) as fast:
                quality = [psnr(one, other) for one, other in zip(made(pipe), exact, strict=True)]
                row = {"fit": fit, "calibration_s": seconds, "flops_ratio": ratio, "computed": len(fast.computed)}
            rows.append({**row, "mean": round(statistics.fmean(quality), 2), "worst": round(min(quality), 2)})
            print(rows[-1], flush=True)
    return rows


def main() -> None:
    """Measure and keep."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--fit", type=int, default=6, help="generations to fit on, of those that the curve leaves")
    args = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    pipe = PixArtAlphaPipeline.from_pretrained(MODEL, torch_dtype=torch.float32)
    pipe.set_progress_bar_config(disable=True)
    exact = made(pipe)
    keep("pipeline_fits", {"model": MODEL, "rows": [*kept(pipe, args.fit, exact), *kept(pipe, 0, exact)]})


if __name__ == "__main__":
    main()
