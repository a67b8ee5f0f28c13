"""Identities: what changes a clip changes them, and nothing else; checks before anything runs."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from tests.rendering.studio import Studio
from videoaccel.rendering.hashes import Hashes
from videoaccel.rendering.inside import Inside
from videoaccel.rendering.jobs_file import BadJobsError
from videoaccel.rendering.plan import Planned
from videoaccel.rendering.run import open_render


def ids(studio: Studio, *lines: dict[str, Any], **options: Any) -> list[str]:
    return [job.id for job in studio.open(*lines, **options).plan.jobs]


def one(studio: Studio, **line: Any) -> str:
    (found,) = ids(studio, {"prompt": "a red circle", **line})
    return found


def test_an_identity_is_of_what_decides_the_pixels(studio: Studio, tmp_path: Path) -> None:
    plain = one(studio)
    assert len(plain) == 16 and one(studio) == plain
    same = [{"name": "x"}, {"device": "cpu"}, {"text_cache": True}, {"steps": 2}, {"guidance": 4.0},
            {"output": "b/x.mp4"}, {"dtype": "float32"}, {"size": "32x32"}]  # fmt: skip
    assert {one(studio, **line) for line in same} == {plain}, (
        "the model's own defaults, and what is no matter of pixels"
    )
    other = [{"seed": 1}, {"steps": 3}, {"prompt": "a blue circle"}, {"format": "gif"}, {"guidance": 1}, {"threads": 3},
             {"accel": "fora"}, {"accel": {"method": "fora", "period": 3}}, {"dtype": "bfloat16"}, {"vae_tiling": True},
             {"negative_prompt": "x"}, {"size": "16x32"}, {"contact_sheet": True}]  # fmt: skip
    found = [one(studio, **line) for line in other]
    assert len({plain, *found}) == len(other) + 1


def test_given_files_count_by_what_is_in_them(studio: Studio, tmp_path: Path) -> None:
    a, b = tmp_path / "a.png", tmp_path / "b.png"
    Image.new("RGB", (40, 40), "red").save(a)
    b.write_bytes(a.read_bytes())
    line = {"frames": 17, "images": [str(a)]}
    first = one(studio, **line)
    assert one(studio, **{**line, "images": [str(b)]}) == first != one(studio, frames=17)
    own = json.dumps({"reference_path": str(a), "mask_strategy": "0"})
    named = one(studio, frames=17, prompt=f"a red circle{own}")
    Image.new("RGB", (40, 41), "blue").save(a)
    assert one(studio, **line) != first
    assert one(studio, frames=17, prompt=f"a red circle{own}") != named


def test_a_lora_counts_by_what_is_in_it_and_how_much_of_it(studio: Studio, tmp_path: Path) -> None:
    a, b = tmp_path / "a.safetensors", tmp_path / "b.safetensors"
    a.write_bytes(b"one")
    b.write_bytes(b"one")
    plain, first = one(studio), one(studio, lora=[str(a)])
    assert one(studio, lora=[f"{b}:1.0"]) == first != plain
    assert len({plain, first, one(studio, lora=[f"{a}:0.5"]), one(studio, lora=[str(a), str(b)])}) == 4
    with_and_without = studio.open({"prompt": "a"}, {"prompt": "b", "lora": [str(a)]}).plan
    assert len({job.group.engine for job in with_and_without.jobs}) == 2  # the networks are loaded anew
    a.write_bytes(b"two")
    assert one(studio, lora=[str(a)]) not in (plain, first)


def test_the_same_clip_is_made_once(studio: Studio) -> None:
    lines = [{"prompt": "a"}, {"prompt": "b"}, {"prompt": "a", "name": "again"}, {"prompt": "a", "steps": 2}]
    plan = studio.open(*lines).plan
    assert [job.job.line for job in plan.jobs] == [1, 2]
    assert plan.repeated == ((3, 1), (4, 1))


def test_jobs_of_one_model_stand_together(studio: Studio) -> None:
    lines = [{"prompt": f"{k}", "dtype": ["float32", "bfloat16"][k % 2]} for k in range(4)]
    plan = studio.open(*lines).plan
    kinds = [job.group.order.settings.dtype for job in plan.jobs]
    assert kinds in (["float32"] * 2 + ["bfloat16"] * 2, ["bfloat16"] * 2 + ["float32"] * 2)


def test_what_cannot_be_made_is_told_by_line_before_anything_runs(studio: Studio, tmp_path: Path) -> None:
    lines = [
        {"prompt": "fine"},
        {"prompt": "a", "images": [str(tmp_path / "none.png")], "frames": 17},
        {"prompt": "|0|a|3|b"},
        {"prompt": "fine, too"},
        {"prompt": "a", "accel": "warp"},
        {"prompt": "a", "format": "png", "frames": 17},
        {"prompt": "a", "device": "cuda:99"},
    ]
    with pytest.raises(BadJobsError) as caught:
        studio.open(*lines)
    found = [problem.split(":")[0] for problem in caught.value.problems]
    assert found == ["line 2", "line 3", "line 5", "line 6", "line 7"]
    assert "none.png does not exist" in caught.value.problems[0] and "is for loop 3" in caught.value.problems[1]
    assert not studio.out.exists()


def test_batches_are_cut_alike_and_part_of_identities(studio: Studio) -> None:
    lines = [{"prompt": f"{k}", "steps": 2 + (k == 3)} for k in range(6)]
    alone, pairs = studio.open(*lines).plan, studio.open(*lines, batching=2).plan
    assert sorted(len(unit.jobs) for unit in pairs.units) == [1, 1, 2, 2]
    assert not {job.id for job in alone.jobs} & {job.id for job in pairs.jobs}
    assert pairs == studio.open(*lines, batching=2).plan
    threads = studio.open(*[line | {"threads": torch.get_num_threads() + 1} for line in lines], batching=2).plan
    assert not {job.id for job in threads.jobs} & {job.id for job in pairs.jobs}


def test_a_folder_that_holds_something_else_is_left_alone(studio: Studio) -> None:
    studio.out.mkdir()
    (studio.out / "thesis.txt").write_text("mine")
    with pytest.raises(ValueError, match=r"holds 'thesis.txt' but no render"):
        studio.open({"prompt": "a"})
    assert [path.name for path in studio.out.iterdir()] == ["thesis.txt"]


def test_hashes_are_kept_and_noticed_to_be_old(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file, kept = tmp_path / "file", tmp_path / "hashes.json"
    file.write_text("one")
    hashes = Hashes(Inside(tmp_path))
    first = hashes(file)
    hashes.save()
    monkeypatch.setattr("videoaccel.rendering.hashes.file_hash", lambda path: "read anew")
    assert Hashes(Inside(tmp_path))(file) == first
    file.write_text("other")
    assert Hashes(Inside(tmp_path))(file) == "read anew"
    kept.write_text("{damaged")
    assert Hashes(Inside(tmp_path))(file) == "read anew"


def test_jobs_know_their_files(studio: Studio) -> None:
    (job,) = studio.open({"prompt": "ein Kreis", "name": "é/../ü", "format": "frames", "contact_sheet": True}).plan.jobs
    assert isinstance(job, Planned) and job.folder == f"é-ü-{job.id}"
    outputs = job.sample(Path("x")).outputs
    assert outputs is not None
    assert outputs.all == ["x/é-ü/", "x/é-ü.json", "x/é-ü-sheet.png", "x/poster.jpg"]


def test_identities_are_what_they_were(tmp_path: Path) -> None:
    """Of the demo model; a change that should change no clip keeps them, so that folders of before are gone on with."""
    jobs = [
        {"prompt": "a red circle moves left on a dark blue background", "steps": 6, "frames": 5},
        {"prompt": "a green star grows", "steps": 6, "frames": 1, "accel": "fora", "seed": [1, 2]},
        {"prompt": "a yellow triangle", "speedup": 2},
        {
            "prompt": "a yellow triangle",
            "steps": 6,
            "frames": 5,
            "accel": "fora+sada",
            "accel_options": {"sada": {"threshold": 0.3}},
        },
        {"prompt": "a yellow triangle", "steps": 6, "frames": 5, "accel": "fixed_linear"},
    ]
    file = tmp_path / "jobs.jsonl"
    file.write_text("\n".join(map(json.dumps, jobs)))
    render = open_render(file, tmp_path / "out")
    assert [job.id for job in render.plan.jobs] == IDENTITIES


IDENTITIES = [
    "1b2d720649cebd03",
    "b705cf8df90b3439",
    "512c2a482853bf89",
    "a02e6554f5c47311",
    "b761cd48ad889b25",
    "686ceee716934bc4",
]
