"""What fitting the served steps is worth, part by part: Taylor, open loop, closed loop, fewer clips, anchors searched.

    python -m benchmarks.soda_fitted --out runs/fitted

Eight prompts of ``prompts.txt`` (seeds 70 to 77) are made by each variant at each number of network calls, from
coefficients fitted on 18 of the first 24 clips of a calibration. About 10,000 network calls of one clip. Resumes.
Writes ``benchmarks/results/soda_fitted.json``.

Shape legend: N steps, B clips, J velocities that are combined.
"""

import argparse
import json
import math
import statistics
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.measure import keep
from videoaccel.calibration.anchor_search import improved
from videoaccel.calibration.calibrate import builtin_prompts
from videoaccel.calibration.fitted_steps import forecast, parted
from videoaccel.calibration.fitting import Clips, Fit, follow, least_squares, mean_taylor
from videoaccel.calibration.quality_curve import against
from videoaccel.common.package import packaged
from videoaccel.generation.pipeline import VideoPipeline
from videoaccel.planning.fitted import FIGURES, KINDS, MOST, PREFIX, QUALITY, Fitted
from videoaccel.planning.prior import Prior
from videoaccel.planning.shelf import find_prior
from videoaccel.policies.soda import Soda

COUNTS = (20, 15, 12, 10, 8)
PROMPTS = (Path(__file__).parent / "prompts.txt").read_text(encoding="utf-8").splitlines()[:8]
FEW = 6
"""Clips that a search for anchors looks at."""


class Lab:
    """Clips to fit on and to measure, made once."""

    def __init__(self, folder: Path, clips: int) -> None:
        self.folder = folder
        self.pipe = VideoPipeline.from_pretrained("demo")
        prompts = builtin_prompts("demo")[:clips]
        fitted, _ = parted(clips)
        self.fitting = self._clips("fitting", [prompts[k] for k in fitted], fitted)
        self.measured = self._clips("measured", PROMPTS, range(70, 78))
        frames = self.pipe.defaults.num_frames
        self.quality = against(self.pipe.vae, self.measured.wanted[-1], frames)
        prior = find_prior(self.measured.runs[0].setting)
        assert prior is not None
        self.tables = {name: table for name, table in prior.tables.items() if not name.startswith("soda.fitted")}

    def _clips(self, name: str, prompts: Sequence[str], seeds: Sequence[int]) -> Clips:
        pairs = zip(prompts, seeds, strict=True)
        runs = [self.pipe.denoising(self.pipe.request(prompt, seed=[seed])) for prompt, seed in pairs]
        path = self.folder / f"{name}.pt"
        if not path.exists():
            torch.save(torch.stack(list(Clips.of(runs).wanted)), path)
        return Clips(runs, list(torch.load(path)))

    def anchors(self, calls: int) -> list[int]:
        """Where the network is called, as errors of forecasts say."""
        return Soda(anchors=calls, order="taylor").network(self.tables, self.fitting.steps).anchors

    def some(self, count: int) -> Clips:
        """The first clips to fit on."""
        return Clips(self.fitting.runs[:count], [x[:count] for x in self.fitting.wanted])


def taylor(lab: Lab, calls: int) -> Tensor:
    """SODA as it was."""
    return forecast(lab.measured, Soda(anchors=calls, order="taylor"), lab.tables)


def open_loop(lab: Lab, calls: int) -> Tensor:
    """Coefficients fitted on dense runs."""
    clips, marks = lab.fitting, lab.anchors(calls)
    said = {i: clips.velocity(i, clips.parts(clips.wanted[i])) for i in marks}
    weights: list[tuple[float, ...]] = []
    for j, (start, stop) in enumerate(zip(marks, [*marks[1:], clips.steps], strict=True)):
        known = marks[max(0, j + 1 - MOST) : j + 1][::-1]
        if stop == start + 1:
            weights.append(())
            continue
        x = clips.parts(clips.wanted[start + 1])
        base = torch.cat(clips.serve(start + 1, stop, x, torch.zeros_like(clips.wanted[0])))
        moved = torch.stack([torch.cat(clips.serve(start + 1, stop, x, said[i])) - base for i in known])
        usual = mean_taylor(known, range(start + 1, stop))
        weights.append(tuple(least_squares(moved, clips.wanted[stop] - base, usual=usual, gaps=known).tolist()))
    return follow(lab.measured, Fitted(tuple(marks), tuple(weights)))


def closed_loop(lab: Lab, calls: int) -> Tensor:
    """Coefficients fitted on the accelerated trajectory."""
    return follow(lab.measured, Fit(lab.fitting).along(lab.anchors(calls))[0])


def few_clips(lab: Lab, calls: int) -> Tensor:
    """The same from eight clips."""
    return follow(lab.measured, Fit(lab.some(8)).along(lab.anchors(calls))[0])


def searched(lab: Lab, calls: int) -> Tensor:
    """Anchors moved where six clips get better, then fitted on all."""
    anchors = improved(Fit(lab.some(FEW)), lab.anchors(calls), rounds=1)
    return follow(lab.measured, Fit(lab.fitting).along(anchors)[0])


VARIANTS: dict[str, Callable[[Lab, int], Tensor]] = {
    "taylor": taylor,
    "open loop": open_loop,
    "closed loop": closed_loop,
    "closed loop, 8 clips": few_clips,
    "closed loop, anchors searched": searched,
}


@torch.inference_mode()
def main() -> None:
    """Parse the command line and measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/fitted"))
    parser.add_argument("--clips", type=int, default=24)
    parser.add_argument("--counts", type=int, nargs="+", default=COUNTS)
    parser.add_argument("--variants", nargs="+", default=list(VARIANTS), choices=list(VARIANTS))
    parser.add_argument("--made", action="store_true", help="report the rows that --out has, and make no more")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    lab: Lab | None = None
    rows: list[dict[str, Any]] = []
    for calls in args.counts:
        for name in args.variants:
            path = args.out / f"{name.replace(' ', '-').replace(',', '')}-{calls}.json"
            if args.made and not path.exists():
                continue
            if not path.exists():
                lab = lab or Lab(args.out, args.clips)
                path.write_text(json.dumps(lab.quality(VARIANTS[name](lab, calls))))
            psnr = json.loads(path.read_text())
            row = {"calls": calls, "variant": name, "mean": statistics.fmean(psnr), "worst": min(psnr), "psnr": psnr}
            rows.append({key: round(v, 2) if isinstance(v, float) else v for key, v in row.items()})
            print(f"{calls} {name}: {row['mean']:.2f} ({row['worst']:.2f})", flush=True)
    keep("soda_fitted", {"clips": args.clips, "rows": rows, "prior": in_the_box()})


def in_the_box() -> dict[str, Any]:
    """What the demo model's prior says of its plans, on clips that its fit left out, and what fits add to its size."""
    path = packaged("assets", "priors") / "demo.safetensors"
    tables = Prior.load(path).tables
    held = {
        f"{calls} {kind}": dict(zip(FIGURES, (round(value, 2) for value in figures), strict=True))
        for calls, kinds in enumerate(tables[QUALITY].tolist(), start=1)
        for kind, figures in zip(KINDS, kinds, strict=True)
        if not math.isnan(figures[0])
    }
    size = sum(4 * table.numel() for name, table in tables.items() if name.startswith(PREFIX))
    return {"bytes": path.stat().st_size, "bytes_of_fits": size, "held_out": held}


if __name__ == "__main__":
    main()
