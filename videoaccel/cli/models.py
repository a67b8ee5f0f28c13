"""``videoaccel models``: what can run by name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

import videoaccel
from videoaccel.adapters.tested import TESTED
from videoaccel.cli.terminal import say
from videoaccel.common.home import expand
from videoaccel.common.wording import counted
from videoaccel.settings.config import ModelSpec, Part, config_names, load_named


def models(
    as_json: Annotated[bool, typer.Option("--json", help="Machine-readable.")] = False,
    outside: Annotated[
        bool, typer.Option("--diffusers", help="Pipelines of diffusers that were tried, with their schedulers.")
    ] = False,
) -> None:
    """List the models that can run by name, and the pipelines of diffusers that were tried."""
    found = [describe_model(name, load_named("models", name, ModelSpec)) for name in config_names("models")]
    if as_json:
        say(json.dumps([*found, *_tested()] if outside else found, indent=2))
        return
    for model in found:
        d = model["defaults"]
        missing = f"not here: {', '.join(model['missing'])}" if model["missing"] else "ready"
        say(f"{model['name']}  ({missing})")
        say(f"  {model['description']}")
        say(
            f"  defaults: {d['height']}x{d['width']}, {counted(d['num_frames'], 'frame')}, {d['fps']:g} fps, "
            f"{counted(d['steps'], 'step')}, guidance {d['guidance']:g}, {d['dtype']}\n"
        )
    say("A folder saved by save_pretrained, or a folder or hub id of a released STDiT3, runs too: --model PATH.")
    if outside:
        say("\nPipelines of diffusers that were tried on tiny networks, with their schedulers:")
        say("\n".join(f"  {name}Pipeline: {', '.join(kinds)}" for name, kinds in TESTED.items()))
    else:
        names = ", ".join(TESTED)
        say(f"\nSo does any pipeline of diffusers; {len(TESTED)} classes were tried: {names}.")
        say("--diffusers tells their schedulers, videoaccel doctor --model PATH tests one of yours.")


def _tested() -> list[dict[str, Any]]:
    return [{"pipeline": f"{name}Pipeline", "schedulers": list(kinds)} for name, kinds in TESTED.items()]


def describe_model(name: str, spec: ModelSpec) -> dict[str, Any]:
    """A model's defaults, and which of its files are not here."""
    if spec.folder is not None:
        folder = Path(videoaccel.__file__).parent / spec.folder
        missing = [] if (folder / "model_index.json").is_file() else [str(folder)]
    else:
        parts = (spec.transformer, spec.vae, spec.text_encoder)
        missing = list(dict.fromkeys(part.source for part in parts if part is not None and not _is_here(part)))
    return {
        "name": name,
        "description": spec.description,
        "here": not missing,
        "missing": missing,
        "defaults": spec.defaults.model_dump(),
    }


def _is_here(part: Part) -> bool:
    """Whether a folder is there, or a hub id was downloaded before."""
    if expand(part.source).is_dir():
        return True
    from huggingface_hub import try_to_load_from_cache

    name = f"{part.subfolder}/config.json" if part.subfolder else "config.json"
    return isinstance(try_to_load_from_cache(part.source, name), str)
