"""All clips of a comparison as files, so that other measures can be made of them later: VBench, LPIPS, an eye.

``clips/METHOD-SETTING/PROMPT-SEED.mp4``, the names that VBench's scripts look for; one frame is a ``.png``, sound a
``.wav``. Every setting's folder has the names of ``clips/exact``.

Shape legend: T frames, H, W pixels; C channels and N samples of sound.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from videoaccel.common.files import told
from videoaccel.common.names import distinct_name, safe_name
from videoaccel.comparison.clip import Content
from videoaccel.comparison.log import CLIPS
from videoaccel.media.sound import ENDING, write_wav
from videoaccel.media.writer import Writer

ENDINGS = (".mp4", ".png", ENDING)
_LONGEST = 240  # bytes of a name, before a number and an ending
_ODD = frozenset('/\\:*?"<>|')  # not in a file's name, here or on Windows


class KeptClips:
    """Writes what a comparison makes, and finds what is missing.

    Args:
        folder: Of the comparison.
        fps: Frames a second.
        rate: Samples of sound a second; None where nothing says that.
    """

    def __init__(self, folder: Path, *, fps: float, rate: int | None) -> None:
        self.folder, self.fps, self.rate = folder / CLIPS, fps, rate

    def wants(self, row: Mapping[str, Any]) -> bool:
        """Whether a clip that was measured before is not kept yet."""
        stem = self.stem(row)
        return "error" not in row and not any(stem.with_name(f"{stem.name}{end}").exists() for end in ENDINGS)

    def __call__(self, row: Mapping[str, Any], content: Content, reference: Content) -> None:
        """Write a clip.

        Args:
            row: As in the log.
            content: Frames uint8 [T, H, W, 3], or sound float32 [C, N].
            reference: Not used.

        Raises:
            ValueError: It is sound, and nothing says how many samples a second has.
            OSError: It cannot be written.
        """
        stem = self.stem(row)
        with told(self.folder):
            stem.parent.mkdir(parents=True, exist_ok=True)
        if content.ndim != 4:
            if self.rate is None:
                raise ValueError("the sound cannot be kept: nothing says how many samples a second has")
            write_wav(stem.with_name(f"{stem.name}{ENDING}"), content, rate=self.rate)
            return
        with Writer(stem.with_name(f"{stem.name}{'.png' if len(content) == 1 else '.mp4'}"), fps=self.fps) as writer:
            writer.write(content)

    def stem(self, row: Mapping[str, Any]) -> Path:
        """Of a clip's file, without its ending; a clip made with another prior lies elsewhere."""
        setting = distinct_name(f"{row['method']} {row['setting']}".strip())
        return self.folder / "-".join(filter(None, (setting, row["prior"]))) / f"{_named(row['prompt'])}-{row['seed']}"


def _named(prompt: str) -> str:
    """A prompt as it is where a file can be called so, or what comes near, with a hash."""
    fits = prompt.isprintable() and not _ODD & set(prompt) and not prompt.startswith((".", " "))
    if fits and len(prompt.encode()) <= _LONGEST:
        return prompt or "clip"
    return f"{safe_name(prompt)}-{hashlib.sha256(prompt.encode()).hexdigest()[:8]}"
