"""Clips find their prompts and references however a disk writes the accents in their names."""

import json
import unicodedata
from pathlib import Path

import pytest

from videoaccel.evaluation.clips import find_clips, read_prompts_file
from videoaccel.jobs.samples import suite_prompts

PROMPT = "a caf\u00e9, se\u00f1or"


@pytest.mark.parametrize("form", ["NFC", "NFD"])
def test_names_are_compared_in_one_form(tmp_path: Path, form: str) -> None:
    for folder in ("clips", "references"):
        (tmp_path / folder).mkdir()
    other = "NFD" if form == "NFC" else "NFC"
    name = f"{PROMPT}-0.mp4"
    (tmp_path / "clips" / unicodedata.normalize(form, name)).touch()
    (tmp_path / "references" / unicodedata.normalize(other, name)).touch()
    info = [{"prompt_en": unicodedata.normalize(other, PROMPT), "dimension": ["temporal_flickering"]}]
    (tmp_path / "info.json").write_text(json.dumps(info), encoding="utf-8-sig")
    book = read_prompts_file(tmp_path / "info.json")
    (clip,) = find_clips(tmp_path / "clips", reference=tmp_path / "references", prompts=book)
    assert clip.dimensions == ("temporal_flickering",) and clip.reference is not None
    assert book.without_clips([clip]) == []
    (tmp_path / "named.json").write_text(json.dumps({unicodedata.normalize(other, name): "another"}))
    (clip,) = find_clips(tmp_path / "clips", prompts=read_prompts_file(tmp_path / "named.json"))
    assert clip.prompt == "another"


@pytest.mark.parametrize("prompt", ["a very long walk " * 15, "\u732b" * 83])
def test_a_prompt_whose_clip_no_disk_would_take_is_refused_first(tmp_path: Path, prompt: str) -> None:
    """For `generate` and `render` alike; the number of bytes counts, not of characters."""
    rows = [{"prompt_en": text, "dimension": ["scene"]} for text in ("short", "x" * 240, prompt)]
    (tmp_path / "info.json").write_text(json.dumps(rows[:2]))
    assert suite_prompts(str(tmp_path / "info.json")) == ("short", "x" * 240)
    (tmp_path / "info.json").write_text(json.dumps(rows))
    with pytest.raises(ValueError, match=rf"has {len(prompt.encode())} bytes, and the name of a file has at most 255"):
        suite_prompts(str(tmp_path / "info.json"))
