"""What people's editors write is read as they see it, through every door alike."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from videoaccel.cli import compare, generate
from videoaccel.common.reading import prompt_lines, read_prompts, read_text
from videoaccel.evaluation.clips import read_prompts_file
from videoaccel.rendering.jobs_file import read_jobs
from videoaccel.settings.config import read_yaml

DOORS: dict[str, Callable[[str], list[str]]] = {
    "generate": lambda name: list(generate._prompts({"prompt": None, "prompts": name})),
    "compare": compare._prompts,
    "evaluate": lambda name: [row.text for row in read_prompts_file(Path(name)).rows],
    "render": lambda name: [line.values["prompt"] for line in read_jobs(Path(name)).lines],
}
ONE = "a cat\u2028still a cat"
OTHER = "a dog\x0b\x0c\x1c\x85\u2029still a dog"


@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_a_file_of_prompts_has_the_lines_that_editors_show(tmp_path: Path, door: str, end: str) -> None:
    lines = [f"\u00a0{ONE}\u00a0", "", "\u200b\u2060\ufeff", "\u2063\u180e\u034f\u3164\u2800", "# a comment", OTHER]
    path = tmp_path / "prompts.txt"
    path.write_bytes(end.join(lines).encode("utf-8-sig"))
    assert DOORS[door](str(path)) == [ONE, OTHER]


@pytest.mark.parametrize("door", DOORS)
def test_other_encodings_are_named(tmp_path: Path, door: str) -> None:
    (tmp_path / "a.txt").write_bytes("a cat".encode("utf-16"))
    with pytest.raises(ValueError, match=r"a\.txt is text in UTF-16; save it as UTF-8"):
        DOORS[door](str(tmp_path / "a.txt"))


@pytest.mark.parametrize("door", ["generate", "compare", "evaluate"])
@pytest.mark.parametrize("ending", [".csv", ".tsv", ".jsonl", ".yaml"])
def test_a_table_is_no_list_of_prompts(tmp_path: Path, door: str, ending: str) -> None:
    (tmp_path / f"a{ending}").write_text("prompt,seed\na cat,3\n")
    with pytest.raises(ValueError, match=rf"one prompt a line is wanted; videoaccel render reads .* of a \{ending}"):
        DOORS[door](str(tmp_path / f"a{ending}"))


def test_standard_input_may_begin_with_a_mark(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO(f"\ufeff{ONE}\n{OTHER}\n"))
    assert read_prompts("-") == [ONE, OTHER]
    with pytest.raises(ValueError, match="stdin holds no prompt"):
        prompt_lines("\u200b\n", source="stdin")


def test_yaml_and_json_may_begin_with_a_mark(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_bytes("steps: 3".encode("utf-8-sig"))
    assert read_yaml(tmp_path / "a.yaml") == {"steps": 3}
    (tmp_path / "a.json").write_bytes(json.dumps({"x.mp4": "a cat"}).encode("utf-8-sig"))
    assert read_prompts_file(tmp_path / "a.json").by_file == {"x.mp4": "a cat"}
    assert read_text(tmp_path / "a.yaml") == "steps: 3"


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("prompt;seed\na cat;3\n", "the cells of 'prompt;seed' are separated by semicolons; write commas"),
        ("prompt\tseed\na cat\t3\n", r"the cells of 'prompt\\tseed' are separated by tabs; write commas"),
        ("Prompt,seed\na cat,3\n", "the column 'Prompt' is called 'prompt', in small letters"),
    ],
)
def test_tables_of_other_tools_are_told_by_name(tmp_path: Path, text: str, told: str) -> None:
    (tmp_path / "a.csv").write_text(text)
    found = read_jobs(tmp_path / "a.csv")
    assert not found.lines and len(found.problems) == 1 and f"line 1: {told}".replace("\\\\", "\\") in found.problems[0]


def test_a_cell_may_hold_separators_that_are_no_ends_of_lines(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text(f"prompt,seed\n{ONE},3\n{OTHER},4\n", encoding="utf-8-sig")
    assert [line.values for line in read_jobs(tmp_path / "a.csv").lines] == [
        {"prompt": ONE, "seed": 3},
        {"prompt": OTHER, "seed": 4},
    ]
