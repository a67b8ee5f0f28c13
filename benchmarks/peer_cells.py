"""One cell of the comparison with other tools: what a tool does on a pipeline, from runs.

**The standing run.** Every network is given the latent and the timestep of its first call of the generation, whatever
it is called with, so that each branch's answer of each network is one constant. Whatever a tool reuses of that branch's
own answers, held or forecast, whole or of single blocks, then gives the same value as computing; what it takes from
another branch, another network or the generation before shows, in full size, in the value that the scheduler is given.
Work is counted in floating-point operations between the scheduler's steps, so that it shows in which evaluations
something was reused. Worker: ``python -m benchmarks.peer_cells --tools "soda,sada"`` prints a line of JSON a cell;
each runs in a fork, so that a crash is a cell and what a tool patches is gone.
"""

import argparse
import contextlib
import functools
import gc
import json
import logging
import os
import re
import select
import signal
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from benchmarks.peer_cases import CASES, Case, Options, another, two_samples
from benchmarks.peer_tools import TOOLS, Tool
from tests.adapters.tiny import NETWORKS, Run, Tiny

SAME = 1e-3
"""Relative error of the scheduler's value in a standing run up to which it is rounding."""

APART = 1e-2
"""Least relative difference between branches, networks and generations, for the standing run to tell them apart."""

LIMIT = 180
"""Seconds of a cell."""

WEIGHED = (3, 9)
"""Steps at which living tensors are counted."""

LATENTS = ("hidden_states", "audio_hidden_states", "sample", "x")
TIMES = ("timestep", "timesteps", "t", "sigma", "audio_timestep")


class Flops(TorchDispatchMode):
    """Counts floating-point operations of products."""

    def __init__(self) -> None:
        super().__init__()
        self.total = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = func(*args, **(kwargs or {}))
        count = flop_registry.get(func._overloadpacket)
        if count is not None:
            self.total += count(*args, **(kwargs or {}), out_val=found)
        return found


@dataclass
class Seen:
    """What a generation showed.

    Attributes:
        values: What the scheduler was given, step by step.
        flops: Between steps.
        answers: By network and number of the call in the evaluation, its constant answers.
        held: Bytes of living tensors, at most, at a step; 0 where that was not looked at.
    """

    values: list[Tensor] = field(default_factory=list)
    flops: list[int] = field(default_factory=list)
    answers: dict[tuple[str, int], list[Tensor]] = field(default_factory=dict)
    held: int = 0


