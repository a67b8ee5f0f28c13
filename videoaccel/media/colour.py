"""From whatever colours a picture or a film has to sRGB on a stated ground: the one place where this is decided.

Shape legend: H height, W width in pixels. What comes out is uint8 [H, W, 3], RGB in sRGB, with nothing left to see
through.
"""

from __future__ import annotations

import io
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageCms

from videoaccel.common.reading import Colour
from videoaccel.common.user_warning import warn_user
from videoaccel.media.encoders import Frames
from videoaccel.media.tones import in_srgb, tone_of

WHITE: Colour = (255, 255, 255)
"""What lies under a transparent picture unless told otherwise, as on a page."""

_UNTAGGED, _BT709 = 2, 1  # FFmpeg's numbers
_HD = (1280, 576)  # from this width, or above this height, players take BT.709 where a film does not say


class UnknownWhiteError(ValueError):
    """The values of a picture do not say which of them is white."""


def over(pixels: Frames, alpha: Frames, ground: Colour) -> Frames:
    """Lay pixels [H, W, 3] on a ground of one colour, by their alpha [H, W]; as browsers do, in sRGB's own numbers."""
    share = alpha[..., None].astype(np.uint32)
    mixed = pixels * share + np.array(ground, np.uint32) * (255 - share)
    frames: Frames = ((mixed + 127) // 255).astype(np.uint8)
    return frames


def picture_pixels(image: Image.Image, *, name: str, ground: Colour = WHITE) -> Frames:
    """A picture of any mode as sRGB [H, W, 3].

    Transparency of every kind shows the ground. A colour profile is applied; one that cannot be is told in a warning.
    Values of 16 bits and floats from 0 to 1 are scaled.

    Args:
        image: As Pillow opened it.
        name: What warnings and errors call it.
        ground: What shows where it is transparent.

    Raises:
        UnknownWhiteError: It is grey with values of more than 16 bits, or floats beyond 1.
    """
    opaque, alpha = _apart(image)
    pixels: Frames = np.array(_managed(opaque, image.info.get("icc_profile"), name))
    return pixels if alpha is None else over(pixels, alpha, ground)


def film_pixels(frame: Any, *, ground: Colour = WHITE) -> Frames:
    """A decoded frame (``av.VideoFrame``) as RGB [H, W, 3], the way players show it.

    Where it does not say by which matrix its colours were made, those of HD are BT.709's and others BT.601's. Wide
    colours and HDR are made sRGB.
    """
    if is_untagged_hd(frame):
        frame.colorspace = _BT709
    through, tone = shows_ground(frame), tone_of(frame)
    if tone is None:
        pixels: Frames = frame.to_ndarray(format="rgba" if through else "rgb24")
    else:
        deep = frame.to_ndarray(format="rgba64le" if through else "rgb48le")
        pixels = in_srgb(deep[..., :3], tone)
        if through:
            pixels = np.concatenate((pixels, (deep[..., 3:] // 257).astype(np.uint8)), axis=-1)
    if not through:
        return pixels
    opaque = (pixels[..., 3] == 255).all()
    return np.ascontiguousarray(pixels[..., :3]) if opaque else over(pixels[..., :3], pixels[..., 3], ground)


def is_untagged_hd(frame: Any) -> bool:
    """Whether a frame (``av.VideoFrame``) is large and does not say by which matrix its colours were made."""
    large = frame.width >= _HD[0] or frame.height > _HD[1]
    return bool(large and frame.colorspace == _UNTAGGED and not frame.format.is_rgb)


def shows_ground(frame: Any) -> bool:
    """Whether a frame (``av.VideoFrame``) can be transparent."""
    return bool(frame.format.has_palette or any(part.is_alpha for part in frame.format.components))


def _apart(image: Image.Image) -> tuple[Image.Image, Frames | None]:
    """The picture without transparency, in 8 bits, and its alpha [H, W] unless it is opaque."""
    mode, key = image.mode, image.info.get("transparency")
    if mode.startswith(("I", "F")):
        values = np.asarray(image)
        alpha = np.where(values == key, 0, 255).astype(np.uint8) if isinstance(key, int) else None
        return Image.fromarray(_scaled(values)), alpha
    if not (mode.endswith(("A", "a")) or key is not None):
        return image, None
    if isinstance(key, tuple) and max(key) > 255:  # a key of 16 bits to colours that Pillow reads with 8
        image = image.copy()
        image.info["transparency"] = tuple(part >> 8 for part in key)
    whole = image.convert("LA" if mode == "La" else "RGBA") if mode != "LA" else image
    found: Frames = np.array(whole.getchannel("A"))
    grey = image if mode == "L" else whole.getchannel("L") if whole.mode == "LA" else None
    return grey or whole.convert("RGB"), None if (found == 255).all() else found


def _scaled(values: NDArray[Any]) -> Frames:
    """Grey of 16 bits or of floats in 8 bits.

    Raises:
        UnknownWhiteError: There are other values than these have.
    """
    low, high = values.min(), values.max()
    if values.dtype.kind == "f":
        if not (low >= 0 and high <= 1):  # not with NaN either
            raise UnknownWhiteError(
                f"its values go from {low:g} to {high:g}; floats are read from 0 (black) to 1 (white)"
            )
        grey: Frames = (values * 255 + 0.5).astype(np.uint8)
        return grey
    if values.dtype.itemsize > 2 and not (low >= 0 and 255 < high <= 65535):
        raise UnknownWhiteError(
            f"its values are whole numbers of 32 bits from {low} to {high}, of which none is known to be white; "
            f"save it with 8 or 16 bits"
        )
    grey = ((values.astype(np.uint32) + 128) // 257).astype(np.uint8)
    return grey


def _managed(image: Image.Image, profile: bytes | None, name: str) -> Image.Image:
    """The picture in sRGB, by its profile; without one its numbers are sRGB's."""
    if image.mode not in ("RGB", "L", "CMYK", "LAB"):
        image = image.convert("RGB")
    try:
        if profile:
            source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        elif image.mode == "LAB":
            source = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB"))
        else:
            return image.convert("RGB")
        transform = _transform(source, image.mode)
        if image.mode == "RGB" and _changes_nothing(transform):
            return image
        converted = ImageCms.applyTransform(image, transform)
        assert converted is not None
        return converted
    except (ImageCms.PyCMSError, OSError, ImportError) as error:
        warn_user(
            f"the colour profile of {name} cannot be used ({str(error).strip() or type(error).__name__}); "
            f"its colours are taken for sRGB's"
        )
        return image.convert("RGB")


def _transform(source: ImageCms.ImageCmsProfile, mode: str) -> ImageCms.ImageCmsTransform:
    intent, flags = ImageCms.Intent.RELATIVE_COLORIMETRIC, ImageCms.Flags.BLACKPOINTCOMPENSATION
    return ImageCms.buildTransform(source, ImageCms.createProfile("sRGB"), mode, "RGB", intent, flags)


@cache
def _lattice() -> Image.Image:
    steps = np.linspace(0, 255, 9).round().astype(np.uint8)
    return Image.fromarray(np.stack(np.meshgrid(steps, steps, steps), axis=-1).reshape(27, 27, 3))


def _changes_nothing(transform: ImageCms.ImageCmsTransform) -> bool:
    """Whether it is sRGB's own profile, under whatever name: rounding alone should change no picture."""
    after = ImageCms.applyTransform(_lattice(), transform)
    return bool(np.abs(np.asarray(after).astype(int) - np.asarray(_lattice())).max() <= 1)
