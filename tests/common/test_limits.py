"""Small files that would make endless work are refused in a sentence."""

import os
from itertools import pairwise
from pathlib import Path

import pytest

from videoaccel.common.reading import parse_bytes, parse_rate, parse_yaml, read_text
from videoaccel.rendering.sweeps import expand
from videoaccel.settings.calibrate import CalibrateSettings
from videoaccel.settings.config import Defaults, validate
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


@pytest.mark.parametrize(
    "field",
    [
        "frames", "loops", "condition_latents", "steps", "samples", "batch_size", "anchors", "measure_first", "gpus",
        "dp", "cfg_parallel", "sp", "threads", "fps", "patience",
    ],
)  # fmt: skip
def test_counts_have_bounds(field: str) -> None:
    with pytest.raises(ValueError, match=rf"{field}: 1000000000(\.0)?: input should be less than or equal to"):
        GenerateSettings(prompt="a", **{field: 10**9})


def test_clips_of_a_run_are_counted() -> None:
    with pytest.raises(ValueError, match="that makes 2,000,000 clips; at most 1,000,000 are made in one run"):
        GenerateSettings(prompt=("a",) * 20, samples=100_000)


@pytest.mark.parametrize("field", ["steps", "samples", "first", "seed", "replay_samples", "fit_samples"])
def test_calibrations_have_bounds(field: str) -> None:
    with pytest.raises(ValueError, match=rf"^{field}: 1000000000000000000000: input should be less than or equal"):
        CalibrateSettings(**{field: 10**21})  # type: ignore[arg-type]


@pytest.mark.parametrize("field", ["height", "width", "num_frames", "fps", "steps", "align", "condition_latents"])
def test_a_models_own_defaults_have_bounds(field: str) -> None:
    with pytest.raises(ValueError, match=rf"model\.yaml: {field} = 1000000000: input should be less than or equal"):
        validate(Defaults, {field: 10**9}, source="model.yaml")


@pytest.mark.parametrize(
    ("ends", "message"),
    [
        ({"from": 0, "to": 10**30}, "a sweep goes from a number to a number"),
        ({"from": 0, "to": 1e308}, "a sweep goes from a number to a number"),
        ({"from": 0, "to": float("nan")}, "a sweep goes from a number to a number"),
        ({"from": 0, "to": 1, "step": 1e-300}, "at most 100,000 come of one entry"),
        ({"from": 0, "to": 10**18}, "a sweep of 1,000,000,000,000,000,000 values; at most 100,000 come of one entry"),
    ],
)
def test_sweeps_have_bounds(ends: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        list(expand({"seed": ends}))


@pytest.mark.parametrize("text", ["9" * 5000, "1." + "0" * 5000, "1e999999999"])
def test_sizes_and_rates_without_an_end_are_none(text: str) -> None:
    with pytest.raises(ValueError, match=r"a size such as 2GiB or 500MB is wanted, got '.{1,80}$"):
        parse_bytes(text)
    assert parse_rate("30000/1001") == pytest.approx(29.97, abs=1e-3)
    with pytest.raises(ValueError, match=r"a number such as 24 or 30000/1001 is wanted, got '.{1,80}$"):
        parse_rate(f"{text}/x")


@pytest.mark.parametrize(("field", "value"), [("seeds", [-1]), ("seeds", [2**63]), ("prompt", "a \ud800 b")])
def test_what_fails_only_at_run_time_is_refused_before(field: str, value: object) -> None:
    values = {"prompt": "a", field: value}
    with pytest.raises(ValueError, match=field):
        GenerateSettings(**values)
