"""From what was found to a class, and to a pipeline with its weights on its device."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import torch

from videoaccel.common.versions import dtype_argument
from videoaccel.generation.loading import torch_dtype
from videoaccel.models.checkpoint import hub_reason, read_config
from videoaccel.models.config_limits import check_config
from videoaccel.outside.find import Found
from videoaccel.settings.generate import GenerateSettings
from videoaccel.settings.refused import nearest


def pipeline_class(found: Found, *, trusted: bool = False) -> type:
    """The class of a pipeline.

    Args:
        found: The pipeline.
        trusted: Whether code that comes with it may run; its class is known only when it is loaded then.

    Raises:
        ValueError: diffusers has no such class, or code of the model would have to run.
    """
    import diffusers

    if found.code and not trusted:
        raise ValueError(
            f"{found.name} comes with code of its own ({', '.join(found.code)}); `trust_remote_code` lets it run, if "
            f"you trust whoever wrote it"
        )
    bases: tuple[type, ...] = (diffusers.DiffusionPipeline, diffusers.ModularPipeline)
    kind = getattr(diffusers, found.kind, None)
    if isinstance(kind, type) and issubclass(kind, bases):
        return kind
    if trusted:
        return bases[found.modular]
    known = [name for name in dir(diffusers) if name.endswith("Pipeline")]
    raise ValueError(
        f"{found.name} is a {found.kind}, and diffusers {diffusers.__version__} has no pipeline of that name"
        f"{nearest(found.kind, known)}"
    )


def load(found: Found, kind: type, settings: GenerateSettings) -> Any:
    """A pipeline with its weights, on its device.

    Args:
        found: Where it is.
        kind: Its class.
        settings: Resolved, so that type and device are said.

    Raises:
        ValueError: The files do not fit, or the scheduler has no such field.
        OSError: Something is not there.
    """
    s = settings
    _check_configs(found)
    options = dtype_argument("diffusers", torch_dtype(str(s.dtype)))
    try:
        if found.file is not None:
            pipe = _from_file(found.file, kind, options)
        else:
            where = str(found.folder or found.name)
            if s.trust_remote_code:
                options["trust_remote_code"] = True
            pipe = _modular(where, kind, options, s) if found.modular else _whole(where, kind, options, s)
    except torch.OutOfMemoryError:
        raise
    except (OSError, ValueError, TypeError, AttributeError, ImportError, RuntimeError) as error:
        reason = " ".join(str(error).split())
        reached = found.folder is not None or found.file is not None
        more = "" if reached else f" ({hub_reason(error)})"
        raise ValueError(f"{found.name} could not be loaded as a {kind.__name__}: {reason[:400]}{more}") from error
    _quieten(pipe)
    _with_scheduler(pipe, s)
    _decode_in_tiles(pipe, tiled=s.vae_tiling)
    return placed(pipe, s)


def _check_configs(found: Found) -> None:
    """Read the configurations of a folder before diffusers does, which builds whatever they say.

    Raises:
        ValueError: One is damaged, or has numbers that no network has.
    """
    for path in sorted(found.folder.glob("*/*config.json")) if found.folder is not None else ():
        if not path.parent.name.startswith("tokenizer"):
            read_config(path)


def placed(pipe: Any, s: GenerateSettings) -> Any:
    """A pipeline on its device, whole, or network by network, or layer by layer."""
    device = torch.device(str(s.device))
    if s.offload or s.group_offload:
        name = "enable_model_cpu_offload" if s.offload else "enable_group_offload"
        if not hasattr(pipe, name):
            raise ValueError(f"a {type(pipe).__name__} cannot be offloaded so; leave `{_flag(s)}` out")
        if s.offload:
            pipe.enable_model_cpu_offload(device=device)
        else:
            pipe.enable_group_offload(onload_device=device, offload_type="leaf_level", use_stream=True)
    else:
        pipe.to(device)
    if s.compile:
        for part in ("transformer", "transformer_2", "unet"):
            if isinstance(network := getattr(pipe, part, None), torch.nn.Module):
                network.compile()
    return pipe


def folder_of(found: Found) -> Path | None:
    """Where a pipeline's files are on this machine; None for a single file, or if they are not here."""
    if found.folder is not None or found.file is not None:
        return found.folder
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        return Path(snapshot_download(found.name, local_files_only=True))
    except LocalEntryNotFoundError:
        return None


def _from_file(file: Path, kind: Any, options: dict[str, Any]) -> Any:
    if not hasattr(kind, "from_single_file"):
        raise ValueError("its class loads folders only")
    return kind.from_single_file(str(file), **options)


def _whole(where: str, kind: Any, options: dict[str, Any], s: GenerateSettings) -> Any:
    return kind.from_pretrained(where, **options, **({"variant": s.variant} if s.variant else {}))


def _modular(where: str, kind: Any, options: dict[str, Any], s: GenerateSettings) -> Any:
    trust = {"trust_remote_code": True} if options.pop("trust_remote_code", False) else {}
    pipe = kind.from_pretrained(where, **trust)
    pipe.load_components(**options, **({"variant": s.variant} if s.variant else {}))
    missing = [name for name in pipe.null_component_names if name in pipe.pretrained_component_names]
    if missing:
        raise ValueError(f"{missing[0]} could not be loaded")
    return pipe


def _quieten(part: Any) -> None:
    """Keep a pipeline, and the blocks of a modular one, from drawing bars of their own."""
    if hasattr(part, "set_progress_bar_config"):
        part.set_progress_bar_config(disable=True)
    blocks = getattr(part, "_blocks", None)  # ``blocks`` is a copy
    for inside in [*([] if blocks is None else [blocks]), *(getattr(part, "sub_blocks", None) or {}).values()]:
        _quieten(inside)


def _with_scheduler(pipe: Any, s: GenerateSettings) -> None:
    """Put other fields into the scheduler's configuration.

    Raises:
        ValueError: It has no such field, or a value makes no sense.
    """
    if not s.scheduler:
        return
    scheduler = getattr(pipe, "scheduler", None)
    if scheduler is None:
        raise ValueError(f"a {type(pipe).__name__} has no scheduler whose fields could be others")
    known = list(inspect.signature(type(scheduler).__init__).parameters)[1:]
    check_config(s.scheduler, source="the scheduler")
    if unknown := [name for name in s.scheduler if name not in known]:
        raise ValueError(f"{type(scheduler).__name__} has no field {unknown[0]!r}{nearest(unknown[0], known)}")
    changed = type(scheduler).from_config({**scheduler.config, **s.scheduler})
    if hasattr(pipe, "update_components"):
        pipe.update_components(scheduler=changed)
    else:
        pipe.scheduler = changed


def _decode_in_tiles(pipe: Any, *, tiled: bool) -> None:
    if not tiled:
        return
    vae: Any = getattr(pipe, "vae", None)
    if not hasattr(vae, "enable_tiling"):
        raise ValueError(f"the VAE of a {type(pipe).__name__} does not decode in tiles; leave `vae_tiling` out")
    vae.enable_tiling()


def _flag(s: GenerateSettings) -> str:
    return "offload" if s.offload else "group_offload"
