"""What the command line says of pipelines of diffusers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import yaml

from videoaccel.cli.flags import flag
from videoaccel.common.wording import as_bytes, counted
from videoaccel.settings.generate import CALLED_BY, LOADED_BY, GenerateSettings

if TYPE_CHECKING:
    from videoaccel.outside.find import Found
    from videoaccel.outside.selftest import SelfTest

MORE = (*CALLED_BY, *LOADED_BY)
"""Settings of a pipeline of diffusers, for commands that share options with generate."""


def found_by(settings: GenerateSettings, *, command: str) -> Found | None:
    """The pipeline of diffusers that settings name, for a command that knows both kinds of model.

    Raises:
        ValueError: The model is one of ours, and something is told that is for the others.
    """
    from videoaccel.outside.find import find_outside

    found = find_outside(settings)
    usual = {name: GenerateSettings.model_fields[name].get_default() for name in MORE}
    if found is None and (given := [flag(name) for name in MORE if getattr(settings, name) != usual[name]]):
        raise ValueError(f"{given[0]} changes nothing where {command} looks at one of our own models")
    return found


def dry_run(settings: GenerateSettings, found: Found) -> str:
    """What a dry run prints: YAML that ``--config`` takes, and the rest as comments."""
    from videoaccel.common.files import check_folder
    from videoaccel.outside.order import resolve_outside

    order = resolve_outside(settings, found, ranks="together")
    if settings.vbench is None:  # whose folders are made when it runs
        for path in (path for sample in order.samples for path in sample.outputs.all):
            check_folder(path)
    # Only what was said or decided: what is left to the pipeline is not ours to tell.
    told = order.settings.model_dump(mode="json", exclude_defaults=True)
    arguments = [] if order.arguments is None else sorted(order.arguments.of(order.samples[0].prompt))
    notes = [
        f"would load: {found.name} as a {order.kind.__name__}",
        *([f"would call it with: {', '.join(arguments)}, generator"] if arguments else []),
        *([f"would run on {counted(order.degrees.ranks, 'rank')} together"] if order.degrees.ranks > 1 else []),
        "would write:",
        *(f"  {' '.join(s.outputs.all)}  (seed {s.seed}: {s.prompt!r})" for s in order.samples),
    ]
    settings_text = yaml.safe_dump(told, sort_keys=False, allow_unicode=True, width=100)
    return "\n".join([settings_text, *(f"# {note}" for note in notes)])


def summary(record: Mapping[str, Any]) -> str:
    """What was made, how long it took, and how often the network ran."""
    out = record["output"]
    if "frames" in out:
        what = f"{counted(out['frames'], 'frame')}, {out['height']}x{out['width']}, {out['fps']:g} fps"
        if out["frames"] == 1:
            what = f"{out['height']}x{out['width']}"
    else:
        what = f"{out['seconds']:.2f} s, {counted(out['channels'], 'channel')} at {out['rate']} Hz"
    seconds = ", ".join(f"{name} {took:.1f} s" for name, took in record["seconds"].items())
    lines = [
        f"{out['file']}  {what}, seed {record['seed']}",
        f"  {seconds}; total {sum(record['seconds'].values()):.1f} s; peak memory "
        f"{as_bytes(record['peak_memory_bytes'])}",
    ]
    if "sound" in out:
        lines.insert(1, f"  its sound is {out['sound']['file']}")
    if record["network"] is not None:
        lines.append(f"  {ran(record)}")
    return "\n".join(lines)


def ran(record: Mapping[str, Any]) -> str:
    """How often the network ran.

    >>> network = {"calls": 20, "computed": 12, "evaluations": 10, "evaluations_computed": [0, 1, 2, 4, 6, 9],
    ...            "stored_bytes": 1024, "refused": {}, "due": {"its period and warm-up": 12}}
    >>> ran({"network": network, "acceleration": {"method": "fora", "note": None}})
    'fora: 12 of 20 network calls, in 6 of 10 evaluations, stored 1 KiB'
    """
    network, done = record["network"], record["acceleration"]
    head = f"{done.get('title', done['method'])}: " if done else ""
    text = f"{head}{network['computed']} of {counted(network['calls'], 'network call')}"
    text += f", in {len(network['evaluations_computed'])} of {counted(network['evaluations'], 'evaluation')}"
    if done and network["stored_bytes"]:
        text += f", stored {as_bytes(network['stored_bytes'])}"
    if done and done.get("residual"):
        text += f", residual: {done['residual']}"
    if done and done["note"]:
        text += f"; {done['note']}"
    if done and network["refused"]:
        text += (
            f"; against the method: {', '.join(f'{count} {reason}' for reason, count in network['refused'].items())}"
        )
    elif done and network["computed"] == network["calls"] and network["due"]:
        text += f"; by the method: {', '.join(f'{count} {reason}' for reason, count in network['due'].items())}"
    return text


def tested(found: SelfTest) -> str:
    """What a self-test showed."""
    told = ", ".join(f"{name} {_plain(value)}" for name, value in found.arguments.items())
    exact = "the bits of a plain run" if found.exact else "OTHER BITS than a plain run"
    draws = "the same random numbers" if found.draws else "OTHER random numbers"
    forecast = found.forecast
    ends = "finite, the same random numbers" if found.sound else "NOT finite, or OTHER random numbers"
    lines = [
        found.pipeline,
        *(f"  {name:<14}{kind}, {_large(count)} parameters" for name, (kind, count) in found.networks.items()),
        *(f"  {'scheduler':<14}{kind}" for kind in found.schedulers),
        "",
        f"run: {counted(found.report.evaluations, 'evaluation')}, {counted(len(found.report.streams), 'stream')}"
        f"{f' ({told})' if told else ''}",
        *(f"  {line}" for line in str(found.report).split("\n")[1:]),
        f"  guidance: {found.guidance or 'no fixed combination of the calls'}",
        f"  everything computed, watched: {exact}, {draws}",
        f"  {forecast.method}: {forecast.calls_computed} of {counted(forecast.calls, 'call')}; {ends}",
        *(f"    {count} computed against it: {reason}" for reason, count in forecast.reasons.items()),
        "",
        "methods",
    ]
    by_text: dict[str, list[str]] = {}
    for name, text in found.methods.items():
        by_text.setdefault(text, []).append(name)
    order = sorted(by_text, key=lambda text: (by_text[text][0] in found.refused, text))
    lines += [f"  {text}: {', '.join(by_text[text])}" for text in order]
    if not found.holds:
        lines += ["", "methods must not be used on this pipeline: what is computed whole is not what it makes alone"]
    return "\n".join(lines)


def _plain(value: bool | float) -> str:
    """A number, or a switch.

    >>> _plain(2.0), _plain(False)
    ('2', 'false')
    """
    return str(value).lower() if isinstance(value, bool) else f"{value:g}"


def _large(count: int) -> str:
    """A number of parameters.

    >>> _large(1_300_000_000), _large(54256)
    ('1.3 billion', '54256')
    """
    for size, name in ((10**9, "billion"), (10**6, "million")):
        if count >= size:
            return f"{count / size:.3g} {name}"
    return str(count)
