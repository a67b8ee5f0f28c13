"""What of a call, beside texts and pictures themselves, decides how a generation runs: numbers, sizes, guidance."""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from PIL import Image
from torch import Tensor

FREE = frozenset(
    {
        "num_inference_steps", "strength", "timesteps", "sigmas", "denoising_start", "denoising_end", "output_type",
        "return_dict", "num_images_per_prompt", "num_videos_per_prompt", "num_waveforms_per_prompt", "callback_steps",
        "clip_skip", "decode_timestep", "decode_noise_scale", "decode_chunk_size", "seed", "fps", "frame_rate",
        "batch_size",
    }
)  # fmt: skip
"""Arguments that one calibration serves for, whatever they are: curves are kept over the noise level."""

LENGTHS = ("num_frames", "video_length", "frames")
"""Names by which pipelines are told how long a clip is to be."""

LISTS = ("guidance", "scale", "mode")
"""What names of arguments say whose numbers may come as a list, one of each ControlNet or layer."""

SIZES = ("height", "width", *LENGTHS)
"""Names by which pipelines are told how large a latent is to be; None leaves it to them."""


def numbers_of_call(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Numbers and switches of a call that decide how it runs, by name.

    Those inside of an argument are named ``argument.name``. Of pictures and clips the sizes, where the call has no
    argument for the size of what is made, and the lengths, where it has none for the length; where it has one that is
    None, which of them may say it. Of true guidance whether it has a negative prompt, without which it is off.
    """
    found: dict[str, Any] = {}
    for name, value in arguments.items():
        if name in FREE:
            continue
        if isinstance(value, bool | int | float):
            found[name] = value
        elif isinstance(value, Mapping):
            found |= {f"{name}.{key}": one for key, one in value.items() if isinstance(one, bool | int | float)}
        elif isinstance(value, list | tuple) and any(word in name for word in LISTS):
            found |= {name: told} if (told := [one for one in value if isinstance(one, bool | int | float)]) else {}
        elif isinstance(value, Tensor) and value.ndim < 2 and "scale" in name:
            found[name] = value.tolist()
    return found | dict(_measures(arguments)) | dict(_sources(arguments)) | dict(_true_guidance(arguments))


def is_open(arguments: Mapping[str, Any]) -> bool:
    """Whether a call leaves the size of the latents to the pipeline, or to a picture, clip or sound that it is given.

    >>> is_open({"height": 32, "width": 32}), is_open({"height": None, "width": None}), is_open({"prompt": "a cat"})
    (False, True, False)
    """
    unsaid = any(name in arguments and arguments[name] is None for name in SIZES)
    return unsaid or any("audio" in name and isinstance(_first(one), Tensor) for name, one in arguments.items())


def _first(value: Any) -> Any:
    while isinstance(value, list | tuple) and value:
        value = value[0]
    return value


def _sources(arguments: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Pictures and clips of a call that leaves the size open: with them it is another call than with words alone."""
    if not any(name in arguments and arguments[name] is None for name in SIZES):
        return
    for name, value in arguments.items():
        if any(word in name for word in ("video", "image")) and "embed" not in name and "ip_adapter" not in name:
            first = _first(value)
            if isinstance(first, Image.Image) or (isinstance(first, Tensor | np.ndarray) and first.ndim > 2):
                yield "size may be of", name
                return


def numbers_of_pipe(pipe: Any) -> dict[str, Any]:
    """Those that a call is not told: of a modular pipeline's guiders, and what is set on the pipeline itself.

    That are layers of perturbed attention, windows of FreeNoise, rounds of FreeInit, and where a second network begins.
    """
    found: dict[str, Any] = {}
    config = getattr(pipe, "config", None) or {}
    if (boundary := config.get("boundary_ratio")) is not None:
        found["boundary_ratio"] = boundary
    for name, part in vars(pipe).items():
        if name == "pag_applied_layers":
            found[name] = list(part) if isinstance(part, list | tuple) else [part]
        elif name.startswith(("_free_noise_", "_free_init_")) and isinstance(part, bool | int | float | str):
            found[name[1:]] = part
        if any(base.__name__ == "BaseGuidance" for base in type(part).__mro__):
            config = {key: vars(part).get(key, value) for key, value in dict(part.config).items() if key[:1] != "_"}
            found |= {name: type(part).__name__, **{f"{name}.{key}": _plain(one) for key, one in config.items()}}
    return found


def _plain(value: Any) -> Any:
    """As a file keeps it."""
    return value if isinstance(value, bool | int | float | str) or value is None else repr(value)


def _true_guidance(arguments: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    scale = arguments.get("true_cfg_scale")
    if isinstance(scale, int | float) and scale > 1:
        given = [arguments.get(name) is not None for name in ("negative_prompt", "negative_prompt_embeds")]
        yield "a negative prompt", any(given)


def _measures(arguments: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    sized = "height" in arguments or "width" in arguments
    long = any(name in arguments for name in LENGTHS)
    for name, value in arguments.items():
        kind = next((word for word in ("video", "latents", "image") if word in name), None)
        if kind is None or "embed" in name or "ip_adapter" in name:
            continue
        count, first = None, value
        while isinstance(first, list | tuple) and first:
            count, first = len(first), first[0]
        if isinstance(first, Image.Image):
            if not sized:
                yield f"size of {name}", f"{first.height}x{first.width}"
            if not long and kind == "video" and count is not None:
                yield f"length of {name}", count
        elif isinstance(first, Tensor | np.ndarray) and not _told(kind, first.ndim, sized=sized, long=long):
            batched = first.ndim > (4 if kind == "video" else 3)
            yield f"shape of {name}", "x".join(map(str, first.shape[batched:]))


def _told(kind: str, axes: int, *, sized: bool, long: bool) -> bool:
    """Whether other arguments tell the size of what a tensor is for; latents of one picture have that by themselves."""
    if kind == "latents":
        return long or axes < 5
    return axes < 3 or (sized and (long or kind == "image"))
