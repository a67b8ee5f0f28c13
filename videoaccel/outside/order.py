"""From settings to what a run on a pipeline of diffusers does: everything decided and checked but for the weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

import torch

from videoaccel.adapters.methods import plans, rule_from, rules_of, schedule_of, tables_of
from videoaccel.adapters.pipeline_priors import check_tables
from videoaccel.common.files import sidecar_beside
from videoaccel.common.home import expand
from videoaccel.common.wording import counted
from videoaccel.generation.rank_choice import choose_ranks
from videoaccel.jobs.resolve import pick_device, policy_of
from videoaccel.jobs.samples import Outputs, numbered, suite_prompts
from videoaccel.media.sound import ENDING
from videoaccel.media.writer import Writer
from videoaccel.outside.arguments import CLASSES, Arguments, arguments_of
from videoaccel.outside.find import Found, find_outside
from videoaccel.outside.loading import pipeline_class
from videoaccel.outside.outputs import Medium, medium_of
from videoaccel.outside.signature import Signature, signature_of
from videoaccel.outside.spreading import require_plans
from videoaccel.parallel.degrees import Degrees
from videoaccel.parallel.mesh import ranks_here
from videoaccel.planning.prior import Prior
from videoaccel.sampling.noise import sample_seeds
from videoaccel.session.policy import Policy
from videoaccel.settings.generate import GenerateSettings
from videoaccel.settings.sizes import resolve_size

FPS = 24.0
"""Of clips whose pipeline says no rate, neither in its call nor in the example of its documentation."""

DEFAULTS: Mapping[str | None, str] = MappingProxyType({"clip": "out.mp4", "picture": "out.png", "sound": "out.wav"})

ONLY_OURS = (
    "vae", "text_encoder", "lora", "aes", "flow", "camera_motion", "clean_prompt", "loops", "condition_latents",
    "condition_edit", "extend", "edit", "references", "mask_strategy", "cache_memory",
    "dp", "cfg_parallel", "sequence_parallel", "provider", "attention", "text_cache", "explain",
    "contact_sheet", "kernels", "precision", "tf32", "graphs",
)  # fmt: skip
"""Settings that say something about this project's own models alone."""


ALONE = Degrees()
"""One rank."""


@dataclass(frozen=True)
class Sample:
    """One clip, picture or sound to make.

    Attributes:
        prompt: As given; None for a pipeline that reads none.
        seed: Of all random numbers.
        outputs: What is written.
        written: Whether it is, or only made because another clip of its batch depends on it.
    """

    prompt: str | None
    seed: int
    outputs: Outputs
    written: bool = True


@dataclass(frozen=True)
class OutsideOrder:
    """A whole run.

    Attributes:
        settings: Nothing in them is left to this machine; what they leave to the pipeline stays with it.
        found: Where the pipeline is.
        kind: Its class.
        medium: What it makes; None if that is not known before it is made.
        arguments: Of its calls; None of a modular pipeline, whose blocks have to be there.
        policy: Acceleration; None for none.
        samples: What is made, in batches of the settings' ``batch_size``.
        degrees: Ranks that make such clips side by side, or one together.
    """

    settings: GenerateSettings
    found: Found
    kind: type
    medium: Medium | None
    arguments: Arguments | None
    policy: Policy | None
    samples: tuple[Sample, ...]
    degrees: Degrees = ALONE

    def told(self, pipe: Any) -> Arguments:
        """The arguments of the calls of the loaded pipeline.

        Raises:
            ValueError: They do not fit.
        """
        if self.arguments is not None:
            return self.arguments
        from videoaccel.outside.signature import signature_of_blocks

        arguments = arguments_of(self.settings, signature_of_blocks(pipe), index=self.found.index)
        check_batch(self.settings, arguments)
        return arguments

    @property
    def batches(self) -> list[tuple[Sample, ...]]:
        """What is made by one call each, of those of which anything is written."""
        size = self.settings.batch_size
        batches = [self.samples[start : start + size] for start in range(0, len(self.samples), size)]
        return [batch for batch in batches if any(sample.written for sample in batch)]

    @property
    def outputs(self) -> list[Outputs]:
        """Of all clips that are written."""
        return [sample.outputs for sample in self.samples if sample.written]

    @property
    def inputs(self) -> list[Path]:
        """Every file that is read, but for the model's and a prior."""
        s = self.settings
        named = [*s.images, *([s.video] if s.video else []), *_named(list(s.args.values()))]
        return [Path(name) for name in dict.fromkeys(named)]


Ranks = Literal["one", "side by side", "together"]
"""Whether ranks that were started, if any, make clips of their own, or each clip together."""