class Watch:
    """Watches a pipeline from below whatever is put on it: in the networks, and in the scheduler's class."""

    def __init__(self, tiny: Tiny) -> None:
        self.seen, self.standing, self.weighing = Seen(), False, False
        self._flops, self._first, self._calls = Flops(), {}, 0
        for name in NETWORKS:
            if isinstance(network := getattr(tiny.pipe, name, None), nn.Module):
                network.register_forward_pre_hook(functools.partial(self._stand, name), with_kwargs=True)
                network.register_forward_hook(functools.partial(self._answered, name))
        scheduler, told = tiny.pipe.scheduler, self._stepped
        kind = type(scheduler)

        @functools.wraps(kind.step)
        def step(self: Any, *args: Any, **kwargs: Any) -> Any:
            told(args[0] if args else kwargs["model_output"])
            return kind.step(self, *args, **kwargs)

        members = {"step": step, "__module__": kind.__module__, "__qualname__": kind.__qualname__}
        scheduler.__class__ = type(kind.__name__, (kind,), members)

    def run(self, tiny: Tiny, options: Options, *, standing: bool = False, weighing: bool = False) -> tuple[Run, Seen]:
        """A generation."""
        self.seen, self.standing, self.weighing, self._first, self._calls = Seen(), standing, weighing, {}, 0
        asked = dict(options)
        if asked.pop("other", False):
            asked = {**another(tiny.options), **asked}
        if asked.pop("batch", 1) == 2:
            asked = {**asked, **two_samples({**tiny.options, **asked})}
        self._flops.total = 0
        with self._flops if standing else contextlib.nullcontext():
            return tiny(**asked), self.seen

    def _stand(self, name: str, network: Any, args: Any, kwargs: Any) -> Any:
        if not self.standing:
            return None
        places = [(place, f"{name} {place}", one) for place, one in enumerate(args) if place < 2]
        named = [(key, f"{name} {key}", one) for key, one in kwargs.items() if key in (*LATENTS, *TIMES)]
        args = (*(self._same(key, one) for _, key, one in places), *args[2:])
        return args, {**kwargs, **{key: self._same(label, one) for key, label, one in named}}

    def _same(self, key: str, value: Any) -> Any:
        shape = value.shape if isinstance(value, Tensor) else len(value) if isinstance(value, list) else None
        label = f"{key} {shape}"
        if label not in self._first:
            self._first[label] = value.clone() if isinstance(value, Tensor) else value
            if isinstance(value, list):
                self._first[label] = [one.clone() for one in value]
        return self._first[label]

    def _answered(self, name: str, network: Any, args: Any, output: Any) -> None:
        if self.standing:
            self.seen.answers.setdefault((name, self._calls), []).append(_first_tensor(output).float().clone())
            self._calls += 1

    def _stepped(self, value: Tensor) -> None:
        self.seen.values.append(value.detach().float().clone())
        self.seen.flops.append(self._flops.total)
        self._flops.total = self._calls = 0
        if self.weighing and len(self.seen.values) in WEIGHED:
            self.seen.held = max(self.seen.held, living())


def living() -> int:
    """Bytes of all tensors, those that share memory counted once."""
    gc.collect()
    found = {}
    for one in gc.get_objects():
        if type(one) in (Tensor, nn.Parameter):
            found[one.untyped_storage().data_ptr()] = one.untyped_storage().nbytes()
    return sum(found.values())


@dataclass(frozen=True)
class Reference:
    """Plain runs of a case: real ones, and standing ones."""

    real: list[Run]
    standing: list[Seen]
    calls: int
    held: int
    seconds: float
    apart: float
    words: frozenset[str]


def reference(case: Case) -> Reference:
    """The plain runs of a case.

    Raises:
        ValueError: A branch's answers in the standing run are no constant, or two say nearly the same.
    """
    with _listening() as words:
        tiny = case.build()
        watch = Watch(tiny)
        before = living()
        start = time.process_time()
        real = [watch.run(tiny, options)[0] for options in case.generations]
        seconds, calls = time.process_time() - start, tiny.calls.total()
        held = watch.run(tiny, case.generations[-1], weighing=True)[1].held - before
        standing = [watch.run(tiny, options, standing=True)[1] for options in case.generations]
    moved = max(_far(one, two[0]) for seen in standing for two in seen.answers.values() for one in two)
    if moved > 1e-5:
        raise ValueError(f"the standing run of {case.name} moves by {moved:.1e}")
    apart = min(_gaps(standing), default=float("inf"))
    if apart < APART:
        raise ValueError(f"{case.name}: answers differ by {apart:.1e} only")
    return Reference(real, standing, calls, held, seconds, apart, frozenset(words))


def _gaps(standing: Sequence[Seen]) -> Iterator[float]:
    """Between the branches and networks of a generation, and between generations."""
    for seen in standing:
        answers = [one[0] for one in seen.answers.values()]
        for k, one in enumerate(answers):
            yield from (_far(one, two) for two in answers[:k] if one.shape == two.shape)
    first, last = standing[0], standing[-1]
    for key, answers in first.answers.items() if first is not last else ():
        later = last.answers.get(key)
        if later is not None and later[0].shape == answers[0].shape:
            yield _far(later[0], answers[0])


