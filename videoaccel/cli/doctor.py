"""``videoaccel doctor``: what this machine has."""

from __future__ import annotations

import inspect
import json
import os
import platform
import sys
import tempfile
from collections.abc import Callable, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any

import typer

from videoaccel import __version__
from videoaccel.cli.flags import flag
from videoaccel.cli.generate import keyword, parameter, typed
from videoaccel.cli.outside import tested
from videoaccel.cli.progress import calm_libraries, shown_progress
from videoaccel.cli.ranks import require_alone
from videoaccel.cli.terminal import say
from videoaccel.common.home import place
from videoaccel.common.plain_json import to_json
from videoaccel.common.wording import as_bytes, counted
from videoaccel.settings.config import ModelSpec, config_names, load_named
from videoaccel.settings.layers import Layer, merge

CODECS: Mapping[str, str] = MappingProxyType({"libx264": "mp4", "gif": "gif"})
"""What PyAV needs to write each kind of file."""

OPTIONAL = ("xformers", "flash-attn", "sageattention", "decord", "accelerate", "torchmetrics", "matplotlib", "ray")


PIPELINE = (
    "model", "negative_prompt", "args", "pipeline_class", "variant", "trust_remote_code", "group_offload", "size",
    "frames", "steps", "guidance", "seed", "images", "video", "dtype", "device", "threads", "offload",
)  # fmt: skip
"""Settings of a generation that a pipeline's self-test takes, too."""


def command() -> Callable[..., int]:
    """The command, with the options of generate that the self-test of a pipeline takes."""

    def doctor(**options: Any) -> int:
        """Say what this machine has: torch, devices, attention kernels, codecs, caches, models.

        With --model, whether methods hold on that pipeline of diffusers: a short run that computes everything is
        compared with a plain one, bit by bit.
        """
        return _doctor(options)

    def own(name: str, kind: Any, of: str, text: str, metavar: str | None = None) -> inspect.Parameter:
        made = typer.Option(*of.split(), help=text, metavar=metavar)
        return keyword(name, Annotated[kind, made], default=False if kind is bool else None)

    parameters = [
        own("as_json", bool, "--json", "Machine-readable."),
        own("links", int | None, "--links", "Also start so many ranks and time what they exchange.", "N"),
        own("prompt", str | None, "--prompt", "Prompt of the self-test.", "TEXT"),
        *map(parameter, PIPELINE),
        own("quiet", bool, "--quiet -q", "No progress."),
    ]
    doctor.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    doctor.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return doctor


def _doctor(options: Mapping[str, Any]) -> int:
    require_alone("doctor")
    links, given = options["links"], typed(options, PIPELINE)
    if links is not None and links < 2:
        raise ValueError(f"--links takes at least 2 ranks, got {links}")
    if "model" in given:
        if links is not None:
            raise ValueError("--links times ranks, --model tests a pipeline; give one of them")
        return _pipeline(given, options)
    if given or options["prompt"] is not None:
        raise ValueError(f"{flag(next(iter(given), 'prompt'))} is for the test of a pipeline, which --model names")
    found = examine()
    found["links"] = measured_links(links) if links else None
    say(json.dumps(found, indent=2) if options["as_json"] else "\n".join(_lines(found)))
    return 0


def _pipeline(given: dict[str, Any], options: Mapping[str, Any]) -> int:
    """Test a pipeline; 1 if something is wrong with it."""
    prompt = {} if options["prompt"] is None else {"prompt": options["prompt"]}
    settings = merge([Layer({**given, **prompt}, flag)])
    from videoaccel.outside.find import require_outside

    require_outside(settings)
    with shown_progress(quiet=options["quiet"]) as display:
        from videoaccel.outside.selftest import self_test  # torch and all

        calm_libraries(quiet=options["quiet"])
        found = self_test(settings, listener=display)
    say(to_json(found.as_data(), indent=2) if options["as_json"] else tested(found))
    return 0 if found.holds else 1


def examine() -> dict[str, Any]:
    """Everything that `doctor` says."""
    import torch

    from videoaccel.cli.models import describe_model
    from videoaccel.generation.attention_kernels import why_not
    from videoaccel.settings.early import BACKENDS
    from videoaccel.text.cache import TextCache

    cache = TextCache()
    entries = cache.entries()
    return {
        "videoaccel": __version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "torch": {"version": torch.__version__, "threads": torch.get_num_threads(), "cpus": os.cpu_count()},
        "devices": _devices(),
        "gpu": _tuning(),
        "attention": {name: why_not(name) or "works" for name in BACKENDS},
        "codecs": {codec: _codec(codec) or f"writes {kind}" for codec, kind in CODECS.items()},
        "packages": {name: _version(name) for name in ("diffusers", "transformers", "av", "numpy", *OPTIONAL)},
        "text_cache": {
            "folder": str(cache.folder),
            "prompts": len(entries),
            "bytes": sum(entry.size for entry in entries),
        },
        "models": {
            name: "here" if model["here"] else f"missing: {', '.join(model['missing'])}"
            for name in config_names("models")
            for model in [describe_model(name, load_named("models", name, ModelSpec))]
        },
    }


