from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.workshop import Workshop
from videoaccel.media.reader import Writer


@pytest.fixture
def make(tmp_path: Path, pipeline_folder: Path) -> Workshop:
    return Workshop(tmp_path, pipeline_folder)


@pytest.fixture
def picture(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("given") / "picture.png"
    Image.fromarray(np.tile(np.arange(40, dtype=np.uint8)[:, None, None] * 6, (1, 50, 3))).save(path)
    return str(path)


@pytest.fixture
def clip(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("given") / "clip.mp4"
    frames = np.random.default_rng(0).integers(0, 255, (20, 32, 32, 3), dtype=np.uint8)
    with Writer(path, fps=8) as writer:
        writer.write(frames)
    return str(path)
