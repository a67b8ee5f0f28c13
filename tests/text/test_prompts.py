"""Prompts against the original's strings, and on their own: segments, options, empty prompts, odd input."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tests import golden_values
from tests.golden_values import Case
from videoaccel.text import prompts
from videoaccel.text.prompts import Options, Segment

NO_SCORES: dict[str, Any] = {"aes": None, "flow": None, "camera_motion": None}


@pytest.mark.golden
@pytest.mark.parametrize("golden", golden_values.cases("prompts", "clean"))
def test_cleaning_is_the_originals(golden: Case) -> None:
    case = golden.get()
    assert prompts.clean_text(case["prompt"]) == case["out"]
    assert prompts.plain_text(case["prompt"]) == case["out_no_cleaning"]


@pytest.mark.golden
@pytest.mark.parametrize("golden", golden_values.cases("prompts", "scores"))
def test_suffixes_are_the_originals(golden: Case) -> None:
    case = golden.get()
    scores = {name: case[name] for name in NO_SCORES}
    assert prompts.add_scores(case["prompt"], **scores) == case["out"]
    assert prompts.clean_text(case["out"]) == case["cleaned"]


@pytest.mark.golden
@pytest.mark.parametrize("golden", golden_values.cases("prompts", "split"))
def test_segments_are_the_originals(golden: Case) -> None:
    case = golden.get()
    segments = prompts.split_segments(case["prompt"])
    assert [segment.text for segment in segments] == case["texts"]
    assert [segment.start for segment in segments] == (case["starts"] or [None])
    assert prompts.merge_segments(segments) == case["merged"]
    assert prompts.split_segments(case["merged"]) == segments
    if case["per_loop"] is not None:
        assert prompts.per_loop(segments, loops=len(case["per_loop"])) == case["per_loop"]


@pytest.mark.golden
@pytest.mark.parametrize("golden", golden_values.cases("prompts", "json_suffix"))
def test_options_are_the_originals(golden: Case) -> None:
    case = golden.get()
    assert prompts.cut_options(case["prompt"]) == Options(case["out"], case["reference_path"], case["mask_strategy"])


def test_prepare_works_in_order() -> None:
    prompt = '|0|A CAT (small)|2|{y} & a dog{"mask_strategy": "0"}'
    out = prompts.prepare(prompt, aes=6.5, flow=None, camera_motion="pan left", loops=4)
    suffix = " aesthetic score: 6.5. camera motion: pan left."
    assert out == ["a cat small" + suffix] * 2 + ["y a dog" + suffix] * 2
    assert prompts.prepare(prompt, **NO_SCORES, loops=3, clean=False) == ["a cat (small)"] * 2 + ["{y} & a dog"]


def test_a_rewriter_sees_each_segment_bare_and_its_words_are_cleaned() -> None:
    seen: list[str] = []

    def rewrite(text: str) -> str:
        seen.append(text)
        return f"A detailed ({text})"

    out = prompts.prepare("|0|Cat|1|Dog", aes=5, flow=None, camera_motion=None, loops=2, rewrite=rewrite)
    assert seen == ["Cat", "Dog"]
    assert out == ["a detailed cat aesthetic score: 5.0.", "a detailed dog aesthetic score: 5.0."]


@pytest.mark.parametrize(
    ("prompt", "clean", "empty"),
    [
        ("a cat", True, []),
        ("", True, [0]),
        (" \t", False, [0]),
        ("free shipping", True, [0]),
        ("free shipping", False, []),
        ("|0|a cat|3|***|7|", True, [3, 7]),
        ('{"reference_path": "a.png"}', True, [0]),
    ],
)
def test_an_empty_prompt_is_found_behind_its_suffix(prompt: str, clean: bool, empty: list[int]) -> None:
    assert prompts.empty_segments(prompt, clean=clean) == empty
    assert all(prompts.prepare(prompt, aes=6.5, flow=None, camera_motion=None, loops=8, clean=clean))


@pytest.mark.parametrize(
    ("prompt", "message"),
    [
        ('x {"mask_strategy": "0"', "not a JSON object"),
        ('x {"mask_stratgy": "0"}', "'mask_stratgy': '0'.*mask_strategy"),
        ('{"mask_stratgy": "0", "scene": "x"', "not a JSON object"),
        ('x {"seed": "3"}', "'seed': '3'.*reference_path.*mask_strategy"),
        ('x {"mask_strategy": 0}', "'mask_strategy': 0 .*as texts"),
        ("|0|a|b|c", r"\|b\| .*first loop"),
        ("|0|a|1", r"\|1\| .*first loop"),
        ("|0|a|-1|b", r"\|-1\|"),
        ("|0|a|2|b|2|c", r"\|2\| .*after \|2\|"),
        ("|0|a|3|b|1|c", r"\|1\| .*after \|3\|"),
    ],
)
def test_a_malformed_prompt_is_refused(prompt: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        prompts.prepare(prompt, **NO_SCORES, loops=1)


def test_loops_must_be_positive() -> None:
    with pytest.raises(ValueError, match="at least 1; got 0"):
        prompts.prepare("a", **NO_SCORES, loops=0)


@pytest.mark.parametrize("text", ["a { b } c", "{y}", "a } b", "{", "set {1, 2}"])
def test_braces_that_are_no_options_stay(text: str) -> None:
    assert prompts.cut_options(text) == Options(text)


@pytest.mark.parametrize(
    ("text", "cleaned"),
    [
        ("a <script>alert(1)</script> b", "a b"),
        ("a <!-- note --> b <br> c", "a b c"),
        ("a < b and c > d", "a < b and c > d"),
        ("&eacute;t&#233; &unknown;", "été unknown"),
        ("http://x.com/a and www.y.org, mail me@z.net", "and , mail me"),
    ],
)
def test_cleaning_of_pages_and_addresses(text: str, cleaned: str) -> None:
    assert prompts.clean_text(text) == cleaned


words = st.text("abcdefg XYZ.,é中", min_size=1).map(str.strip)


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(1, 9), words), max_size=5), words)
def test_segments_survive_merging(steps: list[tuple[int, str]], first: str) -> None:
    segments = [Segment(0, first)]
    for step, text in steps:
        segments.append(Segment((segments[-1].start or 0) + step, text))
    merged = prompts.merge_segments(segments)
    assert prompts.split_segments(merged) == segments
    loops = (segments[-1].start or 0) + 3
    chosen = prompts.prepare(merged, **NO_SCORES, loops=loops, clean=False)
    assert [chosen[start or 0] for start, _ in segments] == [text.lower().strip() for _, text in segments]
    assert chosen[-1] == segments[-1].text.lower().strip()


@settings(deadline=None)
@given(words, st.dictionaries(st.sampled_from(["reference_path", "mask_strategy"]), st.text()))
def test_options_survive_being_written(text: str, options: dict[str, str]) -> None:
    assert prompts.cut_options(text + json.dumps(options)) == Options(text, **options)


@settings(deadline=None)
@given(st.text())
@example("odd <![x")  # some Pythons' html.parser gives up here
def test_cleaning_takes_any_text(text: str) -> None:
    cleaned = prompts.clean_text(text)
    assert cleaned == cleaned.strip() and "|" not in cleaned and "  " not in cleaned


@pytest.mark.parametrize(
    "prompt", ['{"scene": "a cat", "camera": {"motion": "pan"}}', 'a sign that says {"hello"} to all', '{"a": 1']
)
def test_prompts_that_look_like_json_are_texts(prompt: str) -> None:
    assert prompts.cut_options(prompt) == Options(prompt)


@pytest.mark.parametrize(
    ("prompt", "lost"),
    [
        ("a cat; it sleeps, (well) -- 'here' & there!", []),
        ("caf\u00e9 with 3 tables", []),
        ("a 3x4 grid, 4k", ["3x4"]),
        ("\u4e00\u53ea\u732b 4k", ["\u4e00\u53ea\u732b"]),
        ("free shipping of page 12 boxes", ["free", "shipping", "page", "12"]),
        ("<b>bold</b> #1234567 R2D2x", ["b", "b", "1234567", "r2d2x"]),
        ("|0|a cat|2|a 2x2 quilt", ["2x2"]),
    ],
)
def test_what_cleaning_takes_beyond_punctuation_is_known(prompt: str, lost: list[str]) -> None:
    assert prompts.lost_words(prompt) == lost
