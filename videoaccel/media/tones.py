"""Films of wide colours and high dynamic range in sRGB: a few formulas of the standards, the same with every FFmpeg.

HLG and PQ become light (BT.2100), of which 203 candelas are the white of paper (BT.2408), and the 1000 that films are
made for become the white of a page along the curve of BT.2390: what is dark stays as it is, highlights are pressed
together, and all three channels of a place by one factor, so that no hue turns. Films of wide primaries without HDR
keep their greys to the bit.

Shape legend: H height, W width in pixels.
"""

from __future__ import annotations

from functools import cache
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from videoaccel.media.encoders import Frames

Values = NDArray[np.float32]

PAPER, PEAK = 203.0, 1000.0
"""Candelas per square metre of white paper, and of the brightest light that is told apart."""

_UNTOLD = 2  # FFmpeg's numbers, here and below
_TRANSFERS = MappingProxyType({16: "PQ", 18: "HLG"})
_PRIMARIES = MappingProxyType({9: "BT.2020", 11: "Display P3", 12: "Display P3"})
_MATRICES = MappingProxyType({9: "BT.2020", 10: "BT.2020"})
_CORNERS = MappingProxyType(
    {
        "BT.709": ((0.640, 0.330), (0.300, 0.600), (0.150, 0.060)),
        "BT.2020": ((0.708, 0.292), (0.170, 0.797), (0.131, 0.046)),
        "Display P3": ((0.680, 0.320), (0.265, 0.690), (0.150, 0.060)),
    }
)
_D65 = (0.3127, 0.3290)


class Tone(NamedTuple):
    """What a film's numbers mean: ``PQ``, ``HLG`` or None for sRGB's, its primaries, and whether it said the former."""

    transfer: str | None
    primaries: str
    told: bool

    @property
    def warning(self) -> str | None:
        """What a user should know of it; None for nothing."""
        if self.transfer:
            return f"is HDR: its {self.transfer} is made sRGB, with highlights pressed together as BT.2390 says"
        if not self.told:
            return (
                f"has the colours of {self.primaries} and does not say whether it is HDR; it is read as if not, and "
                f"looks flat if it is: `ffmpeg -i FILE -c copy -color_trc arib-std-b67 NEW` says HLG, smpte2084 PQ"
            )
        return None


def tone_of(frame: Any) -> Tone | None:
    """What to make of a decoded frame (``av.VideoFrame``); None where its numbers are sRGB's already."""
    trc, primaries, matrix = int(frame.color_trc), int(frame.color_primaries), int(frame.colorspace)
    wide = _PRIMARIES.get(primaries)
    if primaries == _UNTOLD:
        wide = _MATRICES.get(matrix)
    if transfer := _TRANSFERS.get(trc):
        # HDR is made with the primaries of BT.2020 unless it says otherwise.
        return Tone(transfer, wide or ("BT.709" if primaries != _UNTOLD else "BT.2020"), told=True)
    return Tone(None, wide, told=trc != _UNTOLD) if wide else None


def in_srgb(values: NDArray[np.uint16], tone: Tone) -> Frames:
    """Pixels of 16 bits [H, W, 3] in sRGB's 8.

    Args:
        values: The film's own red, green and blue, by its matrix.
        tone: What they mean.
    """
    light = _light(values, tone.transfer) @ _to_bt709(tone.primaries).T
    np.maximum(light, 0, out=light)
    if tone.transfer:
        most = light.max(axis=-1, keepdims=True)
        light *= np.interp(most, *_curve()).astype(np.float32)
    return _encoded()[(np.minimum(light, 1) * 65535 + 0.5).astype(np.uint16)]


def pq_light(signal: Any) -> Any:
    """Candelas per square metre of PQ's numbers in [0, 1] (BT.2100, table 4).

    >>> round(float(pq_light(0.58069)), 1)
    203.0
    """
    root = np.power(signal, 32 / 2523)
    return 10000 * np.power(np.maximum(root - 0.8359375, 0) / (18.8515625 - 18.6875 * root), 16384 / 2610)


def pq_signal(light: Any) -> Any:
    """PQ's numbers of candelas per square metre.

    >>> round(float(pq_signal(1000.0)), 4)
    0.7518
    """
    root = np.power(np.asarray(light) / 10000, 2610 / 16384)
    return np.power((0.8359375 + 18.8515625 * root) / (1 + 18.6875 * root), 2523 / 32)


def hlg_scene(signal: Any) -> Any:
    """The scene's light in [0, 1] of HLG's numbers (BT.2100, table 5).

    >>> hlg_scene(np.array([0.5, 1.0])).round(4).tolist()
    [0.0833, 1.0]
    """
    a, b, c = 0.17883277, 0.28466892, 0.55991073
    return np.where(signal <= 0.5, np.square(signal) / 3, (np.exp((signal - c) / a) + b) / 12)


def pressed(light: Any) -> Any:
    """Candelas up to `PEAK` as candelas up to `PAPER` (BT.2390-11, 5.4.1, without a change of black)."""
    peak, limit = pq_signal(PEAK), pq_signal(PAPER) / pq_signal(PEAK)
    knee = 1.5 * limit - 0.5
    level = np.minimum(pq_signal(light) / peak, 1)
    t = (level - knee) / (1 - knee)
    spline = (2 * t**3 - 3 * t**2 + 1) * knee + (t**3 - 2 * t**2 + t) * (1 - knee) + (-2 * t**3 + 3 * t**2) * limit
    return pq_light(np.where(level < knee, level, spline) * peak)


def _light(values: NDArray[np.uint16], transfer: str | None) -> Values:
    """Linear light, 1 for white paper."""
    if transfer == "PQ":
        return _table("PQ")[values]
    if transfer is None:
        return _table("sRGB")[values]
    scene = _table("HLG")[values]
    luminance = scene @ np.array([0.2627, 0.6780, 0.0593], np.float32)
    # BT.2100's rendering for a display of 1000 candelas, gamma 1.2.
    shown: Values = scene * np.power(luminance, np.float32(0.2))[..., None] * np.float32(PEAK / PAPER)
    return shown


@cache
def _table(kind: str) -> Values:
    signal = np.arange(65536) / 65535
    if kind == "sRGB":
        light = np.where(signal <= 0.04045, signal / 12.92, ((signal + 0.055) / 1.055) ** 2.4)
    else:
        light = pq_light(signal) / PAPER if kind == "PQ" else hlg_scene(signal)
    return light.astype(np.float32)


@cache
def _encoded() -> Frames:
    """Linear light in 16 bits as sRGB's 8."""
    light = np.arange(65536) / 65535
    signal = np.where(light <= 0.0031308, light * 12.92, 1.055 * light ** (1 / 2.4) - 0.055)
    return (signal * 255 + 0.5).astype(np.uint8)


@cache
def _curve() -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """By what factor the largest channel of a place is pressed, for light relative to paper; beyond the last, to 1."""
    light = np.geomspace(1e-4, 10000 / PAPER, 4096)
    return light, pressed(light * PAPER) / PAPER / light


@cache
def _to_bt709(primaries: str) -> Values:
    def corners(name: str) -> NDArray[np.float64]:
        rows = np.array([[x / y, 1, (1 - x - y) / y] for x, y in _CORNERS[name]]).T
        x, y = _D65
        scaled: NDArray[np.float64] = rows * np.linalg.solve(rows, [x / y, 1, (1 - x - y) / y])
        return scaled

    return np.linalg.solve(corners("BT.709"), corners(primaries)).astype(np.float32)
