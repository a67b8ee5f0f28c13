"""Text files and YAML that users wrote: what cannot be meant is one sentence."""

from pathlib import Path
from typing import Any

import pytest

from videoaccel.common.reading import parse_yaml, read_text
from videoaccel.settings.config import Defaults, read_yaml, validate


@pytest.mark.parametrize(
    "text, message",
    [
        ("steps: 3\nseed: 1\nsteps: 4\n", r"steps is given twice \(line 3\)"),
        ("scheduler: {base_size: 1, base_size: 2}", r"base_size is given twice \(line 1\)"),
        ("steps: [1,\n", "expected the node content"),
        ("a: \x00", "special characters are not allowed"),
    ],
)
def test_yaml_that_cannot_be_meant(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse_yaml(text)


def test_equal_keys_of_different_mappings_are_fine() -> None:
    text = "a: &a {x: 1}\nb: &b {<<: *a, x: 2}\nc: {<<: *b, x: 3}\nd: [{x: 4}, {x: 5}]"
    assert parse_yaml(text) == {"a": {"x": 1}, "b": {"x": 2}, "c": {"x": 3}, "d": [{"x": 4}, {"x": 5}]}


def test_files_that_cannot_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "noise").write_bytes(bytes(range(256)))
    with pytest.raises(ValueError, match=r"noise is not a text file in UTF-8$"):
        read_yaml(tmp_path / "noise")
    with pytest.raises(IsADirectoryError, match=f"configuration file {tmp_path} is a folder, not a file"):
        read_yaml(tmp_path)
    with pytest.raises(FileNotFoundError, match="--prompts x does not exist"):
        read_text(tmp_path / "x", name="--prompts x")

    def refused(*_: Any, **__: Any) -> None:
        raise PermissionError(13, "Permission denied")

    # Root, who may run the tests, may read everything.
    monkeypatch.setattr("videoaccel.common.plain_files.os.open", refused)
    with pytest.raises(PermissionError, match="noise may not be read by this user"):
        read_text(tmp_path / "noise")


def test_what_is_read_again_is_as_it_was(tmp_path: Path) -> None:
    """Equal texts are parsed once, and who changes what came of one changes nobody else's."""
    for name in ("a.yaml", "b.yaml"):
        (tmp_path / name).write_text("scheduler: {base_size: 3}\n")
    read_yaml(tmp_path / "a.yaml")["scheduler"]["base_size"] = 4
    assert read_yaml(tmp_path / "a.yaml") == read_yaml(tmp_path / "b.yaml") == {"scheduler": {"base_size": 3}}
    (tmp_path / "a.yaml").write_text("steps: 5\n")
    assert read_yaml(tmp_path / "a.yaml") == {"steps": 5}


def test_true_is_no_number_in_a_configuration() -> None:
    with pytest.raises(ValueError, match=r"model\.yaml: steps = True: true is for switches only"):
        validate(Defaults, {"steps": True}, source="model.yaml")
