from pathlib import Path

import pytest

from tests.rendering.studio import Studio


@pytest.fixture
def studio(tmp_path: Path, pipeline_folder: Path) -> Studio:
    return Studio(tmp_path, pipeline_folder)
