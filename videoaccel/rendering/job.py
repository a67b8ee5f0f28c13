"""From the lines of a job file to jobs: one prompt, one seed, one clip each, all checked."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from videoaccel.common.names import safe_name
from videoaccel.rendering.jobs_file import JobsFile, Line
from videoaccel.rendering.sweeps import MOST, expand
from videoaccel.settings.config import config_names
from videoaccel.settings.early import check_model_name
from videoaccel.settings.generate import GenerateSettings
from videoaccel.settings.layers import Layer, merge

FORMATS = ("mp4", "gif", "png", "frames", "wav")
"""What a clip is written as; ``frames`` is a folder of pictures, ``wav`` sound of a pipeline of diffusers."""

LONGEST_PROMPT = 20_000
"""Characters. Models read a few hundred tokens; more is a file in the wrong place."""

MOST_SEED = 2**63 - 1

_OWN = ("name", "format")
_ELSEWHERE = (
    ("keep", "a line makes one clip"),
    ("batch_size", "--allow-batching makes clips together"),
)
RANKS = ("gpus", "dp", "cfg_parallel", "sp")
"""Settings that hold for a whole render: which ranks there are, and how they share clips."""

_COUNTED = {"seeds", "samples", "keep"}
_Known = dict[str, GenerateSettings]
"""Checked settings by what was written, prompt and seed apart."""
_Formats = dict[tuple[str, str | None], str]
"""What results are written as, by model and class."""


@dataclass(frozen=True)
class Job:
    """One clip to make.

    Attributes:
        line: Where it stands in the job file.
        name: For its files.
        format: One of `FORMATS`.
        settings: Of one prompt, one sample and one seed; what they do not say the model says.
    """

    line: int
    name: str
    format: str
    settings: GenerateSettings

    @property
    def prompt(self) -> str:
        """As given."""
        return self.settings.prompt[0]

    @property
    def file(self) -> str:
        """Name of the clip's file; of a folder of frames it ends in "/"."""
        return f"{self.name}/" if self.format == "frames" else f"{self.name}.{self.format}"


def make_jobs(
    file: JobsFile, *, defaults: Sequence[Layer] = (), overrides: Sequence[Layer] = ()
) -> tuple[list[Job], list[str]]:
    """Check every line, and expand sweeps, samples and lists of prompts.

    Args:
        file: What was read.
        defaults: Layers below the lines, the file's own defaults above them.
        overrides: Layers above the lines.

    Returns:
        Jobs of the lines that are well, and a sentence for each that is not.
    """
    below = [*defaults, Layer(file.defaults, lambda name: f"defaults: {name}")]
    jobs: list[Job] = []
    problems = list(file.problems)
    known, formats = _Known(), _Formats()
    for line in file.lines:
        try:
            jobs += _of_line(line, below, overrides, known, formats)
            if len(jobs) > MOST:
                raise ValueError(f"more than {MOST:,} jobs in one file; cut it into several")
        except ValueError as error:
            problems.append(f"line {line.number}: {error}")
            if len(jobs) > MOST:
                break
    return jobs, problems


def _of_line(line: Line, below: Sequence[Layer], above: Sequence[Layer], known: _Known, formats: _Formats) -> list[Job]:
    layers = [*below, Layer(line.values), *above]
    if ranks := [name for layer in layers[: -len(above) or None] for name in RANKS if name in layer.values]:
        raise ValueError(f"{ranks[0]}: is said once for all jobs, --{ranks[0].replace('_', '-')} beside the job file")
    last = {name: number for number, layer in enumerate(layers) for name in layer.values}
    # A field that a later layer sets sweeps no more.
    values = {(last[name], name): layers[last[name]].values[name] for name in last}
    swept = {name: value for (_, name), value in values.items()}
    jobs: list[Job] = []
    for chosen in expand(swept):
        own = {name: chosen.pop(name, None) for name in _OWN}
        _take_accel(chosen, last)
        settings = _settings(chosen, last, layers, known)
        if own["format"] is None and settings.output is None:
            own["format"] = _usual(settings, formats)
        jobs += _singles(line.number, own, settings)
        if len(jobs) > MOST:
            raise ValueError(f"it stands for more than {MOST:,} jobs")
    return jobs


