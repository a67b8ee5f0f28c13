"""Pictures and clips from files, fitted to a size, and back to 8 bits. Writing is in `videoaccel.media.writer`.

Shape legend: T frames, H height, W width in pixels. On disk and in between, a clip is ``Frames``: uint8 [T, H, W, 3],
RGB. For the networks it is a float32 tensor [3, T, H, W] in [-1, 1].

Source of the rules of `fit` and `to_uint8`: Open-Sora v1.2, `datasets/utils.py` and `datasets/video_transforms.py`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import av
import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageOps
from torch import Tensor

from videoaccel.media.encoders import Frames

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff")
"""Names that end so are pictures; .gif is a clip."""

FOLDER_FPS = 24.0
"""What a folder of frames, which cannot say, is taken to run at: the release's rate."""

_MATROSKA = bytes.fromhex("1a45dfa3")
_SEGMENT = bytes.fromhex("18538067")


def is_image(path: str | Path) -> bool:
    """Whether a name is a picture's, by its ending alone.

    >>> is_image("cat.JPG"), is_image("cat.gif"), is_image("frames/")
    (True, False, False)
    """
    return Path(path).suffix.lower() in IMAGE_SUFFIXES


def read_image(path: str | Path) -> Frames:
    """Read a picture, the right way up, as a clip of one frame [1, H, W, 3]. Transparency is dropped.

    Raises:
        FileNotFoundError: There is no such file.
        PermissionError: This user may not read it.
        ValueError: It is not a picture, or not a whole one.
    """
    path = _existing_file(path)
    try:
        with Image.open(path) as file:
            upright = ImageOps.exif_transpose(file)
            if upright.mode.startswith("I"):  # 16 bits: Pillow would cut at 255 instead of scaling
                upright = Image.fromarray((np.asarray(upright) // 257).astype(np.uint8))
            return np.array(upright.convert("RGB"))[None]
    except Image.DecompressionBombError as error:
        raise ValueError(f"{path} is too large a picture: {error}") from error
    except Exception as error:  # Pillow raises many kinds, by file format
        raise ValueError(f"{path} is not a readable picture (damaged or cut short?): {_line(error)}") from error


def read_video(path: str | Path, *, max_frames: int | None = None) -> tuple[Frames, float]:
    """Read a clip, or a folder of frames in the order of the numbers in their names.

    Args:
        path: A file that FFmpeg reads, or a folder of pictures of one size.
        max_frames: Stop after this many, so that a long film costs no more memory than its beginning.

    Returns:
        The frames [T, H, W, 3], the right way up, and frames per second.

    Raises:
        FileNotFoundError: There is no such file or folder.
        PermissionError: This user may not read it.
        ValueError: It holds no video, is damaged or cut short, the pictures differ in size, or max_frames is below 1.
    """
    if max_frames is not None and max_frames < 1:
        raise ValueError(f"max_frames must be at least 1; got {max_frames}")
    if Path(path).is_dir():
        return _read_folder(Path(path), max_frames), FOLDER_FPS
    path = _existing_file(path)
    _check_whole(path)
    try:
        # With the protocol spelled out FFmpeg takes no name for a URL.
        with av.open(f"file:{path}") as container:
            if not container.streams.video:
                raise ValueError("it has no picture, only sound")
            stream = container.streams.video[0]
            frames = []
            for frame in _decode(container, stream):
                frames.append(frame)
                if len(frames) == max_frames:
                    break
            if not frames:
                raise ValueError("it has no frames")
            return np.stack(frames), _rate(stream)
    except (av.FFmpegError, ValueError) as error:
        raise ValueError(f"{path} is not a readable video (damaged or cut short?): {_line(error)}") from error


def fit(frames: Frames, height: int, width: int, *, still: bool) -> Tensor:
    """Resize frames until they cover a size, cut the middle out, and scale to the networks' range.

    Args:
        frames: uint8 [T, h, w, 3].
        height: H in pixels.
        width: W in pixels.
        still: Pictures are resized by Pillow (bicubic, with antialias, in 8 bits) and clips by torch (bilinear,
            without); the two also round the middle differently. The networks were trained on both as they are.

    Returns:
        float32 [3, T, H, W] in [-1, 1].

    Raises:
        ValueError: The frames are not uint8 [T, h, w, 3], or the size is not positive.
    """
    if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[3] != 3 or 0 in frames.shape:
        raise ValueError(f"frames must be uint8 [T, H, W, 3] and not empty; got {frames.dtype} {list(frames.shape)}")
    if height < 1 or width < 1:
        raise ValueError(f"height and width must be at least 1; got {height}x{width}")
    size, (top, left) = _cover(frames.shape[1], frames.shape[2], height, width, still)
    resize = _resize_still if still else _resize_moving
    # Frame by frame: a clip is never in memory as floats at its old size.
    fitted = [resize(frame, size)[:, top : top + height, left : left + width] for frame in frames]
    return torch.stack(fitted, dim=1).sub_(0.5).div_(0.5)


def to_uint8(x: Tensor) -> Frames:
    """Turn a clip in [-1, 1] into bytes: clip, scale to 0..255, add a half, truncate.

    Args:
        x: [3, T, H, W], or a batch [..., 3, T, H, W], of any floating type, on any device.

    Returns:
        Frames uint8 [T, H, W, 3], or [..., T, H, W, 3].

    Raises:
        ValueError: It has another shape, or some values are not numbers.

    >>> to_uint8(torch.tensor([-2.0, 0.0, 1.0]).view(3, 1, 1, 1)).ravel().tolist()
    [0, 128, 255]
    """
    if x.dim() < 4 or x.shape[-4] != 3:
        raise ValueError(f"a clip must be [3, T, H, W] or [..., 3, T, H, W]; got {list(x.shape)}")
    if bad := int(torch.isnan(x).sum()):
        raise ValueError(f"{bad} of the clip's {x.numel()} values are NaN; there is nothing sensible to write")
    # In float32 whatever x is: bfloat16 has no 256 steps between 0 and 255.
    scaled = x.float().clamp(-1, 1).add_(1).div_(2).mul_(255).add_(0.5).to(torch.uint8)
    frames: Frames = scaled.movedim(-4, -1).contiguous().cpu().numpy()
    return frames


def _existing_file(path: str | Path) -> Path:
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


def _line(error: BaseException) -> str:
    text = error.strerror if isinstance(error, av.FFmpegError) else str(error)
    return (str(text).strip().splitlines() or [type(error).__name__])[0]


def _decode(container: Any, stream: Any) -> Iterator[Frames]:
    for packet in container.demux(stream):
        if packet.is_corrupt:
            raise ValueError("the file ends in the middle of a frame")
        for frame in packet.decode():
            turns = round(getattr(frame, "rotation", 0) / 90)  # telephones film lying on their side
            yield np.ascontiguousarray(np.rot90(frame.to_ndarray(format="rgb24"), turns))


def _rate(stream: Any) -> float:
    # FFmpeg's average for a gif is a guess from its first delays, whole hundredths of a second.
    if stream.codec_context.name == "gif" and stream.frames and stream.duration:
        return float(stream.frames / (stream.duration * stream.time_base))
    return float(stream.average_rate or FOLDER_FPS)


def _check_whole(path: Path) -> None:
    """Find files that were cut short in the two kinds of which FFmpeg reads what is there without a word.

    Raises:
        ValueError: The file is shorter than it says itself.
    """
    with path.open("rb") as file:
        head = file.read(4096)
        file.seek(-1, 2)
        last = file.read(1)
    short = head[:4] == b"GIF8" and last not in b";\0"  # some programs pad with zeros
    if head[:4] == _MATROSKA:
        before, _, segment = head.partition(_SEGMENT)
        # The length of the one big element: the leading zeros of its first byte say how many bytes it takes.
        count = 9 - (segment[:1] or b"\1")[0].bit_length()
        length = int.from_bytes(segment[:count], "big") & ((1 << 7 * count) - 1)
        known = length != (1 << 7 * count) - 1  # all ones in a live recording
        short = known and path.stat().st_size < len(before) + len(_SEGMENT) + count + length
    if short:
        raise ValueError(f"{path} is not a whole video: the file was cut short")


def _read_folder(folder: Path, max_frames: int | None) -> Frames:
    names = [path for path in folder.iterdir() if is_image(path) and not path.name.startswith(".")]
    if not names:
        raise ValueError(f"the folder {folder} has no pictures; they end in {', '.join(IMAGE_SUFFIXES)}")
    names.sort(key=lambda path: [(text, int(part or 0)) for text, part in re.findall(r"(\D*)(\d*)", path.name)])
    frames: list[Frames] = []
    for path in names[:max_frames]:
        frame = read_image(path)
        if frames and frame.shape != frames[0].shape:
            (height, width), (first_height, first_width) = frame.shape[1:3], frames[0].shape[1:3]
            raise ValueError(f"{path} is {height}x{width}, the frames before it {first_height}x{first_width}")
        frames.append(frame)
    return np.concatenate(frames)


def _cover(h: int, w: int, height: int, width: int, still: bool) -> tuple[tuple[int, int], tuple[int, int]]:
    """The size to resize h x w to, and the top left corner of the middle there."""
    by_height, by_width = height / h, width / w
    size = (height, round(w * by_height)) if by_height > by_width else (round(h * by_width), width)
    extra = size[0] - height, size[1] - width
    # Python rounds halves to even, so 3 pixels too many start at 2 in a picture and at 1 in a clip.
    top, left = (round(pixels / 2) if still else pixels // 2 for pixels in extra)
    return size, (top, left)


def _resize_still(frame: Frames, size: tuple[int, int]) -> Tensor:
    image = Image.fromarray(frame).resize(size[::-1], Image.Resampling.BICUBIC)
    return torch.from_numpy(np.array(image)).permute(2, 0, 1).float().div_(255)


def _resize_moving(frame: Frames, size: tuple[int, int]) -> Tensor:
    pixels = torch.from_numpy(frame.copy()).permute(2, 0, 1).float().div_(255)
    return F.interpolate(pixels[None], size=size, mode="bilinear", align_corners=False, antialias=False)[0]
