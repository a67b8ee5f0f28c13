"""What the command line says of pipelines of diffusers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import yaml

from videoaccel.common.wording import as_bytes, counted
from videoaccel.settings.generate import GenerateSettings

if TYPE_CHECKING:
    from videoaccel.outside.find import Found


def dry_run(settings: GenerateSettings, found: Found) -> str:
    """What a dry run prints: YAML that ``--config`` takes, and the rest as comments."""
    from videoaccel.common.files import check_folder
    from videoaccel.outside.order import resolve_outside

    order = resolve_outside(settings, found)
    if settings.vbench is None:  # whose folders are made when it runs
        for path in (path for sample in order.samples for path in sample.outputs.all):
            check_folder(path)
    # Only what was said or decided: what is left to the pipeline is not ours to tell.
    told = order.settings.model_dump(mode="json", exclude_defaults=True)
    arguments = [] if order.arguments is None else sorted(order.arguments.of(order.samples[0].prompt))
    notes = [
        f"would load: {found.name} as a {order.kind.__name__}",
        *([f"would call it with: {', '.join(arguments)}, generator"] if arguments else []),
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
        f"{record['peak_memory_bytes'] / 2**30:.2f} GiB",
    ]
    if "sound" in out:
        lines.insert(1, f"  its sound is {out['sound']['file']}")
    if record["network"] is not None:
        lines.append(f"  {ran(record)}")
    return "\n".join(lines)


def ran(record: Mapping[str, Any]) -> str:
    """How often the network ran.

    >>> network = {"calls": 20, "computed": 12, "evaluations": 10, "evaluations_computed": [0, 1, 2, 4, 6, 9],
    ...            "stored_bytes": 1024, "refused": {}}
    >>> ran({"network": network, "acceleration": {"method": "fora", "note": None}})
    'fora: 12 of 20 network calls, in 6 of 10 evaluations, stored 1 KiB'
    """
    network, done = record["network"], record["acceleration"]
    head = f"{done['method']}: " if done else ""
    text = f"{head}{network['computed']} of {counted(network['calls'], 'network call')}"
    text += f", in {len(network['evaluations_computed'])} of {counted(network['evaluations'], 'evaluation')}"
    if done and network["stored_bytes"]:
        text += f", stored {as_bytes(network['stored_bytes'])}"
    if done and done["note"]:
        text += f"; {done['note']}"
    if done and network["refused"]:
        text += (
            f"; against the method: {', '.join(f'{count} {reason}' for reason, count in network['refused'].items())}"
        )
    return text
