"""From settings to a work order: everything decided and checked that can be without loading a model."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from videoaccel.common.devices import check_device
from videoaccel.common.extras import need
from videoaccel.common.home import expand, expand_text
from videoaccel.generation.attention_kernels import attention_kernel
from videoaccel.generation.given import check_given, given_files, lora_files
from videoaccel.generation.loading import Source, find_model, torch_dtype, type_on
from videoaccel.generation.rank_choice import choose_ranks, why_ranks
from videoaccel.generation.request import negative_text
from videoaccel.generation.tuning import check_fp8, check_graphs, why_no_kernels
from videoaccel.jobs.samples import Outputs, Sample, samples_of
from videoaccel.media.writer import Writer
from videoaccel.models.checkpoint import read_config
from videoaccel.parallel.degrees import Degrees
from videoaccel.planning.prior import prior_file
from videoaccel.session.policy import Policy
from videoaccel.session.registry import beside_file, make_policy, named_method, told_by
from videoaccel.settings.config import Defaults, config_names
from videoaccel.settings.early import parse_lora
from videoaccel.settings.generate import NONE, OUTSIDE, TARGETS, GenerateSettings
from videoaccel.settings.latent_frames import chunks_of
from videoaccel.settings.method_fields import check_targets
from videoaccel.settings.sizes import check_sides, resolve_size

BEST = "soda"
"""The method that ``speedup`` alone uses: the one that won the comparison."""


_WITH_METHOD = ("accel_options", "prior", "allow_foreign_prior", "cache_memory")


@dataclass(frozen=True)
class WorkOrder:
    """A whole run.

    Attributes:
        settings: Nothing in them is left to defaults.
        source: The model.
        height: Pixels.
        width: Pixels.
        negative: Negative prompt, ready for the tokenizer.
        policy: Acceleration; None for none.
        batches: What is made together.
        degrees: How the ranks share the work.
    """

    settings: GenerateSettings
    source: Source
    height: int
    width: int
    negative: str | None
    policy: Policy | None
    batches: tuple[tuple[Sample, ...], ...]
    degrees: Degrees

    @property
    def ranks(self) -> str:
        """What the ranks do, in a sentence."""
        return why_ranks(self.settings, self.policy, self.degrees)

    @property
    def outputs(self) -> list[Outputs]:
        """Of all clips that are written."""
        return [sample.outputs for batch in self.batches for sample in batch if sample.outputs]

    @property
    def inputs(self) -> list[Path]:
        """Every file that is read for conditioning, and those of LoRA weights."""
        return [*given_files(self.settings), *lora_files(self.settings)]


def resolve(settings: GenerateSettings) -> WorkOrder:
    """Fill in what the settings leave to the model, and check what can be checked early. Writes nothing.

    Raises:
        ValueError: A value does not fit the model, the machine or the other values.
        FileNotFoundError: An input is not there.
    """
    _refuse_outside(settings)
    source = find_model(settings.model, vae=settings.vae, text_encoder=settings.text_encoder)
    settings = _filled(settings, source.spec.defaults)
    policy = policy_of(settings)
    degrees = choose_ranks(settings, policy)
    if degrees.ranks > 1:
        told = {"dp": degrees.data, "cfg_parallel": degrees.guidance, "sp": degrees.sequence}
        settings = settings.model_copy(update={"gpus": degrees.ranks, **told})
    height, width = resolve_size(settings.size)
    samples = samples_of(settings, source.spec.defaults)
    size = settings.batch_size
    batches = [tuple(samples[start : start + size]) for start in range(0, len(samples), size)]
    order = WorkOrder(
        settings=settings,
        source=source,
        height=height,
        width=width,
        negative=_negative(settings),
        policy=policy,
        batches=tuple(batch for batch in batches if any(sample.outputs for sample in batch)),
        degrees=degrees,
    )
    attention_kernel(settings.attention)
    check_forms(settings)
    _check_size(source, height=height, width=width)
    if settings.explain:
        need("`explain`", "matplotlib", "report")
    check_given(settings, source, height=height, width=width)
    _check_outputs(order)
    return order


def check_forms(s: GenerateSettings) -> None:
    """Refuse kernels, 8-bit products and graphs where they cannot be had, before anything is loaded.

    Raises:
        ValueError: Says why.
    """
    device = torch.device(str(s.device))
    if s.precision == "fp8":
        check_fp8(device, torch_dtype(str(s.dtype)), kernels=s.kernels)
    if s.kernels == "triton" and (reason := why_no_kernels(device)):
        raise ValueError(f"`kernels=triton` cannot run here: {reason}; `kernels=torch` always works")
    check_graphs(device, s.graphs, offload=s.offload)


def _refuse_outside(s: GenerateSettings) -> None:
    """Refuse what only pipelines of diffusers can be told."""
    fields = type(s).model_fields
    if given := [f"`{name}`" for name in OUTSIDE if getattr(s, name) != fields[name].get_default()]:
        raise ValueError(f"{' and '.join(given)} is for pipelines of diffusers, and {s.model} is one of our own models")


def pick_device(name: str | None) -> torch.device:
    """The device of this name; of None the GPU if there is one.

    Raises:
        ValueError: There is no such device here.
    """
    if name is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return check_device(name)


def _filled(s: GenerateSettings, d: Defaults) -> GenerateSettings:
    """The settings with the model's defaults and this machine's in place of None."""
    height, width = _size(s, d)
    extends = s.video is not None and s.edit is None and s.mask_strategy is None
    frames = s.frames or d.num_frames
    device = pick_device(s.device)
    if s.offload and device.type != "cuda":
        raise ValueError(f"`offload` keeps a GPU's memory free; it needs a CUDA device, got {str(device)!r}")
    return s.model_copy(
        update={
            "size": f"{height}x{width}",
            "resolution": None,
            "aspect": None,
            "frames": frames,
            "fps": s.fps or d.fps,
            "steps": s.steps or d.steps,
            "guidance": d.guidance if s.guidance is None else s.guidance,
            "aes": _score(s.aes, d.aes),
            "flow": _score(s.flow, d.flow),
            "camera_motion": _score(s.camera_motion, d.camera_motion),
            "extend": (s.extend or "forward") if extends else None,
            "condition_latents": (s.condition_latents or d.condition_latents) if extends or s.loops > 1 else None,
            "dtype": s.dtype or type_on(device.type, d.dtype),
            "device": str(device),
            "threads": s.threads or torch.get_num_threads(),
            **_absolute(s),
            "vbench": s.vbench and _absolute_path(s.vbench),
            "output": _output(s, frames),
        }
    )


def _output(s: GenerateSettings, frames: int) -> str:
    if s.vbench is None:
        return expand_text(s.output or "") or ("out.png" if frames == s.loops == 1 else "out.mp4")
    folder = expand_text(s.output or "vbench/")
    if Path(folder).suffix and not folder.endswith("/"):
        raise ValueError(f"`vbench` fills a folder with clips; `output` must name one, got {folder!r}")
    return f"{folder.rstrip('/')}/"


def _absolute(s: GenerateSettings) -> dict[str, object]:
    """Paths that mean the same from any folder."""
    files = {"images": s.images, "references": s.references}
    paths: dict[str, object] = {name: tuple(map(_absolute_path, given)) for name, given in files.items()}
    paths["lora"] = tuple(_absolute_lora(text) for text in s.lora)
    paths["video"] = s.video and _absolute_path(s.video)
    parts = {name: getattr(s, name) for name in ("model", "vae", "text_encoder")}
    named = config_names("models")
    local = {name: part for name, part in parts.items() if part and part not in named and expand(part).is_dir()}
    return paths | {name: _absolute_path(part) for name, part in local.items()}


def _absolute_lora(text: str) -> str:
    name, weight = parse_lora(text)
    return f"{_absolute_path(name)}:{weight:g}"


def _absolute_path(path: str) -> str:
    return str(expand(path).absolute())


def _size(s: GenerateSettings, d: Defaults) -> tuple[int, int]:
    if s.size or s.resolution:
        return resolve_size(s.size, resolution=s.resolution, aspect=s.aspect)
    if s.aspect is None:
        return d.height, d.width
    if (d.height, d.width) != resolve_size():
        raise ValueError(
            f"`aspect` {s.aspect!r} is one of a named resolution, but the model's own size is {d.height}x{d.width}; "
            f"give a `resolution` too, or a `size`"
        )
    return resolve_size(aspect=s.aspect)


def _score(given: float | str | None, default: float | str | None) -> float | str:
    value = default if given is None else given
    return NONE if value is None else value


def policy_of(s: GenerateSettings) -> Policy | None:
    """The method that the settings name, with its fields.

    Raises:
        ValueError: There is no such method or field, or a value is out of range.
    """
    targets = {name: value for name in TARGETS if (value := getattr(s, name)) is not None}
    if s.accel is None and not targets:
        if given := [f"`{name}`" for name in _WITH_METHOD if getattr(s, name)]:
            raise ValueError(f"{' and '.join(given)} change nothing without `accel` or `speedup`")
        return None
    method, of_file = named_method(s.accel or BEST)
    fields = beside_file(of_file, s.accel_options)
    if targets:
        check_targets(method, targets, asked=s.accel)
        fields = beside_file(fields, targets)
    with told_by(s.accel or BEST):
        policy = make_policy(method, **fields)
    if s.prior and not policy.required:
        raise ValueError(f"{method} uses no prior; leave out `prior`")
    if s.prior:
        prior_file(s.prior)  # that it is not there is said before anything is loaded
    return policy


def _negative(s: GenerateSettings) -> str | None:
    if s.negative_prompt is None:
        return None
    if s.guidance == 1:
        raise ValueError("`negative_prompt` does nothing at `guidance` 1; raise the guidance or leave it out")
    return negative_text(s.negative_prompt, clean=s.clean_prompt)


def _check_size(source: Source, *, height: int, width: int) -> None:
    """Refuse a clip of less than a latent place, where the VAE's configuration is at hand.

    Raises:
        ValueError: Says how many pixels it takes.
    """
    if source.folder is None:
        return
    check_sides(height, width, least=chunks_of(read_config(source.folder / "vae" / "config.json")).least)


def _check_outputs(order: WorkOrder) -> None:
    s, inputs = order.settings, {path.resolve() for path in order.inputs}
    assert s.fps is not None
    for outputs in order.outputs:
        kind = Writer(outputs.clip, fps=s.fps).kind
        if kind == ".png" and (s.frames != 1 or s.loops > 1):
            raise ValueError(
                f"{outputs.clip} can hold one frame only, not {s.frames}; write .mp4, .gif or a folder ending in '/'"
            )
        if over := [path for path in outputs.all if Path(path).resolve() in inputs]:
            raise ValueError(f"{over[0]} would be written over the file that is read; choose another output")
