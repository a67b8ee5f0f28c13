"""What one run of ``videoaccel generate`` is told, as one checked value.

Nothing here needs torch: the command line asks this file for its options. What a field does not say (None) the model's
own defaults say; `videoaccel.jobs.resolve` fills them in.
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, ConfigDict, Field, field_validator, model_validator
from typing_extensions import Self

from videoaccel.common.reading import half_letter, parse_bytes, parse_colour, parse_rate
from videoaccel.common.wording import counted
from videoaccel.settings.refused import Settings
from videoaccel.settings.sizes import resolve_frames, resolve_size

NONE = "none"
"""Turns a score suffix off that the model would put behind prompts."""

MAX_IMAGES = 2

MOST_CLIPS, MOST_FRAMES, MOST_RANKS = 1_000_000, 1_000_000, 4096
"""Of one run; more are taken for a slip. A longer film is made in loops, more clips in several runs."""


def _listed(value: Any) -> Any:
    """One text is a list of one; in a list of numbers it is taken apart at commas."""
    return () if value is None else [value] if isinstance(value, str) else value


def _numbers(value: Any) -> Any:
    """Texts are taken apart at commas, also those in a list."""
    if isinstance(value, list | tuple):
        return [part for one in value for part in (one.split(",") if isinstance(one, str) else [one])]
    return value.split(",") if isinstance(value, str) else [value] if isinstance(value, int) else value


def _frames(value: Any) -> Any:
    return value if value is None else resolve_frames(value if isinstance(value, int | str) else str(value))


def _aspect(value: Any) -> Any:
    # YAML reads an unquoted 9:16 as minutes and seconds.
    return f"{value // 60}:{value % 60}" if isinstance(value, int) else value


def _bytes(value: Any) -> Any:
    return value if value is None else parse_bytes(value)


def _rate(value: Any) -> Any:
    return parse_rate(value) if isinstance(value, str) and "/" in value else value


def _ground(value: Any) -> Any:
    if isinstance(value, str):
        parse_colour(value)
    return value


def _size(value: Any) -> Any:
    if isinstance(value, str):
        resolve_size(value)
    return value


def _option(default: Any, panel: str, text: str, *, flag: str = "", metavar: str = "", **checks: Any) -> Any:
    """A field with what the command line shows of it."""
    shown: dict[str, Any] = {"panel": panel, "flag": flag, "metavar": metavar}
    return Field(default, description=text, json_schema_extra=shown, **checks)


TARGETS = ("speedup", "flops_ratio", "anchors", "min_psnr", "min_worst_psnr", "max_lpips")
"""What a method that plans can be told to reach, one of them."""

_Texts = Annotated[tuple[str, ...], BeforeValidator(_listed)]
_Score = float | Literal["none"] | None
_WHAT, _OUTSIDE, _SIZE, _SAMPLING, _GIVEN, _ACCEL, _RANKS, _MACHINE, _OUT = (
    "What",
    "Pipelines of diffusers",
    "Size and length",
    "Sampling",
    "Given frames",
    "Acceleration",
    "Ranks",
    "Machine",
    "Output",
)


OUTSIDE = (
    "args", "pipeline_class", "variant", "trust_remote_code", "group_offload", "measure_first", "speedup_of",
)  # fmt: skip
"""What only pipelines of diffusers can be told."""


LOADED_BY = ("pipeline_class", "variant", "trust_remote_code", "offload", "group_offload")
CALLED_BY = ("args", "negative_prompt", "images", "video")
"""What else says how a pipeline of diffusers is loaded and called."""


def _twice(given: dict[str, Any], fields: dict[str, Any]) -> str:
    """What to say of a target that is given by itself and among a method's fields, with another value; else nothing."""
    for name, value in given.items():
        if fields.get(name) not in (None, value):
            return f"`{name}` is {value:g}, and among `accel_options` {fields[name]}; give it once"
    return ""


