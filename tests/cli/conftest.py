from pathlib import Path

import pytest

from tests.cli.commands import Cli, Result, in_folder


@pytest.fixture
def cli(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Cli:
    return in_folder(tmp_path, monkeypatch, capfd)


@pytest.fixture
def generate(cli: Cli, pipeline_folder: Path) -> Cli:
    """Runs ``videoaccel generate`` with the tiny model."""

    def call(*arguments: object, stdin: str = "") -> Result:
        return cli("generate", "--model", pipeline_folder, *arguments, stdin=stdin)

    return call