def measured_links(ranks: int) -> dict[str, Any]:
    """Start ranks on this machine's GPUs, or on its CPU, and time them; kept for ``videoaccel plan``.

    Raises:
        OSError: The ranks failed; what they said stands on stderr.
    """
    import torch

    from videoaccel.parallel.launch import start_ranks
    from videoaccel.parallel.links import as_link
    from videoaccel.preview.mesh_plan import keep_link

    device = "cuda" if torch.cuda.device_count() >= ranks else "cpu"
    with tempfile.TemporaryDirectory(prefix="videoaccel-") as folder:
        file = Path(folder) / "links.json"
        command = [sys.executable, "-m", "videoaccel.parallel.links", str(file), device]
        if code := start_ranks(command, ranks=ranks, device=device):
            raise OSError(f"{ranks} ranks on {device} ended with exit code {code}; what they said stands above")
        data = json.loads(file.read_text(encoding="utf-8"))
    keep_link(as_link(data))
    return dict(data)


def _devices() -> list[dict[str, Any]]:
    import torch

    found: list[dict[str, Any]] = [{"device": "cpu", "name": platform.processor() or platform.machine(), **_memory()}]
    for index in range(torch.cuda.device_count()):
        free, total = torch.cuda.mem_get_info(index)
        name = torch.cuda.get_device_name(index)
        found.append({"device": f"cuda:{index}", "name": name, "bytes": total, "free_bytes": free})
    if torch.backends.mps.is_available():
        found.append({"device": "mps", "name": platform.machine()})
    return found


def _tuning() -> dict[str, str]:
    """Whether our kernels and CUDA graphs can be had on the first GPU; the latter are tried."""
    import torch

    from videoaccel.generation.cuda_graph import why_no_graphs
    from videoaccel.generation.tuning import why_no_kernels

    device = torch.device("cuda", 0) if torch.cuda.is_available() else torch.device("cpu")
    return {"kernels": why_no_kernels(device) or "can run", "graphs": why_no_graphs(device) or "works"}


def _memory() -> dict[str, int]:
    try:
        page = os.sysconf("SC_PAGE_SIZE")
        return {"bytes": page * os.sysconf("SC_PHYS_PAGES"), "free_bytes": page * os.sysconf("SC_AVPHYS_PAGES")}
    except (AttributeError, ValueError, OSError):  # not every system says
        return {}


def _codec(name: str) -> str | None:
    """Why a codec cannot be used; None if it can."""
    import av

    try:
        av.Codec(name, "w")
    except ValueError as error:
        return f"not in this PyAV ({error})"
    return None


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _lines(found: Mapping[str, Any]) -> list[str]:
    torch = found["torch"]
    lines = [
        f"videoaccel {found['videoaccel']}, Python {found['python']} on {found['platform']}",
        f"torch {torch['version']}, {counted(torch['threads'], 'thread')} on {counted(torch['cpus'], 'processor')}",
        "",
        "devices",
    ]
    for device in found["devices"]:
        memory = [f"{device[key] / 2**30:.1f} GiB{word}" for key, word in _WORDS if key in device]
        lines.append(f"  {device['device']:<12}{', '.join([device['name'], *memory])}")
    for title in ("gpu", "attention", "codecs", "packages", "models"):
        width = max([14, *map(len, found[title])])  # names of models are longer than most
        lines += ["", title, *(f"  {name:<{width}}  {text or 'not installed'}" for name, text in found[title].items())]
    if link := found["links"]:
        lines += [
            "",
            f"links: {link['ranks']} ranks on {link['device']}, {link['speed'] / 1e9:.2f} GB/s a rank, "
            f"{1e6 * link['latency']:.0f} us a small exchange",
        ]
    cache = found["text_cache"]
    return [
        *lines,
        "",
        f"text cache: {counted(cache['prompts'], 'prompt')}, {as_bytes(cache['bytes'])} "
        f"in {place(Path(cache['folder']))}",
    ]


_WORDS = (("bytes", ""), ("free_bytes", " free"))
