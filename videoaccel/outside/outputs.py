"""What a pipeline returns, taken apart: frames, pictures or sound.

Shape legend: B of a batch, T frames, H, W pixels, C channels, N samples of sound.
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from videoaccel.media.encoders import Frames

Medium = Literal["clip", "picture", "sound"]

FIELDS: tuple[tuple[str, Medium], ...] = (
    ("frames", "clip"), ("videos", "clip"), ("video", "clip"), ("images", "picture"), ("image", "picture"),
    ("audios", "sound"), ("audio", "sound"), ("sound", "sound"),
)  # fmt: skip
"""Names of results that can be written; the first that is there counts, and sound beside frames as well."""

_RATES = ("output_sampling_rate", "sampling_rate", "sample_rate", "audio_sampling_rate")
_SOUNDERS = ("vocoder", "audio_vae", "sound_tokenizer", "vae")


@dataclass(frozen=True)
class Taken:
    """A result.

    Attributes:
        frames: uint8 [T, H, W, 3]; None for none.
        sound: float32 [C, N] in [-1, 1]; None for none.
    """

    frames: Frames | None = None
    sound: NDArray[np.float32] | None = None


def medium_of(kind: type) -> Medium | None:
    """What a class of pipelines makes, told by the result that its module names; None if that does not tell."""
    from diffusers.utils import BaseOutput

    # A pipeline's file imports its result's class, whatever the annotation of the call says.
    near = vars(sys.modules[kind.__module__])
    results = [
        value
        for name, value in near.items()
        if isinstance(value, type) and issubclass(value, BaseOutput) and "Pipeline" in name
    ]
    names = {
        one.name
        for result in results
        for one in (dataclasses.fields(result) if dataclasses.is_dataclass(result) else ())
    }
    return next((medium for name, medium in FIELDS if name in names), None)


def medium_of_blocks(pipe: Any) -> Medium | None:
    """What a modular pipeline makes, told by what its blocks leave."""
    names = {one.name for one in pipe.blocks.outputs}
    return next((medium for name, medium in FIELDS if name in names), None)


def taken(result: Any) -> Taken:
    """The frames and the sound of one call.

    Raises:
        ValueError: There are none, or several of a batch.
        FloatingPointError: It is not-a-number.
    """
    return _taken(_fields(result))


def taken_each(result: Any, count: int) -> list[Taken]:
    """Those of one call that made several.

    Raises:
        ValueError: There are others than so many, or none.
        FloatingPointError: They are not-a-number.
    """
    if count == 1:
        return [taken(result)]
    values = _fields(result)
    for name, value in values.items():
        if len(value) != count or (dict(FIELDS)[name] == "clip" and not _is_batch(value)):
            raise ValueError(f"{count} were asked for of one call, and other {name} came out; leave `batch_size` out")
    return [_taken({name: value[k : k + 1] for name, value in values.items()}) for k in range(count)]


def _fields(result: Any) -> dict[str, Any]:
    values = _by_name(result)
    found = {name: values[name] for name, _ in FIELDS if values.get(name) is not None}
    if not found:
        names = ", ".join(map(str, values)) or type(result).__name__
        raise ValueError(f"what came out cannot be written: {names}, and no frames, images or sound")
    return found


def _taken(values: Mapping[str, Any]) -> Taken:
    found = [(name, medium) for name, medium in FIELDS if name in values]
    seen = next((name for name, medium in found if medium != "sound"), None)
    heard = next((name for name, medium in found if medium == "sound"), None)
    frames = None if seen is None else as_frames(values[seen], moving=dict(found)[seen] == "clip")
    return Taken(frames, None if heard is None else as_sound(values[heard]))


def as_frames(value: Any, *, moving: bool) -> Frames:
    """uint8 [T, H, W, 3] of a clip, or of pictures.

    Args:
        value: Pictures of PIL in lists, arrays [.., H, W, C] or tensors [.., C, H, W] in [0, 1].
        moving: Whether a batch of clips is there, not of pictures.

    Raises:
        ValueError: They are no pictures, or of several clips.
        FloatingPointError: They are not-a-number.
    """
    if moving and _is_batch(value):
        if len(value) != 1:
            raise ValueError(f"one clip was asked for, and {len(value)} came out")
        value = value[0]
    if hasattr(value, "convert"):
        value = [value]
    if isinstance(value, list | tuple):
        frames = [_frame(one) for one in value]
        if len({frame.shape for frame in frames}) > 1:
            raise ValueError("pictures of several sizes came out, which do not go into one file")
        return np.stack(frames)
    array = _array(value)
    return np.stack([_frame(one) for one in (array if array.ndim == 4 else array[None])])


def as_sound(value: Any) -> NDArray[np.float32]:
    """[C, N] of the first of a batch.

    Raises:
        ValueError: It is of several.
        FloatingPointError: It is not-a-number.
    """
    sound = np.asarray(_plain(value), dtype=np.float32)
    if sound.ndim == 3:
        if len(sound) != 1:
            raise ValueError(f"one sound was asked for, and {len(sound)} came out")
        sound = sound[0]
    if sound.ndim not in (1, 2) or sound.size == 0:
        raise ValueError(f"what came out is no sound: {list(sound.shape)}")
    sound = sound.reshape(-1, sound.shape[-1])
    if not np.isfinite(sound).all():
        raise FloatingPointError("the sound came out as not-a-number; a wider `dtype` (bfloat16, float32) may help")
    return np.clip(sound, -1, 1)


def numbers_in(result: Any) -> list[NDArray[Any]]:
    """Everything that one call gave, as it came: bytes of pictures, or numbers."""
    values = _by_name(result)
    return [leaf for name, _ in FIELDS for leaf in _leaves(values.get(name))]


def sampling_rate(pipe: Any) -> int | None:
    """Samples of sound a second; None if nothing says it."""
    for name in _SOUNDERS:
        part = getattr(pipe, name, None)
        config = getattr(part, "config", None) or {}
        for key in _RATES:
            found = config.get(key) if isinstance(config, Mapping) else getattr(config, key, None)
            found = found if found is not None else getattr(part, key, None)
            if isinstance(found, int | float) and found > 0:
                return int(found)
    own = next((getattr(pipe, key) for key in _RATES if isinstance(getattr(pipe, key, None), int | float)), None)
    return None if own is None else int(own)


def _by_name(result: Any) -> Mapping[str, Any]:
    if isinstance(result, Mapping):
        return result
    values = getattr(result, "values", None)  # of a modular pipeline's state
    if isinstance(values, Mapping):
        return values
    fields = {name: getattr(result, name, None) for name, _ in FIELDS}
    return {name: value for name, value in fields.items() if value is not None}


def _leaves(value: Any) -> list[NDArray[Any]]:
    if isinstance(value, list | tuple):
        return [leaf for item in value for leaf in _leaves(item)]
    if isinstance(value, Tensor):
        return [_plain(value)]
    if isinstance(value, np.ndarray) or hasattr(value, "convert"):
        return [np.asarray(value)]
    return []


def _is_batch(value: Any) -> bool:
    if isinstance(value, np.ndarray | Tensor):
        return value.ndim == 5
    first = value[0] if isinstance(value, Sequence) and len(value) else None
    return isinstance(first, list | tuple) or (isinstance(first, np.ndarray | Tensor) and first.ndim == 4)


def _plain(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.detach().float().cpu().numpy()
    if isinstance(value, list | tuple) and value and isinstance(value[0], Tensor):
        return np.stack([_plain(one) for one in value])
    return value


def _array(value: Any) -> NDArray[Any]:
    """[.., H, W, C]."""
    if isinstance(value, Tensor):
        return np.moveaxis(_plain(value), -3, -1) if value.ndim >= 3 else np.asarray(_plain(value))
    return np.asarray(value)


def _frame(value: Any) -> Frames:
    """uint8 [H, W, 3]."""
    if hasattr(value, "convert"):
        return np.asarray(value.convert("RGB"))
    array = _array(value)
    if array.ndim == 2:
        array = array[..., None]
    if array.ndim != 3 or array.shape[-1] not in (1, 3, 4):
        raise ValueError(f"what came out is no picture: {list(array.shape)}; is it a latent?")
    array = np.repeat(array, 3, -1) if array.shape[-1] == 1 else array[..., :3]
    if array.dtype == np.uint8:
        return array
    if not np.isfinite(array).all():
        raise FloatingPointError("the frames came out as not-a-number; a wider `dtype` (bfloat16, float32) may help")
    if array.min() < -0.01 or array.max() > 1.01:
        raise ValueError(f"what came out is no picture: values from {array.min():.2f} to {array.max():.2f}")
    return np.asarray((np.clip(array, 0, 1) * 255).round().astype(np.uint8))