def resolve_outside(settings: GenerateSettings, found: Found, *, ranks: Ranks = "one") -> OutsideOrder:
    """Check what can be checked early, and fill in what is this machine's. Writes nothing.

    Args:
        settings: What was asked for.
        found: The pipeline.
        ranks: What several ranks do.

    Raises:
        ValueError: A value does not fit the pipeline, the machine or the other values.
        FileNotFoundError: An input is not there.
    """
    kind = pipeline_class(found, trusted=settings.trust_remote_code)
    _refuse_ours(settings, kind)
    if found.missing:
        name = found.missing[0]
        raise ValueError(f"{found.name} is not whole: its index names {name}, and there is no folder {name}/ in it")
    if ranks == "one" and max(ranks_here(), settings.gpus or 1, settings.sp or 1) > 1:
        raise ValueError(f"a {kind.__name__} runs on one rank here; start it without torchrun, `gpus` and `sp`")
    known = not found.modular and not found.code
    signature = signature_of(kind) if known else None
    medium = medium_of(kind) if known else None
    s = _filled(settings, medium, signature)
    arguments = None if signature is None else arguments_of(s, signature, index=found.index)
    policy = policy_of(s)
    if policy is not None:
        check_method(policy, s.prior)
    if policy is None and (s.measure_first is not None or s.speedup_of is not None):
        raise ValueError("`measure_first` and `speedup_of` change nothing without `accel` or `speedup`")
    if policy is not None and not plans(policy) and (s.measure_first is not None or s.speedup_of is not None):
        name = "speedup_of" if s.measure_first is None else "measure_first"
        raise ValueError(f"`{name}` changes nothing: {policy.name} measures nothing first")
    if arguments is not None:
        check_batch(s, arguments)
    degrees = ALONE
    if ranks == "together" and (degrees := _degrees(s, policy)).ranks > 1:
        require_plans(found, kind)
        s = s.model_copy(update={"gpus": degrees.ranks, "sp": degrees.sequence})
    order = OutsideOrder(s, found, kind, medium, arguments, policy, _samples(s), degrees)
    _check_outputs(order)
    return order


def _degrees(s: GenerateSettings, policy: Policy | None) -> Degrees:
    """The ranks that were started, or are to be, all at one clip."""
    count = ranks_here() if ranks_here() > 1 else s.gpus or 1
    if s.sp not in (None, count):
        raise ValueError(
            f"`sp={s.sp}` does not fit {counted(count, 'rank')}: all of them share each clip here; "
            f"`gpus={s.sp}` starts as many, and videoaccel render makes clips side by side"
        )
    return choose_ranks(s.model_copy(update={"dp": 1, "cfg_parallel": 1}), policy)


def check_batch(s: GenerateSettings, arguments: Arguments) -> None:
    """Make sure that several clips can be made by one call, if they shall be.

    Raises:
        ValueError: They cannot.
    """
    if s.batch_size == 1:
        return
    signature = arguments.signature
    if arguments.prompt is None or "generator" not in signature.defaults:
        what = "prompt" if arguments.prompt is None else "generator"
        raise ValueError(f"`batch_size` needs a list of {what}s, and {signature.kind} takes no {what}")


def check_method(policy: Policy, prior: str | None = None) -> None:
    """Make sure that a method can be had where the insides of networks are not seen.

    Args:
        policy: The method.
        prior: File of measured errors; None for those on the shelf.

    Raises:
        ValueError: It cannot, or not with a field of it, or what was measured tells nothing of what it wants to keep.
    """
    if not plans(policy):
        rules_of(policy)
        return
    if rule_from(policy) is None:
        schedule_of(policy)
    if needs := tables_of(policy):
        check_tables(Prior.given(prior), needs)


def with_prompt(settings: GenerateSettings, found: Found) -> GenerateSettings:
    """Settings with a prompt if they have none and the pipeline reads one: for runs whose result nobody keeps."""
    kind = pipeline_class(found, trusted=settings.trust_remote_code)
    reads = signature_of(kind).first(("prompt", CLASSES))
    if settings.prompt or (reads is None and not found.modular):
        return settings
    return settings.model_copy(update={"prompt": ("1" if reads == CLASSES else "a test",)})


def usual_ending(settings: GenerateSettings) -> str:
    """What files of a model's results end in unless told otherwise, without the dot."""
    found = find_outside(settings)
    if found is None or found.modular or found.code:
        return "mp4"
    return DEFAULTS[medium_of(pipeline_class(found)) or "clip"].rpartition(".")[2]


def reads_text(found: Found) -> bool:
    """Whether a pipeline is called with a text; of one whose call is not known before it is loaded, whether it may."""
    if found.modular or found.code:
        return True
    return "prompt" in signature_of(pipeline_class(found)).defaults


def fps_of(settings: GenerateSettings, signature: Signature) -> float:
    """Frames per second of a clip: as asked, or as the call is told by default, or as its documentation's example."""
    if settings.fps is not None:
        return settings.fps
    return fps_told(settings.args, signature)


def fps_told(values: Mapping[str, Any], signature: Signature) -> float:
    """The same by the arguments of a call."""
    told = [values.get(name, signature.defaults.get(name)) for name in ("fps", "frame_rate")]
    return next((float(rate) for rate in told if isinstance(rate, int | float) and rate > 0), signature.fps or FPS)


def ending_of(output: str) -> str:
    """What a name's end says: the suffix, or "/" for a folder.

    >>> ending_of("a/out.MP4"), ending_of("frames/")
    ('.mp4', '/')
    """
    return "/" if output.endswith("/") else Path(output).suffix.lower()


