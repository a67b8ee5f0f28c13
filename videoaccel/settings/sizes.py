"""Named sizes and durations of Open-Sora v1.2: "480p" at "9:16" is 480x854 pixels, "4s" is 102 frames.

**Height comes first, everywhere**: sizes are HEIGHTxWIDTH and aspects HEIGHT:WIDTH, so "9:16" is a landscape picture.
Sizes need not be multiples of 8 or 16. Any HEIGHTxWIDTH and any number of frames may be given as they are; a name that
the release's tables do not have is an error that lists what there is.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from types import MappingProxyType


def _label(height: int, width: int) -> str:
    # The release keeps 25:12 under the name 50:27: its 277x132 is nowhere near 1.85.
    return "2.08" if (height, width) == (50, 27) else f"{height / width:.2f}"


# fmt: off
_RATIOS = (
    (3, 8), (9, 21), (12, 25), (1, 2), (9, 17), (27, 50), (9, 16), (5, 8), (2, 3),
    (3, 4), (1, 1), (4, 3), (3, 2), (16, 9), (17, 9), (2, 1), (50, 27),
)
# fmt: on
ASPECTS: Mapping[str, str] = MappingProxyType({f"{h}:{w}": _label(h, w) for h, w in _RATIOS})
"""Aspect name (HEIGHT:WIDTH) -> height divided by width, two decimals, as the release keys its tables."""

# No rule gives these: the area of 9:16 at each aspect, rounded now up, now down, now to even. In the order of ASPECTS.
_TABLES: Mapping[str, str] = MappingProxyType(
    {
        "144p": "117x312 125x291 133x277 135x270 139x262 141x260 144x256 151x241 156x234 "
        "166x221 192x192 221x165 235x156 256x144 263x139 271x135 277x132",
        "240p": "196x522 210x490 222x462 226x452 232x438 236x436 240x426 252x404 262x393 "
        "276x368 320x320 370x278 392x262 426x240 440x232 452x226 462x222",
        "360p": "294x784 314x732 332x692 340x680 350x662 352x652 360x640 380x608 392x588 "
        "416x554 480x480 554x416 588x392 640x360 660x350 678x340 692x332",
        "480p": "392x1046 420x980 444x925 452x904 466x880 470x870 480x854 506x810 522x784 "
        "554x738 640x640 740x555 784x522 854x480 880x466 906x454 924x444",
        "720p": "588x1568 628x1466 666x1388 678x1356 698x1318 706x1306 720x1280 758x1212 784x1176 "
        "832x1110 960x960 1108x832 1176x784 1280x720 1320x698 1358x680 1386x666",
        "1080p": "882x2352 942x2198 998x2080 1018x2036 1048x1980 1058x1958 1080x1920 1138x1820 1176x1764 "
        "1248x1664 1440x1440 1662x1246 1764x1176 1920x1080 1980x1048 2036x1018 2078x998",
        "2k": "1176x3136 1256x2930 1330x2770 1358x2716 1398x2640 1412x2612 1440x2560 1518x2428 1568x2352 "
        "1662x2216 1920x1920 2218x1664 2352x1568 2560x1440 2638x1396 2716x1358 2772x1330",
        "4k": "1764x4704 1886x4400 1996x4158 2036x4072 2096x3960 2118x3918 2160x3840 2276x3642 2352x3528 "
        "2494x3326 2880x2880 3326x2494 3528x2352 3840x2160 3958x2096 4072x2036 4156x1994",
    }
)

# Named after the side of a square. The release finds one aspect in each of the first four, and none in 2880.
_SQUARES = ("256", "512", "1024", "2048", "2880")
_SQUARE_ASPECT = "12:25"  # 11/16 by 23/16 of the side

RESOLUTIONS = ("144p", "256", "240p", "360p", "512", "480p", "720p", "1024", "1080p", "2k", "2048", "2880", "4k")
"""Resolution names, smallest first as the release lists them."""

DEFAULT_RESOLUTION, DEFAULT_ASPECT = "240p", "9:16"

_FRAMES_PER_UNIT = 51  # 3 VAE chunks of 17 frames: "1x", and 2 s (2.125 s to be exact) at 24 frames per second
DURATIONS: Mapping[str, int] = MappingProxyType(
    {f"{2**k}x": _FRAMES_PER_UNIT * 2**k for k in range(5)}
    | {f"{2**k}s": _FRAMES_PER_UNIT * 2**k // 2 for k in range(1, 6)}
)
"""Duration name -> pixel frames; seconds are at 24 frames per second, whatever a clip's own rate."""


