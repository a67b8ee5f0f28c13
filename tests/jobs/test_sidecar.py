"""Sidecars: making a clip again, bit for bit, and saying when that cannot be."""

import json
import warnings
from pathlib import Path

import pytest
import torch
from PIL import Image

from tests.workshop import Workshop
from videoaccel.jobs.resolve import resolve
from videoaccel.jobs.sidecar import Sidecar, model_files


def test_a_sidecar_makes_the_same_bytes_again(make: Workshop, picture: str) -> None:
    make(images=[picture], negative_prompt="blue", seed=4)
    assert make.again("out.json", "again.mp4") == (make.folder / "out.mp4").read_bytes()
    # In a batch the last bits may depend on the neighbours, so these are made again too, but not written.
    make("many.gif", prompt=["a", "a longer one"], samples=2, batch_size=3)
    for number in range(4):
        assert make.again(f"many-{number}.json", "b.gif") == (make.folder / f"many-{number}.gif").read_bytes()
    assert not [name for name in make.files if name.startswith("b-")]


def test_threads_are_those_asked_for_and_given_back(make: Workshop) -> None:
    before, during = torch.get_num_threads(), []
    make("out.png", frames=1, steps=1, threads=before + 1, done=lambda _: during.append(torch.get_num_threads()))
    assert during == [before + 1] and torch.get_num_threads() == before
    assert make.record()["settings"]["threads"] == before + 1


def test_what_made_the_clip_must_still_be_there(make: Workshop, picture: str, tmp_path: Path) -> None:
    make(images=[picture])
    record = make.record()
    name = "vae/diffusion_pytorch_model.safetensors"
    changed = {**record, "model": {**record["model"], "files": {**record["model"]["files"], name: "0" * 64}}}
    (tmp_path / "model.json").write_text(json.dumps(changed))
    with pytest.raises(ValueError, match=f"model.json was made with other model files: {name} has changed;"):
        make.again("model.json", "again.mp4")
    files = dict(record["model"]["files"])
    for edit, message in (
        ({**files, "vae/old.json": "0"}, "vae/old.json is missing here;"),
        ({key: value for key, value in files.items() if key != name}, f"{name} was not there;"),
        ({**files, name: "0", "vae/old.json": "0"}, f"{name} has changed, and 1 more;"),
    ):
        (tmp_path / "model.json").write_text(json.dumps({**record, "model": {**record["model"], "files": edit}}))
        with pytest.raises(ValueError, match=message):
            make.again("model.json", "again.mp4")
    older = {**record, "versions": {**record["versions"], "torch": "1.0"}}
    (tmp_path / "older.json").write_text(json.dumps(older))
    with pytest.warns(UserWarning, match=r"the clip may differ from that of .*older.json: torch was 1\.0, here it is"):
        make.again("older.json", "again.mp4")
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        make.again("out.json", "again.mp4")
    Image.new("RGB", (9, 9)).save(picture)
    with pytest.raises(ValueError, match=r"was made with other inputs: .*picture.png has changed"):
        make.again("out.json", "again2.mp4")
    assert "again2.mp4" not in make.files


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"format": 1, "settings": {}}', "no json"])
def test_a_file_that_is_no_sidecar(tmp_path: Path, text: str) -> None:
    (tmp_path / "x.json").write_text(text)
    with pytest.raises(ValueError, match=r"x\.json"):
        Sidecar.read(tmp_path / "x.json")
    with pytest.raises(FileNotFoundError, match=r"y\.json does not exist"):
        Sidecar.read(tmp_path / "y.json")


def test_hash_of_a_model_sees_every_file_that_matters(make: Workshop, tmp_path: Path) -> None:
    source = resolve(make.settings()).source
    files = model_files(source)
    assert set(files) == {
        path.relative_to(make.model).as_posix() for path in make.model.rglob("*") if path.is_file()
    }  # fmt: skip
    assert None not in files.values()
