"""The gallery: one static page with all finished clips, opened from disk, without a network."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from importlib.resources import files
from typing import Any
from urllib.parse import quote

from videoaccel.common.borders import fill, for_page, for_script
from videoaccel.rendering.folder import GALLERY, RenderFolder, clip_files
from videoaccel.rendering.plan import POSTER
from videoaccel.rendering.said import mapping, number, text, whole
from videoaccel.rendering.twin_psnr import measured
from videoaccel.rendering.twins import is_exact, method_told, twin_key

_EVERY = 5.0  # seconds between two writings, at least
_SHARE = 200  # times as long as a writing takes, at least: half a percent of the time goes into it

SHOWN = ("size", "frames", "fps", "steps", "guidance", "accel", "speedup", "model", "dtype")
"""Settings that the page shows."""


@dataclass
class Gallery:
    """Keeps the page up to date as clips appear; whoever wrote last has them all.

    Attributes:
        folder: Of the render.
    """

    folder: RenderFolder
    _entries: dict[str, Mapping[str, Any]] = field(default_factory=dict)
    _next: float = 0.0

    def update(self, *, now: bool = False) -> None:
        """Write the page anew if it is time, or ``now``.

        Raises:
            OSError: The disk is full.
        """
        began = time.monotonic()
        if not now and began < self._next:
            return
        for identity, path in self.folder.finished().items():
            if identity not in self._entries and (entry := read_entry(self.folder, path.name)) is not None:
                self._entries[identity] = entry
        psnr = measured(self.folder)
        entries = [{**one, "psnr": told_psnr(psnr.get(one["place"]))} for one in self._entries.values()]
        shown = page(self.folder.root.absolute().name, entries)
        with suppress(FileNotFoundError):
            self.folder.top.write(GALLERY, shown.encode(errors="replace"))
        took = time.monotonic() - began
        self._next = time.monotonic() + max(_EVERY, _SHARE * took)


def read_entry(folder: RenderFolder, place: str) -> dict[str, Any] | None:
    """What the page shows of a clip; None if its sidecar cannot be read.

    Args:
        folder: Of the render.
        place: Name of the clip's folder.
    """
    name, _, identity = place.rpartition("-")
    record = folder.record(place)
    out, job = mapping(record.get("output")), mapping(record.get("job"))
    kind = next((file for file in clip_files(name) if out.get("file") in (file, f"{file}/")), None)
    if kind is None:
        return None
    base = f"clips/{quote(place)}"
    frames = kind == name
    return {
        "id": identity,
        "place": place,
        "name": name,
        "prompt": text(record.get("prompt"), most=20_000) or "",
        "seed": whole(record.get("seed")),
        "file": f"{base}/{quote(kind)}{'/' * frames}",
        "kind": "frames" if frames else kind.rpartition(".")[2],
        "poster": f"{base}/{POSTER}",
        "sidecar": f"{base}/{quote(name)}.json",
        "width": whole(out.get("width")) or 0,
        "height": whole(out.get("height")) or 0,
        "created": text(record.get("created")) or "",
        "seconds": round(sum(number(took) or 0.0 for took in mapping(record.get("seconds")).values()), 1),
        "memory": _memory(mapping(job.get("memory")).get("steps")),
        "method": method_told(record),
        "exact": is_exact(record),
        "twins": twin_key(record) or "",
        "settings": {key: shown for key in SHOWN if (shown := _shown(record.get("settings"), key)) is not None},
    }


def told_psnr(psnr: float | None) -> str:
    """What a card says of a clip against its exact twin.

    >>> told_psnr(41.234), told_psnr(float("inf")), told_psnr(None)
    ('41.2 dB to exact', 'equal to exact', '')
    """
    if psnr is None:
        return ""
    return "equal to exact" if psnr == math.inf else f"{psnr:.1f} dB to exact"


def _memory(steps: object) -> list[str]:
    return [said for step in steps if (said := text(step))] if isinstance(steps, list) else []


def _shown(settings: object, key: str) -> str | float | None:
    value = mapping(settings).get(key)
    return (text(value) or None) if isinstance(value, str) else number(value)


def page(title: str, entries: Sequence[Mapping[str, Any]]) -> str:
    """The page's text."""
    template = (files("videoaccel") / "assets" / "pages" / "gallery.html").read_text(encoding="utf-8")
    return fill(template, {"TITLE": for_page(title), "DATA": for_script(entries)})
