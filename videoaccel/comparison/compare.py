"""Speed and quality of acceleration methods, all measured in one process on the same clips.

Every clip is made once with every setting and compared with the exact clip of its prompt and seed; then some clips are
timed, all settings in turn in every round. What is measured is written down at once, and is not measured again.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from videoaccel.common.devices import cpu_threads
from videoaccel.common.files import atomic_write_bytes, atomic_write_text
from videoaccel.common.plain_json import to_json
from videoaccel.common.stages import Listener
from videoaccel.common.user_warning import warn_user
from videoaccel.comparison.asked import Asked
from videoaccel.comparison.bench import Bench, machine
from videoaccel.comparison.clip import AnyBench, Clip
from videoaccel.comparison.kept import KeptClips
from videoaccel.comparison.log import CLIPS, PANELS, PICTURE, RESULTS, TABLE, Log, Row, check_holds, open_log
from videoaccel.comparison.outside import OutsideBench, arguments_by_name, had
from videoaccel.comparison.run import Keep, measure_quality, measure_time
from videoaccel.comparison.settings import Setting
from videoaccel.comparison.table import AtSpeedup, Result, at_speedups, summarise, to_csv
from videoaccel.comparison.worst import Worst
from videoaccel.generation.pipeline import VideoPipeline
from videoaccel.generation.request import prompt_texts
from videoaccel.jobs.parts import encode_texts, load_pipeline
from videoaccel.jobs.resolve import resolve
from videoaccel.jobs.sidecar import versions
from videoaccel.outside.find import Found, find_outside
from videoaccel.outside.loading import load
from videoaccel.outside.order import resolve_outside
from videoaccel.settings.config import require
from videoaccel.settings.generate import GenerateSettings
from videoaccel.text.encoder import PromptStates


@dataclass(frozen=True)
class Comparison:
    """What came of it.

    Attributes:
        results: One a setting, ``exact`` first.
        at: Every method's PSNR at the speed-ups that were asked for.
        about: Model, machine, versions, command.
        files: What was written; the folder of clips, if they are kept.
        notes: What to say of it: a picture that could not be drawn.
    """

    results: Sequence[Result]
    at: Sequence[AtSpeedup]
    about: Mapping[str, Any]
    files: Sequence[Path]
    notes: Sequence[str] = ()

    @property
    def errors(self) -> list[Result]:
        """Settings that have no result."""
        return [result for result in self.results if result.error is not None]


def compare(
    pipe: Any,
    prompts: Sequence[str],
    *,
    states: Mapping[str, PromptStates] | None = None,
    listener: Listener | None = None,
    **asked: Any,
) -> Comparison:
    """Compare methods with the model as it is; write ``results.json``, ``results.csv`` and two pictures.

    A folder that holds part of the same comparison is gone on with.

    Args:
        pipe: The model: a :class:`videoaccel.VideoPipeline`, or a pipeline of diffusers.
        prompts: What to generate; names or numbers of classes for a pipeline that takes these, `[""]` for one that
            takes nothing.
        states: Text states by prompt, one row each, for a VideoPipeline; None encodes the prompts.
        listener: Told (stage, runs done, runs in all); stages are ``quality`` and ``timing``.
        **asked: The fields of :class:`videoaccel.comparison.asked.Asked`: ``methods``, ``out``, ``seeds``, ``speedups``
            and so on; and of the pipeline's call size, steps and the like.

    Raises:
        ValueError: An argument is wrong, an extra is missing, or the folder holds something else.
        OSError: The folder cannot be written.
    """
    if not isinstance(pipe, VideoPipeline):
        if states is not None:
            raise ValueError("states are for a VideoPipeline; other pipelines encode their prompts themselves")
        outside = _outside(asked, known=None)
        bench: AnyBench = OutsideBench(
            pipe, arguments_by_name(pipe, outside.options), outside.prior, outside.foreign_prior
        )
        return _compared(bench, prompts, outside, listener)
    wanted = Asked.of(asked)
    wanted.check(prompts)
    with torch.inference_mode():
        texts = states or _encoded(pipe, prompts)
        bench = Bench(pipe, texts, wanted.options, prior=wanted.prior, foreign_prior=wanted.foreign_prior)
        return _compared(bench, prompts, wanted, listener)


def _outside(asked: Mapping[str, Any], *, known: Sequence[str] | None) -> Asked:
    """What is asked of a pipeline of diffusers: ``all`` are the methods that can be had there."""
    wanted = Asked.of(asked, known=known)
    return replace(wanted, methods=had(wanted.methods))


def _compared(bench: AnyBench, prompts: Sequence[str], wanted: Asked, listener: Listener | None) -> Comparison:
    chosen, clips = wanted.check(prompts)
    holds = bench.holds(clips[0])
    about = {
        "model": wanted.name,
        "title": bench.title(wanted.name, holds),
        "command": wanted.command,
        "machine": machine(bench.device),
        "versions": versions(),
    }
    dated = about | {"date": time.strftime("%Y-%m-%d %H:%M:%S")}
    with open_log(Path(wanted.out), holds=holds, about=dated) as log:
        skipped = {s.key: reason for s in chosen if (reason := bench.why_not(s, clips[0])) is not None}
        run = [setting for setting in chosen if setting.key not in skipped]
        _warn_of(skipped)
        _measure(bench, run, clips, wanted, log, listener)
        rows = _rows(bench, run, clips, wanted, log)
        results = summarise(chosen, rows, skipped=skipped)
        return _write(wanted, results, at_speedups(results, wanted.speedups), about | {"holds": holds})


def _warn_of(skipped: Mapping[tuple[str, str], str]) -> None:
    """Say before hours of work which methods will have no result; settings of one method share the reason."""
    for reason in dict.fromkeys(skipped.values()):
        methods = dict.fromkeys(method for (method, _), why in skipped.items() if why == reason)
        warn_user(f"no result will there be of {', '.join(methods)}: {reason}")


def _measure(
    bench: AnyBench, run: Sequence[Setting], clips: Sequence[Clip], asked: Asked, log: Log, listener: Listener | None
) -> None:
    tick = _counter(listener, "quality", len(run) * len(clips))
    keeps: list[Keep] = [Worst(Path(asked.out), log)]
    if asked.keep_clips:
        fps, rate = bench.rates(clips[0])
        keeps.append(KeptClips(Path(asked.out), fps=fps, rate=rate))
    measure_quality(bench, run, clips, log=log, tick=tick, keeps=keeps)
    timed, repeats = clips[: asked.timed_clips], asked.repeats
    total = len(run) * len(timed) * repeats
    measure_time(bench, run, timed, repeats=repeats, log=log, tick=_counter(listener, "timing", total))


def _rows(bench: AnyBench, run: Sequence[Setting], clips: Sequence[Clip], asked: Asked, log: Log) -> list[Row]:
    """What was measured of these clips with today's priors; the folder may hold more."""
    hashes = {setting.key: bench.prior_hash(setting, clips[0]) for setting in run}
    return [
        row
        for row in log.rows.values()
        if Clip(row["prompt"], row["seed"]) in clips
        and (row["kind"] == "quality" or row["repeat"] < asked.repeats)
        and hashes.get((row["method"], row["setting"])) == row["prior"]
    ]


