"""Pictures in files, through Pillow: what is one, and its pixels. Films are `videoaccel.media.films`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import MappingProxyType

from PIL import Image, ImageOps, UnidentifiedImageError

from videoaccel.common.reading import Colour
from videoaccel.common.user_warning import warn_user
from videoaccel.common.wording import first_line
from videoaccel.media.colour import WHITE, UnknownWhiteError, picture_pixels
from videoaccel.media.encoders import Frames
from videoaccel.media.limits import check_pixels

_FORMATS = (
    "PNG", "JPEG", "MPO", "TIFF", "BMP", "DIB", "GIF", "WEBP", "PPM", "TGA", "JPEG2000", "AVIF", "HEIF", "ICO", "QOI",
)  # fmt: skip
"""What Pillow may take a file for: some of its other formats start programs (EPS), or are hardly looked after."""

_HEIF = (b"heic", b"heix", b"heim", b"heis", b"mif1", b"mif2", b"avif", b"avis")
_HELP = MappingProxyType(
    {
        "HEIC": "pip install 'videoaccel[heif]' reads it, or save it as JPEG or PNG",
        "AVIF": "Pillow 11.3 or newer reads it, or save it as JPEG or PNG",
    }
)
_STARTS = ((b"\x89PNG", "PNG"), (b"\xff\xd8\xff", "JPEG"), (b"II*\0", "TIFF"), (b"MM\0*", "TIFF"), (b"BM", "BMP"))


def picture_format(path: Path) -> str | None:
    """The kind of picture that a file's first bytes say it is, whatever its name; None for anything else."""
    with path.open("rb") as file:
        head = file.read(64)
    if head[4:8] == b"ftyp" and head[8:12] in _HEIF:
        brands = head[8 : min(len(head), int.from_bytes(head[:4], "big"))]
        return "AVIF" if b"avif" in brands or b"avis" in brands else "HEIC"
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "WebP"
    return next((name for start, name in _STARTS if head.startswith(start)), None)


def read_image(path: str | Path, *, ground: Colour = WHITE) -> Frames:
    """Read a picture, the right way up, in sRGB, as a clip of one frame [1, H, W, 3].

    Args:
        path: The file. Of several pictures in it the first is read, with a warning if they are an animation or pages.
        ground: What shows where it is transparent.

    Raises:
        FileNotFoundError: There is no such file.
        PermissionError: This user may not read it.
        ValueError: It is not a picture, or not a whole one, or too large.
    """
    path = existing_file(path)
    with _opened(path) as file:
        count = getattr(file, "n_frames", 1)
        if count > 1 and file.format != "MPO":  # the others in an MPO are a telephone's own previews
            warn_user(f"{path} holds {count} pictures; the first is taken")
        return _pixels(file, path, ground)[None]


def read_pictures(path: Path, *, ground: Colour = WHITE) -> Iterator[tuple[Frames, float]]:
    """The frames [H, W, 3] of a picture that may move (WebP, PNG, AVIF), each with how long it stays in seconds or 0.

    Raises:
        ValueError: It is not a whole picture.
    """
    with _opened(path) as file:
        count = 1 if file.format == "MPO" else getattr(file, "n_frames", 1)
        # The picture that a PNG shows where nothing moves need not be part of what moves.
        for number in range(1 if count > 1 and getattr(file, "default_image", False) else 0, count):
            file.seek(number)
            pixels = _pixels(file, path, ground)
            yield pixels, float(file.info.get("duration") or 0) / 1000


def existing_file(path: str | Path) -> Path:
    """The path of a file that is there, holds something and may be read.

    Raises:
        FileNotFoundError: There is no such file.
        PermissionError: This user may not read it.
        ValueError: It is empty or no file.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist")
    if not path.is_file():
        raise ValueError(f"{path} is not a file")
    if path.stat().st_size == 0:
        raise ValueError(f"{path} is empty")
    try:
        path.open("rb").close()
    except PermissionError:  # which Pillow and FFmpeg would pass on as one of their own
        raise PermissionError(f"{path} may not be read by this user") from None
    return path


@contextmanager
def _opened(path: Path) -> Iterator[Image.Image]:
    """The opened picture; what goes wrong with it is one sentence.

    Raises:
        ValueError: It is no picture, not a whole one, or of a format that needs a library that is not here.
    """
    kind = picture_format(path)
    if kind == "HEIC":
        with suppress(ImportError):
            import pillow_heif

            pillow_heif.register_heif_opener()
    Image.init()
    try:
        with _any_size(), Image.open(path, formats=[name for name in _FORMATS if name in Image.OPEN]) as file:
            yield file
    except _TooLargeError:
        raise
    except UnknownWhiteError as error:
        raise ValueError(f"{path} cannot be read as a picture: {error}") from error
    except UnidentifiedImageError as error:
        if kind is not None and kind in _HELP:
            raise ValueError(
                f"{path} is a picture in the format {kind}, which is not read here: {_HELP[kind]}"
            ) from None
        raise ValueError(f"{path} is not a readable picture (damaged or cut short?): {first_line(error)}") from error
    except Exception as error:  # Pillow raises many kinds, by file format
        raise ValueError(f"{path} is not a readable picture (damaged or cut short?): {first_line(error)}") from error


@contextmanager
def _any_size() -> Iterator[None]:
    """Pillow's own limit cannot be gone beyond; ours is looked at before anything is decoded, see `_pixels`."""
    before, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
    try:
        yield
    finally:
        Image.MAX_IMAGE_PIXELS = before


class _TooLargeError(ValueError):
    """A picture has too many pixels."""


def _pixels(file: Image.Image, path: Path, ground: Colour) -> Frames:
    try:
        check_pixels(file.height, file.width, name=f"{path} has")
    except ValueError as error:
        raise _TooLargeError(str(error)) from None
    return picture_pixels(ImageOps.exif_transpose(file), name=str(path), ground=ground)
