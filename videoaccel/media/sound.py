"""Writing sound: ``.wav``, 16 bits a sample, whole or not at all.

Shape legend: C channels, N samples.
"""

from __future__ import annotations

import io
import wave
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from videoaccel.common.files import atomic_write_bytes

ENDING = ".wav"


def write_wav(path: str | Path, sound: NDArray[np.float32], *, rate: int) -> None:
    """Write a file; the same sound gives the same bytes.

    Args:
        path: Where to; ends in ``.wav``.
        sound: [C, N] in [-1, 1]; what is beyond is cut off.
        rate: Samples a second.

    Raises:
        ValueError: The ending is another, the rate is not above 0, or there is no sound.
        OSError: It cannot be written.
    """
    if Path(path).suffix.lower() != ENDING:
        raise ValueError(f"cannot write {str(path)!r}: the name of a sound must end in {ENDING}")
    if rate <= 0 or sound.ndim != 2 or sound.size == 0:
        raise ValueError(f"sound must be [C, N] at a rate above 0; got {list(sound.shape)} at {rate}")
    samples = (np.clip(sound, -1, 1) * 32767).round().astype("<i2")
    data = io.BytesIO()
    with wave.open(data, "wb") as file:
        file.setnchannels(len(samples))
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes(np.ascontiguousarray(samples.T).tobytes())
    atomic_write_bytes(path, data.getvalue())
