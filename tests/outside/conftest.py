from pathlib import Path

import pytest

from tests.cli.commands import Cli, in_folder
from tests.outside import folders
from videoaccel.settings import pipeline_folder


@pytest.fixture(autouse=True)
def dit_is_somebody_elses(monkeypatch: pytest.MonkeyPatch) -> None:
    """DiT needs no text encoder: it stands for pipelines that are not ours, though we run its network ourselves."""
    ours = {kind: name for kind, name in pipeline_folder.releases().items() if kind != "DiTPipeline"}
    monkeypatch.setattr(pipeline_folder, "releases", lambda: ours)


@pytest.fixture(scope="session")
def dit_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return folders.save_dit(tmp_path_factory.mktemp("dit"))


@pytest.fixture(scope="session")
def wan_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return folders.save_wan(tmp_path_factory.mktemp("wan"))


@pytest.fixture(scope="session")
def blocks_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return folders.save_wan_of_blocks(tmp_path_factory.mktemp("blocks"))


@pytest.fixture(scope="session")
def sound_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return folders.save_stable_audio(tmp_path_factory.mktemp("sound"))


@pytest.fixture
def cli(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Cli:
    return in_folder(tmp_path, monkeypatch, capfd)