class GenerateSettings(Settings):
    """Everything that ``videoaccel generate`` can be told.

    Raises:
        ValueError: A field is unknown, a value out of range, or two exclude each other; in one sentence.
    """

    model_config = ConfigDict(coerce_numbers_to_str=True)
    later: ClassVar[tuple[str, ...]] = (
        *OUTSIDE, "ground", "lora", "min_worst_psnr", "kernels", "precision", "tf32", "graphs",
    )  # fmt: skip
    """Fields that were added later, see :func:`videoaccel.settings.config.settled`."""

    prompt: _Texts = _option((), _WHAT, "Prompts; |0|text|2|text gives loops their own texts.")
    vbench: str | None = _option(
        None, _WHAT, "VBench_full_info.json in place of prompts; `output` becomes the folder that VBench's scripts "
        "expect.", metavar="FILE",
    )  # fmt: skip
    negative_prompt: str | None = _option(None, _WHAT, "What to stay away from, in place of the null text.")
    model: str = _option(
        "demo", _WHAT, "Name (see videoaccel models), folder or hub id; also of any pipeline of diffusers.",
        metavar="NAME",
    )  # fmt: skip
    vae: str | None = _option(None, _WHAT, "VAE in place of the released model's: folder or hub id.")
    text_encoder: str | None = _option(None, _WHAT, "T5 in place of the released model's: folder or hub id.")
    lora: _Texts = _option(
        (), _WHAT, "LoRA weights added to the transformer, FILE or FILE:weight; may be given again.", metavar="FILE"
    )
    aes: _Score = _option(None, _WHAT, "Aesthetic score put behind prompts; none for none.", metavar="SCORE")
    flow: _Score = _option(None, _WHAT, "Motion score, likewise.", metavar="SCORE")
    camera_motion: str | None = _option(None, _WHAT, "Camera motion, likewise, such as 'pan left'.")
    clean_prompt: bool = _option(True, _WHAT, "Clean prompts like the captions the models were trained on.")

    args: dict[str, Any] = _option(
        {}, _OUTSIDE, "Argument of the pipeline's call, such as true_cfg_scale=4; the value is YAML, @FILE a picture "
        "or clip.", flag="--arg", metavar="NAME=VALUE",
    )  # fmt: skip
    pipeline_class: str | None = _option(
        None, _OUTSIDE, "Class to load the model as, such as WanVideoToVideoPipeline; of a single file it has to be "
        "said.", metavar="NAME",
    )  # fmt: skip
    variant: str | None = _option(None, _OUTSIDE, "Variant of the weights' files, such as fp16.", metavar="NAME")
    trust_remote_code: bool = _option(False, _OUTSIDE, "Run code that comes with the model.")
    group_offload: bool = _option(False, _OUTSIDE, "Keep on the GPU only the layers at work: slower than --offload.")
    measure_first: int | None = _option(
        None, _OUTSIDE, "Where errors were not measured yet: how many clips are made whole for that, 0 refuses. "
        "Default: 4.", ge=0, le=10_000,
    )  # fmt: skip
    speedup_of: Literal["denoiser", "all"] | None = _option(
        None, _OUTSIDE, "Whose time --speedup is of: the denoiser's (default), or all of a call's.",
        metavar="denoiser|all",
    )  # fmt: skip

    size: Annotated[str | None, BeforeValidator(_size)] = _option(
        None, _SIZE, "Pixels; height first, here and in aspects.", metavar="HEIGHTxWIDTH"
    )
    resolution: str | None = _option(None, _SIZE, "Named size, such as 240p or 720p.", metavar="NAME")
    aspect: Annotated[str | None, BeforeValidator(_aspect)] = _option(
        None, _SIZE, "Aspect of a named size; 9:16 is landscape.", metavar="H:W"
    )
    frames: Annotated[int | None, BeforeValidator(_frames)] = _option(
        None, _SIZE, "Frames of a clip (of each loop); 1 makes an image. The release's names 2s, 4s, 8s, 16s, 32s (or "
        "1x to 16x) mean 51, 102, 204, 408, 816 frames, whatever the fps.",
        le=MOST_FRAMES,
    )  # fmt: skip
    fps: Annotated[float | None, BeforeValidator(_rate)] = _option(
        None, _SIZE, "Frames per second; 30000/1001 is known, too.", gt=0, le=1000, allow_inf_nan=False
    )
    loops: int = _option(1, _SIZE, "Clips made one after the other, each going on from the last.", ge=1, le=1000)
    condition_latents: int | None = _option(
        None, _SIZE, "Latent frames that a loop, or an extension, takes over from the clip it goes on from.", ge=1,
        le=MOST_FRAMES,
    )  # fmt: skip
    condition_edit: float = _option(0.0, _SIZE, "How freely a loop may change these: 0 keeps them.", ge=0, le=1)

    steps: int | None = _option(None, _SAMPLING, "Denoising steps.", ge=1, le=1_000_000)
    guidance: float | None = _option(
        None, _SAMPLING, "Guidance scale; 1 runs the conditional branch only.", ge=0, allow_inf_nan=False
    )
    seed: int = _option(0, _SAMPLING, "Of the first sample of every prompt; sample k has seed + k.", ge=0, le=2**63 - 1)
    samples: int = _option(1, _SAMPLING, "Clips of every prompt.", ge=1, le=100_000)
    seeds: Annotated[tuple[Annotated[int, Field(ge=0, le=2**63 - 1)], ...], BeforeValidator(_numbers)] = _option(
        (), _SAMPLING, "A seed for every clip instead, comma-separated.", metavar="N,N,..."
    )
    batch_size: int = _option(1, _SAMPLING, "Clips made at once. Changes a clip's last bits.", ge=1, le=10_000)
    keep: int | None = _option(None, _SAMPLING, "Write only this clip of its batch, counted from 0.", ge=0)
    scheduler: dict[str, Any] = _option({}, _SAMPLING, "Scheduler fields in place of the model's.", flag="-")

    images: _Texts = _option(
        (), _GIVEN, "Picture to start with; given twice, to start and to end with.", flag="--image", metavar="FILE"
    )
    video: str | None = _option(None, _GIVEN, "Clip to extend or edit.", metavar="FILE")
    extend: Literal["forward", "backward"] | None = _option(
        None, _GIVEN, "Make what comes after the clip (default), or before it.", metavar="forward|backward"
    )
    edit: float | None = _option(None, _GIVEN, "Keep the clip and let it change: 0 keeps it, 1 ignores it.", ge=0, le=1)
    references: _Texts = _option((), _GIVEN, "Picture or clip for --mask-strategy.", flag="--reference", metavar="FILE")
    mask_strategy: str | None = _option(
        None, _GIVEN, "Which given frames go where: groups loop, reference, start, target, length, edit joined by ;."
    )
    ground: Annotated[str, BeforeValidator(_ground)] = _option(
        "white", _GIVEN, "Colour below what is transparent in given frames.", metavar="COLOUR"
    )

    accel: str | None = _option(
        None,
        _ACCEL,
        "Method by name (videoaccel methods), two with a plus (soda+sada), a name from the box (soda-published), or a "
        "YAML file with method and fields.",
        metavar="NAME",
    )
    speedup: float | None = _option(
        None,
        _ACCEL,
        "How many times faster to denoise; by soda unless --accel says otherwise.",
        ge=1,
        allow_inf_nan=False,
    )
    flops_ratio: float | None = _option(
        None, _ACCEL, "How many times fewer FLOPs, in place of a speed-up.", ge=1, metavar="X", allow_inf_nan=False
    )
    min_psnr: float | None = _option(
        None, _ACCEL, "As fast as clips keep this PSNR (dB) on average, as calibrated.", metavar="DB", gt=0,
        allow_inf_nan=False,
    )  # fmt: skip
    min_worst_psnr: float | None = _option(
        None, _ACCEL, "As fast as the worst of the held-out clips kept this PSNR (dB).", metavar="DB", gt=0,
        allow_inf_nan=False,
    )  # fmt: skip
    max_lpips: float | None = _option(
        None, _ACCEL, "As fast as clips keep within this LPIPS, likewise.", metavar="X", gt=0, allow_inf_nan=False
    )
    anchors: int | None = _option(
        None, _ACCEL, "Steps that run in full, in place of a speed-up.", metavar="N", ge=1, le=1_000_000
    )
    accel_options: dict[str, Any] = _option({}, _ACCEL, "Fields of the method.", flag="-")
    prior: str | None = _option(
        None, _ACCEL, "Calibrated errors; default those found for model and setting.", metavar="FILE"
    )
    allow_foreign_prior: bool = _option(
        False, _ACCEL, "Take a prior made for other steps, size, frames, guidance or type, interpolated."
    )
    cache_memory: Annotated[int | None, BeforeValidator(_bytes)] = _option(
        None, _ACCEL, "What a method may store, such as 2GiB; it stores less, or is refused.", metavar="SIZE", ge=1
    )

    gpus: int | None = _option(
        None, _RANKS, "Ranks to start on this machine, one a GPU (or a CPU process); torchrun starts them, too.",
        ge=1, le=MOST_RANKS,
    )  # fmt: skip
    dp: int | None = _option(None, _RANKS, "Groups of ranks that make clips side by side.", ge=1, le=MOST_RANKS)
    cfg_parallel: int | None = _option(None, _RANKS, "2 gives each guidance branch ranks of its own.", ge=1, le=2)
    sp: int | None = _option(None, _RANKS, "Ranks that share the places of a clip.", ge=1, le=MOST_RANKS)
    sequence_parallel: Literal["auto", "dsp", "ulysses"] = _option(
        "auto", _RANKS, "How they do: dsp switches to frames, ulysses to heads; auto by the number of frames.",
        metavar="NAME",
    )  # fmt: skip
    provider: Literal["torch", "colossalai"] = _option(
        "torch", _RANKS, "Who makes process groups: torch or colossalai.", metavar="NAME"
    )
    patience: float = _option(
        25.0, _RANKS, "Seconds that ranks wait for each other within a step.", gt=0, le=1_000_000, allow_inf_nan=False
    )

    dtype: Literal["float32", "bfloat16", "float16"] | None = _option(
        None, _MACHINE, "float32, bfloat16 or float16.", metavar="TYPE"
    )
    device: str | None = _option(None, _MACHINE, "cpu, cuda, cuda:1 or mps; cuda if it is there unless told otherwise.")
    threads: int | None = _option(None, _MACHINE, "CPU threads; part of a clip's identity.", ge=1, le=4096)
    attention: str = _option("native", _MACHINE, "Attention kernel, see videoaccel doctor.", metavar="NAME")
    kernels: Literal["auto", "triton", "torch"] = _option(
        "auto", _MACHINE, "triton for our kernels, torch for PyTorch's, auto for ours where they run.", metavar="NAME"
    )
    precision: Literal["full", "fp8"] = _option(
        "full", _MACHINE, "fp8 for 8-bit products in the blocks: faster on Ada, Hopper and later.", metavar="NAME"
    )
    tf32: bool = _option(False, _MACHINE, "Let float32 products round to TF32 on CUDA: faster, less exact.")
    compile: bool = _option(False, _MACHINE, "Compile the networks' parts; the first clip takes long.")
    graphs: Literal["auto", "on", "off"] = _option(
        "auto", _MACHINE, "Replay network calls as CUDA graphs; auto where they are small and it gains.", metavar="NAME"
    )
    vae_tiling: bool = _option(False, _MACHINE, "Decode in tiles: less memory, faint seams.")
    offload: bool = _option(False, _MACHINE, "Keep on the GPU only the network at work.")
    text_cache: bool = _option(False, _MACHINE, "Keep encoded prompts on disk (videoaccel cache).")

    output: str | None = _option(
        None, _OUT, "mp4, gif, png, or a folder of frames ending in '/'; several clips are numbered. Default: out.mp4.",
        metavar="FILE", flag="-o", min_length=1,
    )  # fmt: skip
    contact_sheet: bool = _option(False, _OUT, "Also write a picture of the clip's frames beside it.")
    explain: bool = _option(False, _OUT, "Also draw what the method did in every step and module.")

    @field_validator("*")
    @classmethod
    def _whole_letters(cls, value: Any) -> Any:
        if odd := half_letter(value):
            raise ValueError(f"it holds {odd}, half of a letter, which no file can hold")
        return value

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if problem := next((text for wrong, text in self._problems() if wrong), None):
            raise ValueError(problem)
        return self

    def _problems(self) -> list[tuple[bool, str]]:
        """What cannot be meant, each with the sentence that says so."""
        known = [name for name in ("images", "video", "references") if getattr(self, name)]
        clip = self.extend is not None or self.edit is not None
        count = len(self.prompt) * self.samples
        given = {name: value for name in TARGETS if (value := getattr(self, name)) is not None}
        targets, twice = [f"`{name}`" for name in given], _twice(given, self.accel_options)
        return [
            (bool(twice), twice),
            (self.vbench is not None and bool(self.prompt), "give `vbench` or prompts, not both"),
            (self.vbench is not None and bool(self.seeds),
             "`vbench` seeds its clips itself, sample k of every prompt with `seed` + k; leave out `seeds`"),
            (self.vbench is not None and self.contact_sheet,
             "`contact_sheet` writes beside the clip, but VBench's folder may hold clips only; leave it out"),
            (self.vbench is not None and self.explain,
             "`explain` draws beside the clip, but VBench's folder may hold clips only; leave it out"),
            (self.explain and self.accel is None and not targets,
             "`explain` draws what a method did; name one, such as `accel=soda`"),
            (bool(self.size and (self.resolution or self.aspect)),
             "give `size`, or `resolution` and `aspect`, not both"),
            (len(known) > 1, "give only one of `images`, `video` and `references`, "
             f"got {' and '.join(f'`{name}`' for name in known)}"),
            (len(self.images) > MAX_IMAGES and self.mask_strategy is None,
             f"`images` takes one picture to start with, or two to start and end with, got {len(self.images)}; "
             f"for more use `references` with a `mask_strategy`"),
            (clip and self.video is None, "`extend` and `edit` need a clip, such as `video=clip.mp4`"),
            (self.extend is not None and self.edit is not None, "give `extend` or `edit`, not both"),
            (self.mask_strategy is not None and clip, "give `mask_strategy`, or `extend` or `edit`, not both"),
            (self.mask_strategy is not None and not self.mask_strategy.strip(),
             "`mask_strategy` is empty; leave it out, or say which frames go where, such as `mask_strategy=0`"),
            (self.mask_strategy is not None and not known,
             "`mask_strategy` needs frames to place, such as `references=a.png`; `images` or a `video` do, too"),
            (bool(self.references) and self.mask_strategy is None,
             "give a `mask_strategy` with `references`, to say where they go; `mask_strategy=0` starts with the first"),
            (bool(self.seeds) and len(self.seeds) != count,
             f"{counted(len(self.seeds), 'seed')} for {counted(count, 'clip')}; give one for each, or a single `seed`"),
            (count > MOST_CLIPS, f"that makes {count:,} clips; at most {MOST_CLIPS:,} are made in one run"),
            (self.keep is not None and self.vbench is not None, "give `vbench` or `keep`, not both"),
            (self.keep is not None and self.keep >= count,
             f"`keep` must be below the number of clips, {count}, got {self.keep}"),
            (len(targets) > 1, f"give one target, not {' and '.join(targets)}"),
            (self.offload and self.group_offload, "give `offload` or `group_offload`, not both"),
            (self.speedup_of is not None and self.speedup is None,
             "`speedup_of` says whose time a `speedup` is of; give one"),
            (self.loops == 1 and self.condition_edit > 0, "`condition_edit` is for `loops` above 1"),
            (self.loops == 1 and self.condition_latents is not None and (self.video is None or self.edit is not None
             or self.mask_strategy is not None),
             "`condition_latents` is for `loops` above 1 or for extending a `video`"),
        ]  # fmt: skip
