"""Costs on disk: a machine is timed, and operations are counted, once for a network at a size, not for every clip.

One JSON file a measurement, named by a hash of all that times depend on, which it also holds for people to read.
"""

import hashlib
import json
import platform
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch

from videoaccel import __version__
from videoaccel.common.files import atomic_write_text, told
from videoaccel.common.home import cache_folder, kept_nowhere
from videoaccel.common.plain_json import read_json
from videoaccel.common.user_warning import warn_user
from videoaccel.models.seam import Site
from videoaccel.session.costs import Costs, Kind, Unit

FORMAT = 1
Blocks = Mapping[Site, tuple[Site, ...]]


class CostsEntry(NamedTuple):
    """One file of the cache."""

    key: Mapping[str, Any] | None
    """What was timed, and where; None if the file cannot be read."""
    size: int
    """Bytes."""
    age: float
    """Seconds since it was written."""


class CostsCache:
    """Measured costs in a folder, which is made when the first are put there.

    Args:
        folder: Default ``videoaccel/costs`` in ``XDG_CACHE_HOME``, or in ``~/.cache``.
    """

    def __init__(self, folder: str | Path | None = None) -> None:
        self.folder = cache_folder("costs") if folder is None else Path(folder)

    def get(self, key: Mapping[str, Any], *, blocks: Blocks) -> Costs | None:
        """What was measured for this key; None if nothing was, or the file is damaged.

        Args:
            key: All that times depend on.
            blocks: The network's blocks, which the file does not hold.
        """
        try:
            data = read_json(self._path(key))
            if data["format"] != FORMAT or data["key"] != _plain(key):
                return None
            modules, kept = _curves(data["modules"]), _curves(data["kept"])
            unit: Unit = "flops" if data.get("unit") == "flops" else "ms"  # only times were kept at first
            return Costs(unit, modules, kept, float(data["rest"]), blocks)
        except (OSError, ValueError, KeyError, TypeError, ArithmeticError):
            return None

    def put(self, key: Mapping[str, Any], costs: Costs) -> None:
        """Keep measured costs, over what may be there.

        Raises:
            OSError: The folder cannot be written, or the disk is full.
        """
        with told(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
        data = {
            "format": FORMAT,
            "key": _plain(key),
            "unit": costs.unit,
            "modules": _listed(costs.modules),
            "kept": _listed(costs.kept),
            "rest": costs.rest,
        }
        text = json.dumps(data, indent=1)
        atomic_write_text(self._path(key), text + "\n")

    def entries(self) -> list[CostsEntry]:
        """What is kept, the newest first."""
        now, found = time.time(), []
        for path in self.folder.glob("*.json"):
            try:
                stat = path.stat()
            except FileNotFoundError:  # another process clears the cache
                continue
            try:
                key = read_json(path)["key"]
            except (OSError, ValueError, KeyError, TypeError):
                key = None
            key = key if isinstance(key, dict) else None
            found.append(CostsEntry(key, stat.st_size, max(0.0, now - stat.st_mtime)))
        return sorted(found, key=lambda entry: entry.age)

    def clear(self) -> int:
        """Remove everything; returns the number of entries.

        Raises:
            OSError: The folder cannot be written.
        """
        files = list(self.folder.glob("*.json"))
        with told(self.folder / "*"):
            for path in [*files, *self.folder.glob(".*.part")]:
                path.unlink(missing_ok=True)
        return len(files)

    def _path(self, key: Mapping[str, Any]) -> Path:
        text = json.dumps(_plain(key), sort_keys=True)
        return self.folder / f"{hashlib.sha256(text.encode()).hexdigest()[:40]}.json"


def measured(key: Mapping[str, Any], measure: Callable[[], Costs], *, blocks: Blocks) -> Costs:
    """Costs from the user's cache, or measured now and put there; that they cannot be kept is a warning."""
    cache = CostsCache()
    if (known := cache.get(key, blocks=blocks)) is not None:
        return known
    costs = measure()
    if kept_nowhere(cache.folder):
        return costs
    try:
        cache.put(key, costs)
    except OSError as error:
        warn_user(f"measured costs are not kept for next time: {error}")
    return costs


def machine(device: torch.device) -> dict[str, Any]:
    """What of this machine and its software times depend on."""
    return {
        "device": device_name(device),
        "threads": torch.get_num_threads() if device.type == "cpu" else None,
        "torch": torch.__version__,
        "videoaccel": __version__,
    }


def device_name(device: torch.device) -> str:
    """What a device is: the GPU's name, or the processor's."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    except OSError:
        names = []
    return names[0] if names else platform.processor() or platform.machine()


def _plain(key: Mapping[str, Any]) -> Any:
    """As it comes back from a file."""
    return json.loads(json.dumps(dict(key), sort_keys=True, default=str))


def _listed(curves: Mapping[Kind, Mapping[float, float]]) -> list[Any]:
    return [[list(kind), sorted(points.items())] for kind, points in curves.items()]


def _curves(listed: list[Any]) -> dict[Kind, dict[float, float]]:
    return {
        (str(axis), str(kind)): {float(share): float(cost) for share, cost in points} for (axis, kind), points in listed
    }