def _settings(
    chosen: Mapping[str, Any], last: Mapping[str, int], layers: Sequence[Layer], known: _Known
) -> GenerateSettings:
    """The settings of one combination; those that differ from known ones in prompt and seed only need no new check."""
    prompt, seed = chosen.get("prompt"), chosen.get("seed", 0)
    # A bool is an int to Python, and no seed.
    plain = isinstance(prompt, str) and type(seed) is int and 0 <= seed <= MOST_SEED and not _COUNTED & chosen.keys()
    # A field's layer counts, too: a line's resolution takes the place of a default size, not of the line's own.
    rest = [(name, last[name], value) for name, value in chosen.items() if name not in ("prompt", "seed")]
    key = repr(sorted(rest, key=lambda one: one[0])) if plain else ""
    if key in known:
        return known[key].model_copy(update={"prompt": (prompt,), "seed": seed})
    parts = [
        Layer({name: value for name, value in chosen.items() if last[name] == number}, layer.spell)
        for number, layer in enumerate(layers)
    ]
    settings = merge(parts)
    if plain:
        known[key] = settings
    return settings


def _take_accel(chosen: dict[str, Any], last: dict[str, int]) -> None:
    """``accel`` may name method and fields at once; ``exact`` is none."""
    accel = chosen.get("accel")
    if isinstance(accel, Mapping):
        fields = dict(accel)
        method = fields.pop("method", None)
        if not isinstance(method, str):
            raise ValueError(f"accel: must say its method, as in {{method: fora, period: 2}}; got {dict(accel)}")
        chosen["accel"] = method
        if fields:
            chosen["accel_options"] = {**(chosen.get("accel_options") or {}), **fields}
            last["accel_options"] = max(last.get("accel_options", 0), last["accel"])
    if chosen.get("accel") == "exact":
        chosen["accel"] = None


def _singles(line: int, own: Mapping[str, Any], s: GenerateSettings) -> Iterator[Job]:
    """One job a clip of these settings."""
    if not s.prompt:
        raise ValueError("prompt is missing")
    if not any(prompt.strip() for prompt in s.prompt):
        raise ValueError("prompt is empty")
    if long := [prompt for prompt in s.prompt if len(prompt) > LONGEST_PROMPT]:
        raise ValueError(f"prompt has {len(long[0]):,} characters; at most {LONGEST_PROMPT:,}")
    for wrong, instead in _ELSEWHERE:
        if getattr(s, wrong) not in (None, 1):
            raise ValueError(f"{wrong}: has no place in a job: {instead}")
    format_, file = _format(own["format"], s.output)
    name = own["name"] if own["name"] is not None else file
    if name is not None and not isinstance(name, str | int | float):
        raise ValueError(f"name: must be a text, got {name!r}")
    seeds = s.seeds or [s.seed + sample for _ in s.prompt for sample in range(s.samples)]
    if max(seeds) > MOST_SEED:
        raise ValueError(f"seed: at most {MOST_SEED}, got {max(seeds)}")
    for number, seed in enumerate(seeds):
        prompt = s.prompt[number // s.samples]
        update = {"prompt": (prompt,), "samples": 1, "seeds": (), "seed": seed, "output": None}
        yield Job(line, safe_name(str(name) if name is not None else prompt[:48]), format_, s.model_copy(update=update))


def _usual(s: GenerateSettings, formats: _Formats) -> str:
    """What a model's results are written as unless told otherwise."""
    key = (s.model, s.pipeline_class)
    if key not in formats:
        formats[key] = "mp4"
        if s.model not in config_names("models"):
            check_model_name(s.model)
            from videoaccel.outside.order import usual_ending  # torch and all

            formats[key] = usual_ending(s)
    return formats[key]


def _format(given: Any, output: str | None) -> tuple[str, str | None]:
    """What is written, and the name that an output gives; only its last parts count, so it cannot leave the folder."""
    name = None
    if output is not None:
        path = PurePosixPath(output.replace("\\", "/"))
        name = str(path.with_suffix("")) if path.suffix and not output.endswith("/") else str(path)
        ending = "frames" if output.endswith("/") else path.suffix.removeprefix(".").lower()
        if given is not None and given != ending:
            raise ValueError(f"format {given!r} and output {output!r} say different things; leave one out")
        given = ending
    chosen = "mp4" if given is None else given
    if chosen not in FORMATS:
        raise ValueError(f"format must be one of {', '.join(FORMATS)}, got {chosen!r}")
    return str(chosen), name