def cell(case: Case, tool: Tool, plain: Reference) -> dict[str, Any]:
    """What a tool does: a verdict, why, and numbers."""
    found: dict[str, Any] = {"case": case.name, "tool": tool.name}
    with tempfile.TemporaryDirectory() as folder, _listening() as words:
        os.environ["XDG_CACHE_HOME"] = os.path.join(folder, "loose")
        try:
            real, still = _really(case, tool, plain), _standing(case, tool, plain)
            loose = {**real, **still, "wrong": real["wrong"] + still["wrong"]}
            said = [word for word in dict.fromkeys(words) if word not in plain.words]
            _judge(found, loose, exact=_exact(case, tool, plain, folder), said=said)
        except _PutOnError as error:
            cause = error.__cause__
            refusing = isinstance(cause, ValueError | NotImplementedError) and str(cause)
            found |= {"verdict": "refused" if refusing else "error", "why": _short(cause), "when": "put on"}
        except Exception as error:
            found |= {"verdict": "error", "why": _short(error), "when": "generating"}
    return found


class _PutOnError(Exception):
    pass


def _judge(found: dict[str, Any], loose: dict[str, Any], *, exact: bool, said: list[str]) -> None:
    wrong = loose.pop("wrong") + ([] if exact else ["other bits where nothing may be reused"])
    nothing = "computed all, said" if said else "computed all"
    found |= {"verdict": "wrong" if wrong else "right" if any(loose["reused"]) else nothing}
    found |= {**({"why": ", ".join(wrong)} if wrong else {}), **loose, **({"said": said[:2]} if said else {})}


def _on(case: Case, tool: Tool, *, strict: bool = False) -> tuple[Tiny, Watch, int]:
    """The pipeline with the tool on it, and the bytes of living tensors before that."""
    tiny = case.build()
    watch = Watch(tiny)
    before = living()
    try:
        tool.put_on(tiny.pipe, case.steps, strict)
    except Exception as error:
        raise _PutOnError from error
    return tiny, watch, before


def _warm(case: Case, tool: Tool, tiny: Tiny, watch: Watch, **how: bool) -> None:
    for _ in range(tool.before):
        watch.run(tiny, {**case.generations[0], "seed": 5}, **how)


def _really(case: Case, tool: Tool, plain: Reference) -> dict[str, Any]:
    """Real generations: what they take, and whether they are sound."""
    tiny, watch, before = _on(case, tool)
    _warm(case, tool, tiny, watch)
    start = time.process_time()
    real = [watch.run(tiny, options)[0] for options in case.generations]
    seconds, calls = time.process_time() - start, tiny.calls.total()
    held = watch.run(tiny, case.generations[-1], weighing=True)[1].held - before
    wrong = [] if all(run.finite() for run in real) else ["not finite"]
    if not all(run.same_draws(other) for run, other in zip(real, plain.real, strict=True)):
        wrong.append("other random numbers")
    return {
        "wrong": wrong,
        "network_calls": [calls, plain.calls],
        "cpu_seconds": [round(seconds, 3), round(plain.seconds, 3)],
        "stored_bytes": max(0, held - plain.held),
    }


def _standing(case: Case, tool: Tool, plain: Reference) -> dict[str, Any]:
    """Standing generations: what was reused, in which evaluations, and whether it was the right thing."""
    tiny, watch, _ = _on(case, tool)
    _warm(case, tool, tiny, watch, standing=True)
    standing = [watch.run(tiny, options, standing=True)[1] for options in case.generations]
    pairs = list(zip(standing, plain.standing, strict=True))
    reused, error = [_reused(*pair) for pair in pairs], max(_error(*pair) for pair in pairs)
    wrong = ["values of another call"] if error > SAME else []
    if any(not tool.may(i, case.steps) for places in reused for i in places):
        wrong.append("in other steps than asked")
    return {
        "wrong": wrong,
        "error": float(f"{error:.2e}"),
        "work": [round(sum(seen.flops) / sum(other.flops), 3) for seen, other in pairs],
        "reused": [len(places) for places in reused],
        "evaluations": [sum(1 for flops in other.flops if flops) for other in plain.standing],
    }


