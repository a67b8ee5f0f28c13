"""Speed and quality of acceleration methods, all measured in one process on the same clips.

Every clip is made once with every setting and compared with the exact clip of its prompt and seed; then some clips are
timed, all settings in turn in every round. What is measured is written down at once, and is not measured again.
"""

from __future__ import annotations

import importlib.util
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from videoaccel.common.devices import cpu_threads
from videoaccel.common.files import atomic_write_bytes, atomic_write_text
from videoaccel.common.plain_json import to_json
from videoaccel.common.stages import Listener
from videoaccel.common.wording import counted
from videoaccel.comparison.bench import Bench, Clip, machine
from videoaccel.comparison.log import Log, check_folder
from videoaccel.comparison.run import measure_quality, measure_time
from videoaccel.comparison.settings import Setting, Values, choose_settings
from videoaccel.comparison.table import AtSpeedup, Result, at_speedups, summarise, to_csv
from videoaccel.comparison.worst import Worst
from videoaccel.generation.pipeline import VideoPipeline
from videoaccel.generation.request import prompt_texts
from videoaccel.jobs.parts import encode_texts, load_pipeline
from videoaccel.jobs.resolve import resolve
from videoaccel.jobs.sidecar import versions
from videoaccel.planning.prior import Prior
from videoaccel.sampling.noise import sample_seeds
from videoaccel.settings.generate import GenerateSettings
from videoaccel.text.encoder import PromptStates

TIMED_CLIPS, REPEATS = 4, 3

OPTIONS = (
    "height", "width", "num_frames", "fps", "num_inference_steps", "guidance_scale", "attention_backend",
    "negative_prompt_states", "empty_prompt_states",
)  # fmt: skip
"""Arguments of `VideoPipeline.request` that all clips of a comparison may share."""

RESULTS, TABLE, PICTURE = "results.json", "results.csv", "speed-quality.png"


@dataclass(frozen=True)
class Comparison:
    """What came of it.

    Attributes:
        results: One a setting, ``exact`` first.
        at: Every method's PSNR at the speed-ups that were asked for.
        about: Model, machine, versions, command.
        files: What was written.
    """

    results: Sequence[Result]
    at: Sequence[AtSpeedup]
    about: Mapping[str, Any]
    files: Sequence[Path]

    @property
    def errors(self) -> list[Result]:
        """Settings that have no result."""
        return [result for result in self.results if result.error is not None]


@torch.inference_mode()
def compare(
    pipe: VideoPipeline,
    prompts: Sequence[str],
    *,
    methods: Sequence[str] = (),
    out: str | Path,
    seeds: Sequence[int] = (0,),
    speedups: Sequence[float] = (),
    values: Mapping[str, Values] | None = None,
    controls: bool = True,
    settings: Sequence[Setting] = (),
    prior: Prior | None = None,
    foreign_prior: bool = False,
    timed_clips: int = TIMED_CLIPS,
    repeats: int = REPEATS,
    picture: bool = True,
    states: Mapping[str, PromptStates] | None = None,
    name: str = "model",
    command: str = "",
    listener: Listener | None = None,
    **options: Any,
) -> Comparison:
    """Compare methods with the model as it is, and write ``results.json``, ``results.csv`` and ``speed-quality.png``.

    A folder that holds part of the same comparison is gone on with.

    Args:
        pipe: The model.
        prompts: What to generate.
        methods: Names; ``all`` for all of them. ``exact`` is always there.
        out: Folder for the results.
        seeds: Of every prompt's clips.
        speedups: Where every method's PSNR is read off its curve.
        values: By method fields in place of its sweep, see :func:`videoaccel.comparison.settings.choose_settings`.
        controls: Add the two methods that others have to beat.
        settings: Further ones, such as one method in several forms; their ``method`` is what curves are drawn for.
        prior: Calibrated errors for the methods that need some; None looks for those of the model and setting.
        foreign_prior: Take a prior made for other steps, size, frames, guidance or type.
        timed_clips: How many clips, of the first, are timed.
        repeats: How often each; 0 times nothing.
        picture: Draw the picture.
        states: Text states by prompt, one row each; None encodes the prompts.
        name: What the model is called in the title.
        command: What was typed, for the record.
        listener: Told (stage, runs done, runs in all); stages are ``quality`` and ``timing``.
        **options: Arguments of :meth:`VideoPipeline.request`, those in `OPTIONS`.

    Raises:
        ValueError: An argument is wrong, an extra is missing, or the folder holds something else.
        OSError: The folder cannot be written.
    """
    if other := sorted(set(options) - set(OPTIONS)):
        raise ValueError(f"{other[0]} is no option of a comparison; there are {', '.join(OPTIONS)}")
    chosen, clips = _checked(
        prompts,
        methods=methods,
        settings=settings,
        out=out,
        seeds=seeds,
        speedups=speedups,
        values=values,
        controls=controls,
        timed_clips=timed_clips,
        repeats=repeats,
        picture=picture,
    )
    out = Path(out)
    bench = Bench(pipe, states or _encoded(pipe, prompts), options, prior=prior, foreign_prior=foreign_prior)
    request = bench.maker(clips[0], chosen[0]).request
    holds = bench.holds(request)
    about = {"model": name, "command": command, "machine": machine(bench.device), "versions": versions()}
    log = Log(out, holds=holds, about=about | {"date": time.strftime("%Y-%m-%d %H:%M:%S")})
    skipped = {s.key: reason for s in chosen if (reason := bench.why_not(s, clips[0])) is not None}
    run = [setting for setting in chosen if setting.key not in skipped]
    timed = clips[:timed_clips]
    tick = _counter(listener, "quality", len(run) * len(clips))
    measure_quality(bench, run, clips, log=log, tick=tick, keep=Worst(out, log))
    total = len(run) * len(timed) * repeats
    measure_time(bench, run, timed, repeats=repeats, log=log, tick=_counter(listener, "timing", total))
    rows = [
        row
        for row in log.rows.values()
        if Clip(row["prompt"], row["seed"]) in clips and (row["kind"] == "quality" or row["repeat"] < repeats)
    ]
    hashes = {setting.key: bench.prior_hash(setting, clips[0]) for setting in run}
    rows = [row for row in rows if hashes.get((row["method"], row["setting"])) == row["prior"]]
    results = summarise(chosen, rows, skipped=skipped)
    return _write(out, results, at_speedups(results, speedups), about | {"holds": holds}, picture)


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
    _checked(asked.prompt, **options)  # what is wrong is said before anything is loaded
    order = resolve(asked)
    s = order.settings
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


