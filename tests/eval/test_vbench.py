"""VBench's names, prompts and totals where its own code is no help: what is wrong or missing."""

import json

import pytest

from videoaccel.eval.vbench import (
    QUALITY,
    SEMANTIC,
    Parsed,
    normalised,
    parse_name,
    read_full_info,
    suite_files,
    totals,
)


def test_a_total_is_withheld_and_not_guessed() -> None:
    raw = dict.fromkeys([*QUALITY, *SEMANTIC], 0.5)
    assert totals(raw).total is not None
    found = totals({**raw, "scene": None})
    assert found.quality is not None and found.semantic is None and found.total is None and found.missing == ("scene",)
    assert totals({**raw, "scene": None}, missing_as_zero=True).total is not None
    assert totals({}).missing == (*QUALITY, *SEMANTIC)


def test_scores_are_not_clipped() -> None:
    assert normalised("motion_smoothness", 0.0) < 0 and normalised("scene", 1.0) > 1
    with pytest.raises(ValueError, match="no dimension 'beauty'"):
        normalised("beauty", 0.5)


def test_names_of_files() -> None:
    assert parse_name("a dog-3.mp4") == Parsed("a dog", 3)
    assert parse_name("frames of a dog-3") == Parsed("frames of a dog", 3)
    assert parse_name("Ünï-ç.MP4") == Parsed("Ünï-ç", None)


def test_the_files_of_a_run() -> None:
    rows = [
        {"prompt_en": "a dog.", "dimension": ["color"], "auxiliary_info": {"color": "red"}},
        {"prompt_en": "a cat", "dimension": ["scene"]},
        {"prompt_en": "a dog.", "dimension": ["scene"]},
    ]
    prompts = read_full_info(json.dumps(rows), source="x.json")
    assert suite_files(prompts, 2) == ["a dog.-0.mp4", "a dog.-1.mp4", "a cat-0.mp4", "a cat-1.mp4"]
    assert prompts[0].about == {"color": "red"} and prompts[1].dimensions == ("scene",)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "x.json is not valid JSON"),
        ("[]", "a list of prompts is wanted"),
        ('[{"prompt_en": "a"}]', "entry 0 has no prompt_en with a list of dimensions"),
        ('[{"prompt_en": "a", "dimension": ["beauty"]}]', "entry 0 is for 'beauty', which is no dimension"),
    ],
)
def test_other_files_are_refused(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read_full_info(text, source="x.json")
