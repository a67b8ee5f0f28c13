"""What a name, a folder or a file is."""

import json
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.cli.commands import python
from videoaccel.generation.loading import find_model
from videoaccel.outside.find import find_outside
from videoaccel.outside.loading import load, pipeline_class
from videoaccel.settings.generate import GenerateSettings


def test_our_own_models_are_not_outside(pipeline_folder: Path) -> None:
    for model in ("demo", "opensora-v1.2", "latte-1", "nothing", "hpcai-tech/OpenSora-STDiT-v3", str(pipeline_folder)):
        assert find_outside(GenerateSettings(model=model)) is None


def test_folders_say_their_class(dit_folder: Path, blocks_folder: Path) -> None:
    found = find_outside(GenerateSettings(model=str(dit_folder)))
    assert found is not None and (found.kind, found.modular, found.folder) == ("DiTPipeline", False, dit_folder)
    assert pipeline_class(found).__name__ == "DiTPipeline"
    blocks = find_outside(GenerateSettings(model=str(blocks_folder)))
    assert blocks is not None and (blocks.kind, blocks.modular) == ("WanModularPipeline", True)


def test_looking_needs_no_torch(wan_folder: Path) -> None:
    code = (
        "import sys; from videoaccel.outside.find import find_outside; "
        "from videoaccel.settings.generate import GenerateSettings; "
        f"print(find_outside(GenerateSettings(model={str(wan_folder)!r})).kind, 'torch' in sys.modules)"
    )
    done = subprocess.run(python("-c", code), capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["WanPipeline", "False"]


def test_a_release_that_runs_here_can_be_loaded_as_diffusers_pipeline(tmp_path: Path) -> None:
    (tmp_path / "model_index.json").write_text(json.dumps({"_class_name": "LattePipeline"}))
    assert find_outside(GenerateSettings(model=str(tmp_path))) is None
    found = find_outside(GenerateSettings(model=str(tmp_path), pipeline_class="LattePipeline"))
    assert found is not None and found.kind == "LattePipeline"


def test_a_single_file_needs_its_class(tmp_path: Path) -> None:
    file = tmp_path / "weights.safetensors"
    file.touch()
    with pytest.raises(ValueError, match="does not say of what pipeline it is; `pipeline_class` tells"):
        find_outside(GenerateSettings(model=str(file)))
    found = find_outside(GenerateSettings(model=str(file), pipeline_class="StableDiffusionXLPipeline"))
    assert found is not None and found.file == file


def test_what_cannot_be(tmp_path: Path, dit_folder: Path) -> None:
    with pytest.raises(ValueError, match="`pipeline_class` is for pipelines of diffusers, and demo is none"):
        find_outside(GenerateSettings(pipeline_class="DiTPipeline"))
    (tmp_path / "model_index.json").write_text("{")
    with pytest.raises(ValueError, match="is not valid JSON"):
        find_outside(GenerateSettings(model=str(tmp_path)))
    (tmp_path / "model_index.json").write_text(json.dumps({"_class_name": "WanPipelin"}))
    found = find_outside(GenerateSettings(model=str(tmp_path)))
    assert found is not None
    with pytest.raises(ValueError, match=r"is a WanPipelin, and diffusers .* did you mean WanPipeline"):
        pipeline_class(found)
    with pytest.raises(ValueError, match="no folder here, and the repository of that name"):
        find_outside(GenerateSettings(model="nobody/has-this"))


def test_code_of_a_model_does_not_run_unless_told(tmp_path: Path, dit_folder: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(dit_folder, folder)
    index = json.loads((folder / "model_index.json").read_text())
    for changed, code in (
        ({"_class_name": ["pipeline", "Mine"]}, "pipeline.py"),
        ({"transformer": ["mine", "Net"]}, "transformer/mine.py"),
    ):
        (folder / "transformer" / "mine.py").write_text("raise SystemExit('it ran')")
        (folder / "model_index.json").write_text(json.dumps({**index, **changed}))
        found = find_outside(GenerateSettings(model=str(folder)))
        assert found is not None and code in found.code
        with pytest.raises(ValueError, match=rf"code of its own \({code}\); `trust_remote_code` lets it run"):
            pipeline_class(found)
        pipeline_class(found, trusted=True)


def test_commands_for_our_own_models_say_so(wan_folder: Path) -> None:
    with pytest.raises(ValueError, match=r"is a WanPipeline of diffusers; generate, .* take it"):
        find_model(str(wan_folder))


def test_weights_that_do_not_fit_are_one_sentence(tmp_path: Path, dit_folder: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(dit_folder, folder)
    (folder / "transformer" / "diffusion_pytorch_model.safetensors").write_bytes(b"not weights")
    settings = GenerateSettings(model=str(folder), dtype="float32", device="cpu")
    found = find_outside(settings)
    assert found is not None
    with pytest.raises(ValueError, match="could not be loaded as a DiTPipeline: "):
        load(found, pipeline_class(found), settings)
    with pytest.raises(ValueError, match="could not be loaded as a DiTPipeline: its class loads folders only"):
        file = folder / "transformer" / "diffusion_pytorch_model.safetensors"
        alone = GenerateSettings(model=str(file), pipeline_class="DiTPipeline", dtype="float32", device="cpu")
        single = find_outside(alone)
        assert single is not None
        load(single, pipeline_class(single), alone)
