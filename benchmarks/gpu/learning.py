"""What is measured and learnt once a model: SODA's errors in passes, E-DiT's routers, and the demo model itself."""

import json
import math
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor

from benchmarks.gpu.bench import STEPS, Bench
from videoaccel.calibration.probing import every_site, output_bytes, site_groups
from videoaccel.common.devices import free_memory
from videoaccel.eval.world import sample_scene
from videoaccel.policies._soda_errors import AGES, ErrorProbe
from videoaccel.routers.learning import begin
from videoaccel.settings.routers import RouterSettings

CALIBRATED = AGES + 3
"""Steps of a pass: in the last ones a module is compared with outputs of every age."""

LESSONS = {"144p, 17 frames": (5, 18, 32), "480p, 51 frames": (15, 60, 106)}
"""Latents; the larger one may be more than a device holds, and that is a finding, too."""

TRAINER, BATCH = "examples.demo_model.train_transformer", 128
"""The program that trains the demo model's transformer, and the clips of a step on a GPU."""

WAYS: dict[str, tuple[Sequence[str], int]] = {
    "compiled and recorded": (("--compile",), 600),
    "recorded": (("--no-compile",), 300),
    "as it stands": (("--no-compile", "--no-record"), 100),
}
"""Its options, and steps that take seconds; of what is compiled or recorded its clock begins when that is done."""

CLIPS, LATENT = 512, (8, 5, 16, 16)
"""Of the demo model: clips of a shard, and the size of one."""


def calibration(bench: Bench) -> None:
    """Calibrating SODA in as many passes as half of the free memory asks for; the first is run for some steps."""
    run = bench.denoising(steps=CALIBRATED)
    bench.model(**bench.step())
    bench.wait()
    probe, sizes = ErrorProbe(run.job()), output_bytes(run)
    # On a CPU as little as two modules take, so that there are passes.
    memory = free_memory(str(bench.device)) // 2 if bench.cuda else 2 * probe.held * max(sizes.values())
    groups = site_groups(run, probe, memory)
    bench.put("GiB that outputs take at once", round(probe.held * sum(sizes.values()) / 2**30, 3))
    bench.put("GiB that a pass may keep", round(memory / 2**30, 3))
    bench.put("passes", len(groups))
    bench.put("modules of a pass", [len(group) for group in groups])
    probe.only(frozenset(groups[0]))
    marks = [time.perf_counter()]

    def mark(i: int, t: Tensor, x: Tensor) -> Tensor:
        bench.wait()
        marks.append(time.perf_counter())
        return x

    peak = bench.peak_gib(lambda: run.denoise(probe, callback=mark))
    steps = [round(after - before, 4) for before, after in pairwise(marks)]
    bench.put("seconds of the first pass's steps", steps)
    bench.put(f"seconds of {STEPS} steps in all passes, foretold", round(steps[-1] * STEPS * len(groups), 1))
    bench.put("peak GiB", peak)
    bench.put("all measured", bool(torch.isfinite(probe.cache[:, -1, [probe.sites[s] for s in groups[0]]]).all()))
    bench.put("modules", len(every_site(run.job())))


def router_training(bench: Bench) -> None:
    """Seconds of an iteration of training routers, and its memory."""
    sizes = {"tiny": bench.latent} if bench.tiny else LESSONS
    before = bench._model
    try:
        with torch.inference_mode(False):  # gradients flow through what the routers gate
            bench._model = bench.fresh().requires_grad_(False)
            for name, latent in sizes.items():
                bench.attempt(name, partial(_lessons, bench, latent))
                bench.clean()
    finally:
        bench._model = before


def _lessons(bench: Bench, latent: tuple[int, ...]) -> dict[str, Any]:
    with torch.no_grad():
        run = replace(bench.denoising(steps=3, latent=latent), graphs=None)
    settings = RouterSettings(model="none", steps=3, states=2, clips=1, iterations=8, warm_start=False)
    start = time.perf_counter()
    training = begin(settings, [run])
    bench.wait()
    found: dict[str, Any] = {"seconds before the first": round(time.perf_counter() - start, 2)}
    seconds: list[float] = []
    told: list[dict[str, float]] = []

    def learn() -> None:
        for _ in range(4):
            start = time.perf_counter()
            told.append(training.step())
            bench.wait()
            seconds.append(round(time.perf_counter() - start, 4))

    found["peak GiB"] = bench.peak_gib(learn)
    return {**found, "seconds an iteration": seconds, "losses": [round(one["loss"], 4) for one in told]}


def demo_training(bench: Bench) -> None:
    """Steps a second at which the demo model's transformer is trained, on made-up latents; every way is a program."""
    ways = {"as it stands": (WAYS["as it stands"][0], 2)} if bench.tiny else WAYS
    with tempfile.TemporaryDirectory() as work:
        rng, folder = np.random.default_rng(0), Path(work) / "latents"
        folder.mkdir()
        latents = torch.from_numpy(rng.standard_normal((CLIPS, *LATENT), dtype=np.float32)).half()
        sentences = json.dumps([sample_scene(rng).sentence() for _ in range(CLIPS)])
        save_file({"latents": latents}, folder / "0.safetensors", metadata={"sentences": sentences})
        for number, (name, (options, steps)) in enumerate(ways.items()):
            out = Path(work) / str(number)
            bench.attempt(name, partial(_trained, bench, folder, out, options=options, steps=steps))


def _trained(bench: Bench, latents: Path, out: Path, *, options: Sequence[str], steps: int) -> dict[str, Any]:
    """What its log says of a short training."""
    batch = 2 if bench.tiny else BATCH
    command = [
        sys.executable, "-m", TRAINER, "--latents", latents, "--text", "demo", "--out", out,
        "--device", bench.device.type, "--batch", batch, "--steps", steps, "--log-steps", max(1, steps // 10), *options,
    ]  # fmt: skip
    start = time.perf_counter()
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(done.stderr[-200:])
    *logged, end = map(json.loads, (out / "log.jsonl").read_text().splitlines())
    return {
        "steps a second": round(end["done"] / end["seconds"], 2),
        "batch": batch,
        "steps": end["done"],
        "seconds in all": round(time.perf_counter() - start, 1),
        "losses are numbers": all(math.isfinite(line["loss"]) for line in logged),
        "printed": [line[:200] for line in done.stdout.splitlines() if "ready" in line or "failed" in line],
    }
