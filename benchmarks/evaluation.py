"""Frames per second of every metric and of both readers of clips.

    python -m benchmarks.evaluation --clip CLIP.mp4 [--backbones DIR] [--metrics psnr,ssim,...]

Metrics whose networks are not there are left out and named. The clip is compared with itself, shifted by one frame.
"""

import argparse
import statistics
from pathlib import Path
from typing import Any

import torch

from benchmarks.measure import interleaved, keep
from videoaccel.eval.backbones import Backbones, MissingBackbone
from videoaccel.eval.metric import NotApplicable, Sample
from videoaccel.eval.metric_names import metric_class, metric_names
from videoaccel.media.decord_door import read_with_decord
from videoaccel.media.reader import read_video


def main() -> None:
    """Measure and keep the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clip", type=Path, required=True)
    parser.add_argument("--backbones", type=Path)
    parser.add_argument("--metrics", default=",".join(metric_names()))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    frames, fps = read_video(given.clip)
    clip = torch.from_numpy(frames)
    sample = Sample(given.clip.name, clip[1:], fps, clip[:-1], "a red circle moves left on a dark blue background")
    rates, left_out = {}, {}
    for name in given.metrics.split(","):
        rate = _metric_rate(name, sample, Backbones(given.backbones), given.rounds)
        (left_out if isinstance(rate, str) else rates)[name] = rate
    result = {
        "clip": {"name": given.clip.name, "frames": len(frames), "size": list(frames.shape[1:3])},
        "rounds": given.rounds,
        "frames_per_second": rates,
        "readers_frames_per_second": _readers(given.clip, len(frames), given.rounds),
        "left_out": left_out,
    }
    keep("evaluation", result)


def _metric_rate(name: str, sample: Sample, backbones: Backbones, rounds: int) -> dict[str, float] | str:
    kind = metric_class(name)
    if kind.official:
        return "the official package runs it"
    try:
        metric = kind(backbones=backbones)
        with torch.inference_mode():
            (seconds,) = interleaved([lambda: metric.measure(sample)], rounds=rounds, warmup=1)
    except (MissingBackbone, NotApplicable) as reason:
        return str(reason)
    return _rate(len(sample.frames), seconds)


def _readers(path: Path, frames: int, rounds: int) -> dict[str, Any]:
    """PyAV in this process; decord in one of its own, whose start counts, as it does in use."""
    readers = {"pyav": lambda: read_video(path), "decord": lambda: read_with_decord(path)}
    try:
        readers["decord"]()
    except ValueError as reason:
        (seconds,) = interleaved([readers["pyav"]], rounds=rounds)
        return {"pyav": _rate(frames, seconds), "decord": str(reason)}
    both = interleaved(list(readers.values()), rounds=rounds)
    return {name: _rate(frames, seconds) for name, seconds in zip(readers, both, strict=True)}


def _rate(frames: int, seconds: list[float]) -> dict[str, float]:
    rates = [frames / value for value in seconds]
    return {name: round(f(rates), 2) for name, f in (("median", statistics.median), ("low", min), ("high", max))}


if __name__ == "__main__":
    main()
