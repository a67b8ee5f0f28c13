import sys
import warnings
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError
from pathlib import Path
from typing import Any

import pytest

import videoaccel
from videoaccel.cli.app import run
from videoaccel.common import versions

if sys.version_info >= (3, 11):
    import tomllib
else:
    tomllib = pytest.importorskip("tomli")

RIGHT = {package: newest for package, (_, newest) in versions.TESTED.items()}


@pytest.fixture(autouse=True)
def unchecked() -> Iterator[None]:
    """Versions are looked at once in a process."""
    versions.check_versions.cache_clear()
    yield
    versions.check_versions.cache_clear()


def pretend(monkeypatch: pytest.MonkeyPatch, **found: str | None) -> None:
    def version(package: str) -> str:
        if (number := {**RIGHT, **found}[package]) is None:
            raise PackageNotFoundError(package)
        return number

    monkeypatch.setattr(versions, "version", version)


def test_what_was_tested_is_said_nothing_of(monkeypatch: pytest.MonkeyPatch) -> None:
    for end in (0, 1):
        pretend(monkeypatch, **{package: f"{both[end]}.3+cpu" for package, both in versions.TESTED.items()})
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            versions.check_versions()
        versions.check_versions.cache_clear()


def test_too_old_is_a_sentence_at_first_use(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    pretend(monkeypatch, diffusers="0.9.0")
    oldest = versions.TESTED["diffusers"][0]
    said = (
        f"diffusers 0.9.0 is too old, {oldest} is the oldest that works here; pip install -U 'diffusers>={oldest}' "
        f"brings it"
    )
    with pytest.raises(ImportError, match=said):
        videoaccel.VideoPipeline  # noqa: B018
    assert run(["models"]) == 1
    assert capfd.readouterr().err == f"videoaccel: {said}\n"


def test_newer_than_tested_is_warned_of_once(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch, torch="3.0.0.dev20270101")
    with pytest.warns(UserWarning, match=r"torch 3\.0\.0\.dev20270101 is newer than what was tested \(up to 2\.\d+\)"):
        versions.check_versions()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        versions.check_versions()


def test_the_command_line_goes_on_with_what_is_newer(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    pretend(monkeypatch, transformers="99.1")
    assert run(["methods"]) == 0
    said = capfd.readouterr()
    assert said.err.startswith("warning: transformers 99.1 is newer than what was tested (up to ") and said.out


def test_what_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch, transformers=None)
    with pytest.raises(ImportError, match="transformers is not installed; pip install transformers brings it"):
        versions.check_versions()


@pytest.mark.parametrize(
    "package, older, newer", [("diffusers", "0.39.0", "0.40.0"), ("transformers", "4.55.4", "4.56.0.dev0")]
)
def test_a_type_goes_by_the_name_of_its_time(
    package: str, older: str, newer: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    pretend(monkeypatch, **{package: older})
    assert versions.dtype_argument(package, "half") == {"torch_dtype": "half"}
    pretend(monkeypatch, **{package: newer})
    assert versions.dtype_argument(package, "half") == {"dtype": "half"}


def test_the_package_asks_for_what_was_tested() -> None:
    project: dict[str, Any] = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
    for package, (oldest, newest) in versions.TESTED.items():
        (range_,) = (one for one in project["dependencies"] if one.startswith(f"{package}>="))
        low, _, high = range_.removeprefix(f"{package}>=").partition(",<")
        assert low == oldest
        major, minor = versions._number(newest)
        assert (major, minor) < versions._number(high) <= max((major, minor + 1), (major + 1, 0))


def test_the_newest_that_is_installed_is_within_what_was_tested() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        versions.check_versions()
