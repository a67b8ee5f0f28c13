"""What being attached to a pipeline of diffusers costs where nothing is forecast, and that it keeps nothing.

    python -m benchmarks.adapter

A tiny Wan pipeline whose network does nothing but use up processor time: 50 ms a call, 1 ms, or none. A plain one, one
with ``off`` and one with ``soda`` and a plan that computes everything run in turn. Both clocks are kept: time on the
wall, and processor time of this process, which others on the machine do not lengthen. The target is 0.5 % of a call of
50 ms. Then 200 generations each, by ``soda`` and ``sada`` with forecasts and by ``off``: resident memory and tensors
alive after a collection, behind 20 more to warm up. That nothing is kept after ``remove()`` is a test
(``tests/adapters/test_attach.py: test_nothing_is_retained``).
"""

import argparse
import gc
import os
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch

from benchmarks.measure import Ratio, keep
from tests.adapters.tiny import Tiny
from tests.adapters.video_pipes import wan
from videoaccel.generation.accelerate import accelerate

STEPS, BRANCHES = 20, 2
FEW = 8
"""Steps where it is memory that is looked at."""

WARMUP, GENERATIONS = 20, 200

WAYS: dict[str, tuple[str, dict[str, Any]] | None] = {
    "plain": None,
    "off": ("off", {}),
    "soda, all computed": ("soda", {"speedup": 1.0, "calibrate": 1}),
}
FORECASTING: dict[str, tuple[str, dict[str, Any]] | None] = {
    "off": ("off", {}),
    "soda": ("soda", {"speedup": 2.0, "calibrate": 1}),
    "sada": ("sada", {"threshold": 0.5}),
}


def busy(seconds: float) -> Tiny:
    """A pipeline whose network takes this much processor time a call."""
    tiny = wan()

    def forward(hidden_states: Any, **_: Any) -> Any:
        end = time.process_time() + seconds
        while time.process_time() < end:
            pass
        return (0.1 * hidden_states,)

    tiny.pipe.transformer.forward = forward
    return tiny


@contextmanager
def attached(tiny: Tiny, way: tuple[str, dict[str, Any]] | None, *, steps: int) -> Iterator[None]:
    """Attach, with the generation that is measured behind."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with nullcontext() if way is None else accelerate(tiny.pipe, way[0], **way[1]):
            tiny(steps=steps)
            yield


def in_turn(seconds: float, *, rounds: int, steps: int = STEPS) -> dict[str, list[tuple[float, float]]]:
    """Wall and processor seconds of generations, by way, run in turn."""
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in WAYS}
    pipelines = {name: busy(seconds) for name in WAYS}
    gc.collect()
    contexts = [attached(pipelines[name], way, steps=steps) for name, way in WAYS.items()]
    with contexts[0], contexts[1], contexts[2], warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for round_ in range(rounds + 1):
            for name, tiny in pipelines.items():
                wall, own = time.perf_counter(), time.process_time()
                tiny(steps=steps)
                if round_:
                    found[name].append((time.perf_counter() - wall, time.process_time() - own))
    return found


def compared(found: dict[str, list[tuple[float, float]]], *, calls: int) -> dict[str, Any]:
    """Against the plain one: ratios, and microseconds a call."""
    plain, result = found["plain"], {}
    for name, runs in found.items():
        if name == "plain":
            continue
        pairs = list(zip(runs, plain, strict=True))
        over = [(one[1] - other[1]) / calls * 1e6 for one, other in pairs]
        least = (min(one[1] for one in runs) - min(one[1] for one in plain)) / calls * 1e6
        result[name] = {
            "wall_ratio": str(Ratio.of([one[0] for one in runs], [one[0] for one in plain])),
            "processor_ratio": str(Ratio.of([one[1] for one in runs], [one[1] for one in plain])),
            "processor_microseconds_a_call": _spread(over),
            "processor_microseconds_a_call_of_the_least": round(least, 1),
        }
    return result


def _spread(values: Sequence[float]) -> str:
    quarters = statistics.quantiles(values, n=4) if len(values) > 1 else [values[0]] * 3
    return f"{quarters[1]:.1f} [{quarters[0]:.1f}, {quarters[2]:.1f}]"


def growth(way: tuple[str, dict[str, Any]] | None, *, warmup: int, generations: int) -> dict[str, Any]:
    """What many generations leave behind: tensors alive, and resident memory."""
    tiny = busy(0.0)
    with attached(tiny, way, steps=FEW), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for _ in range(warmup):
            tiny(steps=FEW)
        tensors, resident = _tensors(), _resident()
        for seed in range(generations):
            tiny(steps=FEW, seed=seed)
        return {
            "tensors_alive_more": _tensors() - tensors,
            "resident_kilobytes_more": (_resident() - resident) // 1024,
            "calls_of_the_network_in_the_last": tiny.calls.total(),
        }


def _tensors() -> int:
    gc.collect()
    return sum(1 for one in gc.get_objects() if isinstance(one, torch.Tensor))


def _resident() -> int:
    """Bytes; of Linux only."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def measured(rounds: int, generations: int, warmup: int) -> dict[str, Any]:
    """Everything."""
    costs: dict[str, Callable[[], dict[str, Any]]] = {
        f"call_of_{milliseconds}_ms": lambda ms=milliseconds, n=count: compared(
            in_turn(ms / 1e3, rounds=n), calls=STEPS * BRANCHES
        )
        for milliseconds, count in ((50, rounds), (1, 8 * rounds), (0, 8 * rounds))
    }
    with tempfile.TemporaryDirectory() as folder:
        before = os.environ.get("XDG_CACHE_HOME")
        os.environ["XDG_CACHE_HOME"] = folder
        try:
            found = {name: make() for name, make in costs.items()}
            kept = {
                name: growth(way, warmup=warmup, generations=generations)
                for name, way in {"plain": None, **FORECASTING}.items()
            }
        finally:
            if before is None:
                del os.environ["XDG_CACHE_HOME"]
            else:
                os.environ["XDG_CACHE_HOME"] = before
    return {"calls_of_a_generation": STEPS * BRANCHES, "rounds": rounds, **found, "generations": generations, **{
        f"after_them_with_{name}": one for name, one in kept.items()
    }}  # fmt: skip


def main() -> None:
    """Measure and keep the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    torch.set_num_threads(1)
    keep("adapter", measured(parser.parse_args().rounds, GENERATIONS, WARMUP))


if __name__ == "__main__":
    main()
