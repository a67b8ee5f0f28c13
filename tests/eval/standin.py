"""Files of networks with stand-in weights, as the golden folder describes them, and the clips of the golden values."""

import functools
import hashlib
import importlib.util
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from tests import golden_values
from videoaccel.media.reader import read_video


def metrics(*path: str) -> Any:
    """A part of ``metrics.json``; skips the test where the file does not hold it."""
    found = _metrics()
    for key in path:
        if key not in found:
            pytest.skip(f"the golden values hold no {'/'.join(path)}")
        found = found[key]
    return found


def arrays(name: str) -> dict[str, np.ndarray]:
    """The arrays of ``NAME.npz``."""
    path = golden_values.folder() / f"{name}.npz"
    if not path.is_file():
        pytest.skip(f"there is no {path}")
    with np.load(path) as file:
        return {key: file[key] for key in file.files}


def tensors(name: str) -> dict[str, Tensor]:
    """The stand-in weights of a network, by the manifest ``standin/NAME.json``."""
    maker, manifest = _maker(), _manifest(name)
    return {key: torch.from_numpy(np.asarray(value)) for key, value in maker.standin_state_dict(manifest).items()}


def save(name: str, path: Path, *, half: bool = False) -> Path:
    """Write a network's stand-in weights as the official checkpoint has them."""
    weights = tensors(name)
    if half:
        weights = {key: value.half() if value.ndim else value for key, value in weights.items()}  # not temperatures
    wrap = _manifest(name)["wrap"]
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save({wrap: weights} if wrap else weights, path)
    return path


def clip(name: str) -> tuple[Tensor, float]:
    """Frames and rate of one of the clips; skips where they are not, fails where the decoder sees other pixels."""
    frames, fps = read_video(clips() / name)
    digest = hashlib.sha256(np.ascontiguousarray(frames).tobytes()).hexdigest()
    assert digest == metrics("videos", name, "rgb_uint8_sha256_TxHxWx3"), "the decoder gives other pixels"
    return torch.from_numpy(frames), fps


def clips() -> Path:
    """The folder of the golden clips."""
    if not (folder := os.environ.get("VIDEOACCEL_CLIPS")):
        pytest.skip("VIDEOACCEL_CLIPS does not say where the clips of the golden values are")
    return Path(folder)


@functools.lru_cache(maxsize=1)
def _metrics() -> Any:
    try:
        return golden_values.load_json("metrics")
    except FileNotFoundError as error:
        pytest.skip(str(error))


def _manifest(name: str) -> Any:
    return json.loads((golden_values.folder() / "standin" / f"{name}.json").read_text(encoding="utf-8"))


def _maker() -> Any:
    spec = importlib.util.spec_from_file_location("standin_weights", golden_values.folder() / "standin_weights.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
