"""Makes the measurements of a comparison, one denoising run after the other, and writes each down at once."""

from __future__ import annotations

import hashlib
import itertools
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, Protocol

from videoaccel.comparison.clip import AnyBench, Clip, Content, Run
from videoaccel.comparison.log import Log
from videoaccel.comparison.settings import Setting
from videoaccel.comparison.values import EXACT, OFF

FRESH = 15.0
"""Seconds for which a run of exact says how fast the machine is."""


class Keep(Protocol):
    """What is to be had of clips, beside their measurements."""

    def wants(self, row: Mapping[str, Any]) -> bool:
        """Whether a clip that was measured before, with this row, is to be made again for it."""
        ...

    def __call__(self, row: Mapping[str, Any], content: Content, reference: Content, /) -> None:
        """Told of a measurement, the clip, and the exact clip, before the measurement is written down."""
        ...


def measure_quality(
    bench: AnyBench,
    settings: Sequence[Setting],
    clips: Sequence[Clip],
    *,
    log: Log,
    tick: Callable[[], None] = lambda: None,
    keeps: Sequence[Keep] = (),
) -> None:
    """Make every clip with every setting once, and compare it with the exact one.

    Args:
        bench: Makes them.
        settings: The first is ``exact``.
        clips: All of them.
        log: What is there is not made again.
        tick: Called for each clip and setting.
        keeps: Each is called with a row of the log, the clip it is about, and the exact one, as soon as it is made.

    Raises:
        ValueError: The exact clip is not the one that the log's rows were compared with.
        FloatingPointError: The exact clip is not numbers.
    """
    exact = settings[0]
    assert exact.method == EXACT
    for clip in clips:
        keys = {setting: _key("quality", setting, clip, bench) for setting in settings}
        wanted, frames = None, None
        for setting, key in keys.items():
            known = log.get(key)
            if known is None or any(keep.wants(known) for keep in keeps):
                if wanted is None or frames is None:
                    wanted = bench.make(clip, exact)
                    frames = bench.decode(wanted)
                    _check_same(log, keys[exact], frames)
                first = clip == clips[0]
                row = _attempt_quality(key, bench, clip, setting, wanted, frames, keeps=keeps, first=first)
                if known is None:
                    log.add(row)
            tick()


def measure_time(
    bench: AnyBench,
    settings: Sequence[Setting],
    clips: Sequence[Clip],
    *,
    repeats: int,
    log: Log,
    tick: Callable[[], None] = lambda: None,
    clock: Callable[[], float] = time.monotonic,
) -> None:
    """Time every setting on every clip ``repeats`` times: in each round all settings in turn, each paired with exact.

    The exact run is made again before a setting if the last one is older than ``FRESH``: a machine's speed drifts. What
    failed on a clip is not timed there. A setting that has not run in this process runs once before.
    """
    exact = settings[0]
    assert exact.method == EXACT
    for number, (repeat, clip) in enumerate(itertools.product(range(repeats), clips)):
        turn = 1 + number % max(1, len(settings) - 1)
        keys = {s: _key("timing", s, clip, bench, repeat=repeat) for s in (*settings[turn:], *settings[1:turn])}
        todo = {s: key for s, key in keys.items() if key not in log and not _failed(log, s, clip, bench)}
        first = _key("timing", exact, clip, bench, repeat=repeat)
        for _ in range(len(settings) - len(todo) - 1):
            tick()
        if todo or first not in log:
            for setting in (exact, *todo):
                if setting.key not in bench.warm:
                    _attempt(partial(_warm_up, bench, clip, setting))
            base, since = bench.make(clip, exact), clock()
            if first not in log:
                log.add(first | _timing(base, base))
        tick()
        for setting, key in todo.items():
            if clock() - since > FRESH:
                base, since = bench.make(clip, exact), clock()
            log.add(key | _attempt(partial(_timed, bench, clip, setting, base)))
            tick()


def _failed(log: Log, setting: Setting, clip: Clip, bench: AnyBench) -> bool:
    return "error" in (log.get(_key("quality", setting, clip, bench)) or {})


def _warm_up(bench: AnyBench, clip: Clip, setting: Setting) -> dict[str, Any]:
    bench.make(clip, setting)
    return {}


def _timed(bench: AnyBench, clip: Clip, setting: Setting, base: Run) -> dict[str, Any]:
    return _timing(bench.make(clip, setting), base)


def _attempt_quality(
    key: dict[str, Any],
    bench: AnyBench,
    clip: Clip,
    setting: Setting,
    wanted: Run,
    reference: Content,
    *,
    keeps: Sequence[Keep],
    first: bool,
) -> dict[str, Any]:
    made: list[Content] = []
    row = key | _attempt(lambda: _quality(bench, clip, setting, wanted, reference, made.append, first=first))
    if made and "error" not in row:
        for keep in keeps:
            keep(row, made[0], reference)
    return row


def _quality(
    bench: AnyBench,
    clip: Clip,
    setting: Setting,
    wanted: Run,
    reference: Content,
    decoded: Callable[[Content], None],
    *,
    first: bool,
) -> dict[str, Any]:
    made = wanted if setting.method == EXACT else bench.make(clip, setting)
    same = bench.same(made, wanted)
    if setting.method == OFF and not same:
        raise ArithmeticError("the machinery with nothing changed gave another latent than the plain run")
    frames = reference if made is wanted else bench.decode(made)
    decoded(frames)
    did = bench.decided(made)
    return {
        **bench.compared(frames, reference, clip.prompt),
        "steps": did.steps,
        "flops": did.flops,
        "fired": did.changed or not same,
        "digest": did.digest,
        "actions": did.actions,
        "cache_bytes": did.cache_bytes,
        **_replayed(made),
        **({"coarser": dict(did.coarser)} if did.coarser else {}),
        **({"frames": _hash(reference)} if made is wanted else {}),
        # One clip's decisions step by step are enough to draw; all of them would be most of the file.
        **({"grid": did.grid} if first else {}),
    }


def _timing(made: Run, exact: Run) -> dict[str, Any]:
    return {
        "seconds": made.seconds,
        "exact_seconds": exact.seconds,
        "plan_seconds": made.plan_seconds,
        "peak_memory": made.peak,
        **_replayed(made),
    }


def _replayed(made: Run) -> dict[str, Any]:
    return {} if made.graph_calls is None else {"graph_calls": dict(made.graph_calls)}


def _attempt(work: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """What came of one run; a failure is a result, too."""
    try:
        return work()
    except OSError:
        raise
    except Exception as error:
        text = " ".join(str(error).split())
        known = isinstance(error, ValueError | ArithmeticError)
        return {"error": text if known and text else f"{type(error).__name__}: {text}"}


def _key(kind: str, setting: Setting, clip: Clip, bench: AnyBench, *, repeat: int | None = None) -> dict[str, Any]:
    return {
        "kind": kind,
        "method": setting.method,
        "setting": setting.name,
        "prior": bench.prior_hash(setting, clip),
        "prompt": clip.prompt,
        "seed": clip.seed,
        "repeat": repeat,
    }


def _check_same(log: Log, key: Mapping[str, Any], frames: Content) -> None:
    before = (log.get(key) or {}).get("frames")
    if before not in (None, _hash(frames)):
        raise ValueError(
            f"{log.path} was made with another exact clip of {key['prompt']!r}, seed {key['seed']}, than comes out "
            f"now; choose a new folder"
        )


def _hash(frames: Content) -> str:
    return hashlib.sha256(frames.tobytes()).hexdigest()[:16]