def _checked(
    prompts: Sequence[str],
    *,
    methods: Sequence[str] = (),
    out: str | Path,
    seeds: Sequence[int] = (0,),
    speedups: Sequence[float] = (),
    values: Mapping[str, Values] | None = None,
    controls: bool = True,
    settings: Sequence[Setting] = (),
    timed_clips: int = TIMED_CLIPS,
    repeats: int = REPEATS,
    picture: bool = True,
    **others: Any,
) -> tuple[tuple[Setting, ...], list[Clip]]:
    """Settings and clips of a comparison that can be made, as far as can be told without a model."""
    chosen = (*choose_settings(methods, values=values, controls=controls), *settings)
    if len({setting.key for setting in chosen}) < len(chosen):
        raise ValueError(f"a setting is there twice: {Counter(map(str, chosen)).most_common(1)[0][0]}")
    if isinstance(prompts, str) or not prompts:
        raise ValueError(f"prompts must be a list with at least one text, got {prompts!r}")
    if not seeds:
        raise ValueError("there is no seed; give at least one")
    sample_seeds(seeds, prompts=len(seeds), samples=1)
    if wrong := [value for value in speedups if not 1 <= value < float("inf")]:
        raise ValueError(f"a speed-up must be a number of at least 1, got {wrong[0]:g}")
    if timed_clips < 1 or repeats < 0:
        raise ValueError(f"at least 1 clip is timed, 0 times or more; got {timed_clips} and {repeats}")
    _need("torchmetrics", "eval", "measuring quality")
    if picture:
        _need("matplotlib", "report", "drawing the picture")
    check_folder(Path(out))
    return chosen, [Clip(prompt, seed) for prompt in dict.fromkeys(prompts) for seed in dict.fromkeys(seeds)]


def _need(package: str, extra: str, what: str) -> None:
    if importlib.util.find_spec(package) is None:
        raise ValueError(f"{what} needs {package}, which is not installed; pip install 'videoaccel[{extra}]' brings it")


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


def _write(
    out: Path, results: Sequence[Result], at: Sequence[AtSpeedup], about: Mapping[str, Any], picture: bool
) -> Comparison:
    files = [out / RESULTS, out / TABLE]
    whole = {**about, "rows": [asdict(result) for result in results], "at_speedup": [_read_off(found) for found in at]}
    atomic_write_text(files[0], f"{to_json(whole, indent=2)}\n")
    atomic_write_text(files[1], to_csv(results))
    if picture:
        from videoaccel.comparison.plot import plot

        holds = about["holds"]
        height, width = holds["size"]
        title = (
            f"{about['model']}: {counted(holds['frames'], 'frame')} of {height}x{width}, "
            f"{counted(holds['steps'], 'step')}, guidance {holds['guidance']:g}, {holds['dtype']}, "
            f"{about['machine']['name']}"
        )
        files.append(out / PICTURE)
        atomic_write_bytes(files[-1], plot(results, title=title))
    return Comparison(results, at, about, files)


def _read_off(found: AtSpeedup) -> dict[str, Any]:
    return asdict(found) | {"result": found.text}
