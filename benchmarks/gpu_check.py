"""VideoAccel on one GPU in one run: is it right, how fast is each part, what would make it faster.

    python -m benchmarks.gpu_check --out results --budget 270        # on a GPU: the sections that matter most
    python -m benchmarks.gpu_check --out results --only fp8,ranks    # some of them
    python -m benchmarks.gpu_check --device cpu --tiny --out results # does it run?

Every section stands alone and has a limit of its own; each result is printed and ``gpu_check.json`` rewritten at once.
A section that takes the CUDA context with it costs itself only: the process starts itself again with those left.
Nothing here needs a checkpoint, a network or a video library; ``benchmarks/gpu_wheels.txt`` says which packages a
machine with PyTorch alone lacks.
"""

import argparse
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from benchmarks.gpu import faster, graphs, learning, methods, network, parts, ranks, stages
from benchmarks.gpu.bench import Bench, DeadContextError

SECTIONS: dict[str, tuple[Callable[[Bench], None], int]] = {
    "environment": (network.environment, 20),
    "ceilings": (network.ceilings, 25),
    "dense": (network.dense, 40),
    "golden": (network.golden, 30),
    "exactness": (parts.exactness, 40),
    "profile": (network.profile, 25),
    "kernels": (parts.kernels, 60),
    "triton kernels": (faster.kernels_in, 40),
    "fp8": (faster.fp8, 40),
    "vae": (stages.vae, 60),
    "methods": (methods.methods, 70),
    "pruning": (methods.pruning, 45),
    "compiled parts": (faster.compiled_parts, 90),
    "triton kernels and compiled": (faster.kernels_and_compiled, 90),
    "memory 720p": (faster.memory_720p, 30),
    "graphs": (graphs.graphs, 150),
    "ranks": (ranks.ranks, 100),
    "encoding": (stages.encoding, 40),
    "demo": (stages.demo, 40),
    "calibration": (learning.calibration, 90),
    "router training": (learning.router_training, 90),
    "demo training": (learning.demo_training, 240),
    "generation": (methods.generation, 60),
    "decoder": (stages.decoder, 200),
    "whole compile": (faster.whole_compile, 150),
}


def run(bench: Bench, names: list[str]) -> list[str]:
    """Run sections in turn; returns those that are left when the device died."""
    for number, name in enumerate(names):
        section, limit = SECTIONS[name]
        bench.section = name
        if bench.left < 8:
            bench.put("skipped", "no time left")
            continue
        start = time.time()

        def late(*_: Any) -> None:
            raise TimeoutError("over its limit")

        signal.signal(signal.SIGALRM, late)
        signal.alarm(max(1, int(min(limit, bench.left))))
        try:
            with torch.inference_mode():
                section(bench)
        except Exception as failure:  # whatever it is, it is this section's result
            signal.alarm(0)
            bench.put("failed", f"{type(failure).__name__}: {' '.join(str(failure).split())[:300]}")
            (bench.file.parent / f"failed_{name.replace(' ', '_')}.txt").write_text(traceback.format_exc())
            if isinstance(failure, DeadContextError) or not _answers(bench):
                return names[number + 1 :]
        signal.alarm(0)
        bench.put("seconds", round(time.time() - start, 1))
        bench.clean()
    return []


def _answers(bench: Bench) -> bool:
    try:
        bench.alive()
    except DeadContextError:
        return False
    return True


def main() -> None:
    """Parse the command line and run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--out", type=Path, default=Path(os.environ.get("OUT", ".")))
    parser.add_argument("--budget", type=float, default=270, help="seconds in all")
    parser.add_argument("--only", default="", help="sections, by commas; default all in order")
    parser.add_argument("--skip", default="", help="sections, by commas")
    parser.add_argument("--tiny", action="store_true", help="a small network and clip, to see that it runs")
    parser.add_argument("--until", type=float, help=argparse.SUPPRESS)
    args = parser.parse_args()
    chosen = [name for name in args.only.split(",") if name] or list(SECTIONS)
    if unknown := sorted({*chosen, *args.skip.split(",")} - {*SECTIONS, ""}):
        parser.error(f"no section {unknown[0]!r}; there are {', '.join(SECTIONS)}")
    args.out.mkdir(parents=True, exist_ok=True)
    file = args.out / "gpu_check.json"
    if args.until is None:
        file.unlink(missing_ok=True)
    until = args.until or time.time() + args.budget
    bench = Bench(torch.device(args.device), tiny=args.tiny, file=file, until=until)
    if rest := run(bench, [name for name in chosen if name not in args.skip.split(",")]):
        again = ["--device", args.device, "--out", str(args.out), "--only", ",".join(rest), "--until", str(until)]
        os.execv(sys.executable, [sys.executable, "-m", "benchmarks.gpu_check", *again, *["--tiny"] * args.tiny])


if __name__ == "__main__":
    main()
