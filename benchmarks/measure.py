"""Honest timing on noisy machines: paired, interleaved runs, medians with intervals, and what they ran on."""

import json
import os
import platform
import random
import shlex
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

RESULTS = Path(__file__).parent / "results"


@dataclass(frozen=True)
class Ratio:
    """How much longer A takes than B: the median over pairs and its 95 % bootstrap interval."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, a: Sequence[float], b: Sequence[float]) -> "Ratio":
        """From runs taken in turn."""
        ratios = [x / y for x, y in zip(a, b, strict=True)]
        chance = random.Random(0)
        medians = sorted(statistics.median(chance.choices(ratios, k=len(ratios))) for _ in range(2000))
        return cls(statistics.median(ratios), medians[50], medians[-50])

    def over(self, count: float) -> "Ratio":
        """Divided by a number."""
        return Ratio(self.median / count, self.low / count, self.high / count)

    def __str__(self) -> str:
        return f"{self.median:.4f} [{self.low:.4f}, {self.high:.4f}]"


def interleaved(functions: Sequence[Callable[[], Any]], *, rounds: int, warmup: int = 2) -> list[list[float]]:
    """Seconds of each function, run in turn ``rounds`` times after a warm-up."""
    seconds: list[list[float]] = [[] for _ in functions]
    for round_ in range(warmup + rounds):
        for index, function in enumerate(functions):
            start = time.perf_counter()
            function()
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            if round_ >= warmup:
                seconds[index].append(time.perf_counter() - start)
    return seconds


def machine() -> dict[str, Any]:
    """Hardware and versions."""
    name = platform.processor() or platform.machine()
    if Path("/proc/cpuinfo").exists():
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        name = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), name)
    gpus = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    packages = {package: version(package) for package in ("torch", "diffusers", "transformers")}
    return {
        "cpu": name,
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "gpus": gpus,
        "python": platform.python_version(),
        **packages,
    }


def keep(name: str, result: dict[str, Any]) -> None:
    """Print a result and write it to ``results/NAME.json`` with machine, date and command."""
    command = shlex.join(["python", "-m", f"benchmarks.{Path(sys.argv[0]).stem}", *sys.argv[1:]])
    record = {"command": command, "date": time.strftime("%Y-%m-%d"), "machine": machine(), **result}
    text = json.dumps(record, indent=2)
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{name}.json").write_text(text + "\n")
    print(text)
