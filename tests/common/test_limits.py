"""Small files that would make endless work are refused in a sentence."""

import os
from itertools import pairwise
from pathlib import Path

import pytest

from videoaccel.common.reading import parse_yaml, read_text
from videoaccel.settings.generate import GenerateSettings


def test_aliases_stand_for_so_many_values() -> None:
    lines = ["a: &a [x,x,x,x,x,x,x,x,x]"]
    lines += [f"{name}: &{name} [{','.join([f'*{before}'] * 9)}]" for before, name in pairwise("abcdefghi")]
    with pytest.raises(ValueError, match=r"its aliases \(\*name\) stand for more than 10,000,000 values"):
        parse_yaml("\n".join(lines))
    with pytest.raises(ValueError, match="stand for more than"):
        parse_yaml("a: &a [*a]")
    with pytest.raises(ValueError, match="nested too deeply"):
        parse_yaml("[" * 5000)
    assert parse_yaml("\n".join(lines[:3]))["c"][8][8] == ["x"] * 9


def test_only_plain_files_of_a_size_are_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", Path("/dev/zero")):
        with pytest.raises(ValueError, match="is no plain file"):
            read_text(path)
    with (tmp_path / "large").open("wb") as file:
        file.truncate((256 << 20) + 1)
    with pytest.raises(ValueError, match="has 268,435,457 bytes; at most 268,435,456 are read"):
        read_text(tmp_path / "large")


@pytest.mark.parametrize("field", ["samples", "steps", "loops"])
def test_counts_have_bounds(field: str) -> None:
    with pytest.raises(ValueError, match=rf"{field}: 1000000000: input should be less than or equal to"):
        GenerateSettings(prompt="a", **{field: 10**9})


@pytest.mark.parametrize(("field", "value"), [("seeds", [-1]), ("seeds", [2**63]), ("prompt", "a \ud800 b")])
def test_what_fails_only_at_run_time_is_refused_before(field: str, value: object) -> None:
    values = {"prompt": "a", field: value}
    with pytest.raises(ValueError, match=field):
        GenerateSettings(**values)