def check_ending(output: str, medium: Medium | None, *, frames: int | None = None) -> None:
    """Make sure that a file of this name can hold what is made.

    Args:
        output: The file.
        medium: What is made; None if that is not known yet.
        frames: How many there are; None if that is not known.

    Raises:
        ValueError: It cannot.
    """
    sound = ending_of(output) == ENDING
    if medium == "sound" and not sound:
        raise ValueError(f"{output} cannot hold sound; write {ENDING}")
    if sound:
        if medium in ("clip", "picture"):
            raise ValueError(f"{output} can hold sound only; write .mp4, .gif, .png or a folder ending in '/'")
        return
    writer = Writer(output, fps=1)
    if medium is None:
        return
    if writer.kind == ".png" and (frames or 1) > 1:
        raise ValueError(f"{output} can hold one frame only, not {frames}; write .mp4, .gif or a folder ending in '/'")


def _refuse_ours(s: GenerateSettings, kind: type) -> None:
    usual = {name: field.get_default() for name, field in type(s).model_fields.items()}
    if given := [f"`{name}`" for name in ONLY_OURS if getattr(s, name) != usual[name]]:
        raise ValueError(f"{', '.join(given)}: that is for this project's own models, not for a {kind.__name__}")
    if s.aspect is not None and s.resolution is None:
        raise ValueError("`aspect` is one of a named `resolution`; give that too, or a `size`")


def _filled(s: GenerateSettings, medium: Medium | None, signature: Signature | None) -> GenerateSettings:
    device = pick_device(s.device)
    if (s.offload or s.group_offload) and device.type != "cuda":
        name = "offload" if s.offload else "group_offload"
        raise ValueError(f"`{name}` keeps a GPU's memory free; it needs a CUDA device, got {str(device)!r}")
    size = s.size
    if s.resolution is not None:
        size = "x".join(map(str, resolve_size(resolution=s.resolution, aspect=s.aspect)))
    model = expand(s.model)
    return s.model_copy(
        update={
            "model": str(model.absolute()) if model.exists() else s.model,
            "size": size,
            "resolution": None,
            "aspect": None,
            "images": tuple(str(expand(path).absolute()) for path in s.images),
            "video": s.video and str(expand(s.video).absolute()),
            "args": {name: _absolute(value) for name, value in s.args.items()},
            "prior": s.prior and str(expand(s.prior).absolute()),
            "dtype": s.dtype or ("float32" if device.type == "cpu" else "bfloat16"),
            "device": str(device),
            "threads": s.threads or torch.get_num_threads(),
            "vbench": s.vbench and str(expand(s.vbench).absolute()),
            "output": _output(s, medium),
        }
    )


def _output(s: GenerateSettings, medium: Medium | None) -> str:
    if s.vbench is None:
        return s.output or DEFAULTS[medium or "clip"]
    if medium not in ("clip", None):
        raise ValueError("`vbench` is of clips, and this pipeline makes none")
    folder = s.output or "vbench/"
    if Path(folder).suffix and not folder.endswith("/"):
        raise ValueError(f"`vbench` fills a folder with clips; `output` must name one, got {folder!r}")
    return f"{folder.rstrip('/')}/"


def _absolute(value: Any) -> Any:
    """Files' names that mean the same from any folder."""
    if isinstance(value, list | tuple):
        return [_absolute(item) for item in value]
    if isinstance(value, str) and value.startswith("@") and not value.startswith("@@"):
        return f"@{expand(value[1:]).absolute()}"
    return value


def _named(value: Any) -> list[str]:
    """Files that arguments name."""
    if isinstance(value, list | tuple):
        return [name for item in value for name in _named(item)]
    return [value[1:]] if isinstance(value, str) and value.startswith("@") and not value.startswith("@@") else []


def _samples(s: GenerateSettings) -> tuple[Sample, ...]:
    prompts: tuple[str | None, ...] = s.prompt if s.vbench is None else suite_prompts(s.vbench)
    prompts = prompts or (None,)
    seeds = sample_seeds(list(s.seeds) or s.seed, prompts=len(prompts), samples=s.samples)
    assert s.output is not None
    if s.vbench is not None:
        names = [f"{s.output}{prompt}-{k}.mp4" for prompt in prompts for k in range(s.samples)]
        sidecars = Path(f"{s.output.rstrip('/')}-sidecars")
    else:
        names = numbered(s.output, len(seeds)) if s.keep is None else [s.output] * len(seeds)
        sidecars = None
    found = []
    for number, (name, seed) in enumerate(zip(names, seeds, strict=True)):
        outputs = Outputs(name, sidecar_beside(name, folder=sidecars), None)
        found.append(Sample(prompts[number // s.samples], seed, outputs, written=s.keep in (None, number)))
    return tuple(found)


def _check_outputs(order: OutsideOrder) -> None:
    s, inputs = order.settings, {path.resolve() for path in order.inputs}
    for sample in order.samples:
        check_ending(sample.outputs.clip, order.medium, frames=s.frames if order.medium == "clip" else None)
        if over := [path for path in sample.outputs.all if Path(path).resolve() in inputs]:
            raise ValueError(f"{over[0]} would be written over the file that is read; choose another output")