def _exact(case: Case, tool: Tool, plain: Reference, folder: str) -> bool:
    """Whether real generations have the plain ones' bits where nothing may be reused."""
    os.environ["XDG_CACHE_HOME"] = os.path.join(folder, "exact")
    tiny, watch, _ = _on(case, tool, strict=True)
    _warm(case, tool, tiny, watch)
    runs = [watch.run(tiny, options)[0] for options in case.generations]
    return all(run.equals(other) for run, other in zip(runs, plain.real, strict=True))


def _reused(seen: Seen, plain: Seen) -> list[int]:
    """Evaluations with less work than in the plain run."""
    places = [place for place, flops in enumerate(plain.flops) if flops]
    return [i for i, place in enumerate(places) if seen.flops[place] < 0.99 * plain.flops[place]]


def _error(seen: Seen, plain: Seen) -> float:
    return max(_far(one, two) for one, two in zip(seen.values, plain.values, strict=True))


def _far(one: Tensor, two: Tensor) -> float:
    return float((one - two).norm() / two.norm().clamp(min=1e-30))


def _first_tensor(output: Any) -> Tensor:
    if isinstance(output, Tensor):
        return output
    return _first_tensor(next(iter(output.values())) if isinstance(output, dict) else output[0])


def _short(error: BaseException | None) -> str:
    text = re.sub(r"\s+", " ", str(error)).strip()
    return f"{type(error).__name__}: {text[:110]}"


@contextlib.contextmanager
def _listening() -> Iterator[list[str]]:
    """Texts of warnings, and of what is logged at their level or above."""
    words: list[str] = []

    class Ear(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            words.append(record.getMessage()[:160])

    ear = Ear(level=logging.WARNING)
    known = [logging.getLogger(name) for name in ("", "diffusers", "cache_dit", "CACHE_DIT")]
    for logger in known:
        logger.addHandler(ear)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("always")
            warnings.showwarning = lambda message, *_, **__: words.append(str(message)[:160])
            yield words
    finally:
        for logger in known:
            logger.removeHandler(ear)


def forked(case: Case, tool: Tool, plain: Reference) -> dict[str, Any]:
    """A cell in a process of its own: one that dies or takes too long is an error."""
    mine, its = os.pipe()
    gc.freeze()  # what is there already need not be looked through, nor its pages be copied
    child = os.fork()
    if child == 0:
        status = 1
        try:
            os.write(its, json.dumps(cell(case, tool, plain)).encode() + b"\n")
            status = 0
        finally:
            os._exit(status)
    os.close(its)
    with os.fdopen(mine, "rb") as pipe:
        ready, _, _ = select.select([pipe], [], [], LIMIT)
        if not ready:
            os.kill(child, signal.SIGKILL)
        text = pipe.read()
    _, status = os.waitpid(child, 0)
    if text:
        return dict(json.loads(text))
    why = f"no answer within {LIMIT} s" if not ready else f"the process ended with {os.waitstatus_to_exitcode(status)}"
    return {"case": case.name, "tool": tool.name, "verdict": "error", "why": why, "when": "generating"}


def main() -> None:
    """Print cells, a line each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tools", required=True)
    parser.add_argument("--cases", default="")
    args = parser.parse_args()
    torch.set_num_threads(1)
    names, cases = args.tools.split(","), args.cases.split(";") if args.cases else [case.name for case in CASES]
    for case in (case for case in CASES if case.name in cases):
        plain = reference(case)
        print(json.dumps({"case": case.name, "apart": float(f"{plain.apart:.3g}")}), flush=True)
        for tool in (tool for tool in TOOLS if tool.name in names):
            print(json.dumps(forked(case, tool, plain)), flush=True)


if __name__ == "__main__":
    main()
    sys.exit(0)