def compare_settings(asked: GenerateSettings, /, *, listener: Listener | None = None, **options: Any) -> Comparison:
    """Compare on what ``videoaccel generate`` would be told: model, prompts, size, device and so on.

    Args:
        asked: Nothing in it is about given frames, loops or outputs.
        listener: As of :func:`compare`; before its stages come ``text`` and ``load``.
        **options: Of :func:`compare`: methods, out, seeds, speedups, ...

    Raises:
        ValueError: As :func:`compare`, or a setting does not fit the model.
        FileNotFoundError: A file is not there.
    """
    require(asked, GenerateSettings, who="compare_settings")
    if (found := find_outside(asked)) is not None:
        return _compare_outside(asked, found, listener, options)
    Asked.of(options).check(asked.prompt)  # what is wrong is said before anything is loaded
    order = resolve(asked)
    s = order.settings
    size = [order.height, order.width]
    known = {"steps": s.steps, "size": size, "frames": s.frames, "guidance": s.guidance, "dtype": s.dtype, "fps": s.fps}
    check_holds(Path(options["out"]), {**known, "attention": s.attention})
    tell = listener or (lambda stage, done, total: None)
    with cpu_threads(s.threads):
        tell("text", 0, 1)
        texts = encode_texts(order)
        tell("load", 0, 1)
        pipe = load_pipeline(order)
        states = {sample.prompt: texts[sample.texts[0]] for batch in order.batches for sample in batch}
        return compare(
            pipe,
            s.prompt,
            states=states,
            name=order.source.name,
            listener=listener,
            negative_prompt_states=None if order.negative is None else texts[order.negative],
            empty_prompt_states=texts.get(""),
            height=order.height,
            width=order.width,
            num_frames=s.frames,
            fps=s.fps,
            num_inference_steps=s.steps,
            guidance_scale=s.guidance,
            attention_backend=s.attention,
            **options,
        )


def _compare_outside(
    asked: GenerateSettings, found: Found, listener: Listener | None, options: Mapping[str, Any]
) -> Comparison:
    """Load a pipeline of diffusers, and compare on it."""
    prompts = asked.prompt or ("",)
    wanted = _outside({"name": found.name, **options}, known=())
    wanted.check(prompts)  # what is wrong is said before anything is loaded
    order = resolve_outside(asked, found)
    s = order.settings
    tell = listener or (lambda stage, done, total: None)
    with cpu_threads(s.threads):
        tell("load", 0, 1)
        pipe = load(found, order.kind, s)
        bench = OutsideBench(pipe, order.told(pipe), wanted.prior, wanted.foreign_prior)
        return _compared(bench, prompts, wanted, listener)


def _encoded(pipe: VideoPipeline, prompts: Sequence[str]) -> dict[str, PromptStates]:
    texts = prompt_texts(prompts, pipe.defaults, loops=1)
    return {prompt: pipe.encode_prompt(text) for prompt, text in zip(prompts, texts, strict=True)}


def _counter(listener: Listener | None, stage: str, total: int) -> Any:
    done = -1

    def tick() -> None:
        nonlocal done
        done += 1
        if listener is not None and total:
            listener(stage, done, total)

    tick()
    return tick


def _write(asked: Asked, results: Sequence[Result], at: Sequence[AtSpeedup], about: Mapping[str, Any]) -> Comparison:
    out = Path(asked.out)
    files = [out / RESULTS, out / TABLE]
    whole = {**about, "rows": [asdict(result) for result in results], "at_speedup": [_read_off(found) for found in at]}
    atomic_write_text(files[0], f"{to_json(whole, indent=2)}\n")
    atomic_write_text(files[1], to_csv(results))
    if asked.keep_clips:
        files.append(out / CLIPS)
    missing = asked.no_picture
    if asked.picture and missing is None:
        from videoaccel.comparison.plot import plot, plot_each

        title = f"{about['title']}, {about['machine']['name']}"
        for name, drawn in ((PICTURE, plot), (PANELS, plot_each)):
            files.append(out / name)
            atomic_write_bytes(files[-1], drawn(results, title=title))
    return Comparison(results, at, about, files, () if missing is None else (missing,))


def _read_off(found: AtSpeedup) -> dict[str, Any]:
    return asdict(found) | {"result": found.text}
