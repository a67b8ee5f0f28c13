"""Acceleration methods at full size: computed and served steps, whole generations, what sessions cost and store."""

import statistics
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from benchmarks.gpu.bench import STEPS, Bench
from benchmarks.gpu.faster import share
from videoaccel.generation.prepared import Denoising
from videoaccel.models.fp8 import quantize_linears
from videoaccel.models.fused import fuse
from videoaccel.models.seam import BODY
from videoaccel.planning.plan import Plan
from videoaccel.planning.session import PlanSession
from videoaccel.session.actions import COMPUTE, Forecast
from videoaccel.session.costs import Costs, count_flops, measure_time
from videoaccel.session.job import Job
from videoaccel.session.policy import Session
from videoaccel.session.registry import make_policy

COMPUTED = {0, 1, 2, 3, 5, 7, 9, 11, 13, 16, 19, 22, 25, 28, 29}  # half of 30 steps, as a plan places them
MODULE_METHODS = {"fora": 9, "taylorseer": 9, "pab": 16, "toca": 9}  # steps that show each kind of step


class _EnoughError(Exception):
    pass


def methods(bench: Bench) -> None:
    """Milliseconds of steps and seconds of generations; weights are random, so quality says nothing here."""
    steps = tuple({BODY: COMPUTE if i in COMPUTED else Forecast(1)} for i in range(STEPS))
    plan = Plan(steps, 0.0)
    _generate(bench, f"dense, {STEPS} steps", Session, STEPS)
    _generate(bench, f"plan of whole steps, 15 of {STEPS}", lambda job: PlanSession(plan, job), STEPS)
    sada = make_policy("sada", threshold=0.99)
    _generate(bench, "sada, all that it may leave out", lambda job: sada.session(job), STEPS)
    for name, count in MODULE_METHODS.items():
        if bench.left < 25:
            bench.put(name, "no time left")
            continue
        policy = make_policy(name)
        bench.attempt(
            f"{name}, {count} steps",
            lambda policy=policy, count=count: _generation(bench, lambda job: policy.session(job), count),
        )
        bench.clean()


def _generate(bench: Bench, key: str, make: Callable[[Job], Session], steps: int) -> None:
    bench.put(key, _generation(bench, make, steps))


def generation(bench: Bench) -> None:
    """The product as it is meant to run: kernels, then fp8; dense and at a speed-up of 2.5."""
    if not bench.cuda:
        return
    fuse(bench.model)
    computed = {0, 1, 3, 5, 8, 11, 14, 17, 20, 23, 26, 29}
    plan = Plan(tuple({BODY: COMPUTE if i in computed else Forecast(1)} for i in range(STEPS)), 0.0)
    for label in ("kernels", "kernels and fp8"):
        if label != "kernels":
            quantize_linears(bench.model)
        _generation(bench, Session, 2)
        _generate(bench, f"{label}: dense", Session, STEPS)
        _generate(bench, f"{label}: plan, {len(computed)} of {STEPS} calls", lambda job: PlanSession(plan, job), STEPS)
    for name in ("fora", "pab"):
        policy = make_policy(name)
        steps = MODULE_METHODS[name]
        _generate(bench, f"kernels and fp8: {name}, {steps} steps", lambda job, p=policy: p.session(job), steps)


def _generation(bench: Bench, make: Callable[[Job], Session], steps: int) -> dict[str, Any]:
    denoising = bench.denoising()
    session, marks = make(denoising.job()), []

    def after(i: int, t: Tensor, x: Tensor) -> Tensor:
        mark: Any = torch.cuda.Event(enable_timing=True) if bench.cuda else time.perf_counter()
        if bench.cuda:
            mark.record()
        marks.append(mark)
        if i + 1 == steps:
            raise _EnoughError
        return x

    bench.wait()
    start = time.perf_counter()
    with suppress(_EnoughError):
        denoising.denoise(session, callback=after)
    bench.wait()
    seconds = time.perf_counter() - start
    gaps = [a.elapsed_time(b) if bench.cuda else 1000 * (b - a) for a, b in pairwise(marks)]
    served, computed = [], []
    for gap, actions in zip(gaps, session.trace[1:], strict=False):
        (computed if all(action == COMPUTE for action in actions.values()) else served).append(gap)
    return {
        "seconds": round(seconds, 3),
        "steps": len(marks),
        "ms of a computed step": round(statistics.median(computed), 2) if computed else None,
        "ms of a served step": round(statistics.median(served), 2) if served else None,
        "served steps": len(served),
        "numbers read": sum(session.reads),
        "stored GiB": round(session.peak_bytes / 2**30, 3),
    }


def pruning(bench: Bench) -> None:
    """What modules cost at shares of their columns, with PyTorch's operations and with kernels: measured, counted."""
    denoising = bench.denoising()
    flops = count_flops(denoising.once_here, blocks=denoising.model.sites)
    _pruning(bench, "", denoising, flops)
    model = share(bench.model)
    fuse(model)
    _pruning(bench, "kernels: ", replace(denoising, model=model), flops)


def _pruning(bench: Bench, label: str, denoising: Denoising, flops: Costs) -> None:
    ms = measure_time(denoising.once_here, blocks=denoising.model.sites, repeats=3, budget=8.0)
    bench.put(f"{label}ms of a step, and of its rest", [round(ms.dense, 2), round(ms.rest, 3)])
    for kind, times in ms.modules.items():
        shares = {share: round(value / flops.modules[kind][1.0], 3) for share, value in flops.modules[kind].items()}
        found = {share: [round(value, 4), shares[share]] for share, value in sorted(times.items())}
        bench.put(f"{label}{'.'.join(kind)}: ms, share of FLOPs", found)
    for kind, times in ms.kept.items():
        found_ = {share: round(value, 4) for share, value in sorted(times.items())}
        bench.put(f"{label}{'.'.join(kind)}, kept keys: ms", found_)