def image_sizes(resolution: str) -> dict[str, tuple[int, int]]:
    """The sizes of a named resolution: aspect -> (height, width) in pixels.

    Raises:
        ValueError: If there is no such resolution.

    >>> image_sizes("512")
    {'12:25': (352, 736)}
    """
    if resolution in _TABLES:
        return dict(zip(ASPECTS, map(_numbers, _TABLES[resolution].split()), strict=True))
    if resolution not in _SQUARES:
        raise ValueError(f"no resolution {resolution!r}; there are {', '.join(RESOLUTIONS)}")
    side = int(resolution)
    return {} if resolution == "2880" else {_SQUARE_ASPECT: (side * 11 // 16, side * 23 // 16)}


def pixels(resolution: str) -> int:
    """The nominal area of a named resolution in pixels: its 9:16 size, or the square it is named after.

    Raises:
        ValueError: If there is no such resolution.
    """
    height, width = image_sizes(resolution).get(DEFAULT_ASPECT) or (int(resolution), int(resolution))
    return height * width


def resolve_size(
    size: str | None = None, *, resolution: str | None = None, aspect: str | None = None
) -> tuple[int, int]:
    """Find out the picture size that was asked for.

    Args:
        size: ``"HEIGHTxWIDTH"`` in pixels, such as "240x426". Excludes the other two.
        resolution: A name from `RESOLUTIONS`; "240p" when not given.
        aspect: A name from `ASPECTS`, HEIGHT:WIDTH; "9:16" (landscape) when not given.

    Returns:
        (height, width) in pixels.

    Raises:
        ValueError: If the size is not two positive whole numbers, a name is not known or not available, or both a size
            and a name are given.

    >>> resolve_size("240x426"), resolve_size(resolution="480p", aspect="16:9")
    ((240, 426), (854, 480))
    """
    if size is not None:
        if resolution is not None or aspect is not None:
            raise ValueError(f"give size {size!r} or a resolution and aspect, not both; got {resolution!r}, {aspect!r}")
        return _numbers(size)
    resolution, aspect = resolution or DEFAULT_RESOLUTION, aspect or DEFAULT_ASPECT
    available = image_sizes(resolution)
    if aspect not in available:
        known = ", ".join(available) or "none"
        raise ValueError(f"{resolution} has no aspect {aspect!r} (HEIGHT:WIDTH); available: {known}. Or give a size.")
    return available[aspect]


def check_sides(height: int, width: int, *, least: int) -> None:
    """Refuse a picture of less than a latent place.

    Raises:
        ValueError: Says how many pixels it takes.
    """
    for name, pixels in (("height", height), ("width", width)):
        if pixels < least:
            raise ValueError(f"{name} must be at least {least} pixels, got {pixels}")


def resolve_frames(frames: int | str) -> int:
    """Find out the number of pixel frames that was asked for: 51, "51", or a name from `DURATIONS` such as "2s".

    Raises:
        ValueError: If it is not a positive whole number and not a known name.

    >>> resolve_frames("4s"), resolve_frames("51"), resolve_frames(17)
    (102, 51, 17)
    """
    if frames in DURATIONS:
        return DURATIONS[str(frames)]
    whole = re.fullmatch("[0-9]{1,18}", str(frames).strip())
    if not whole or int(whole[0]) < 1:
        raise ValueError(
            f"frames must be a positive whole number, or a name that means so many frames whatever the fps: "
            f"{_duration_names()}; got {repr(frames)[:40]}"
        )
    return int(whole[0])


def _duration_names() -> str:
    """All names with what they mean: ``1x or 2s (51), 2x or 4s (102), ...``."""
    names = {frames: [name for name in DURATIONS if DURATIONS[name] == frames] for frames in DURATIONS.values()}
    return ", ".join(f"{' or '.join(same)} ({frames})" for frames, same in names.items())


def _numbers(size: str) -> tuple[int, int]:
    """``"240x426"`` as (240, 426)."""
    found = re.fullmatch(r"\s*0*([1-9][0-9]{0,4})\s*x\s*0*([1-9][0-9]{0,4})\s*", size)
    if not found:
        raise ValueError(f"a size is HEIGHTxWIDTH in pixels, both from 1 to 99999, such as 240x426; got {size[:40]!r}")
    return int(found[1]), int(found[2])
