"""Settings: what is refused and how it is said, how layers are put together, and what is filled in."""

from pathlib import Path
from typing import Any

import pytest
import torch

from videoaccel.jobs.resolve import pick_device, resolve
from videoaccel.jobs.samples import numbered
from videoaccel.settings.calibrate import CalibrateSettings
from videoaccel.settings.config import config_folder, config_names, read_yaml
from videoaccel.settings.generate import TARGETS, GenerateSettings
from videoaccel.settings.layers import Layer, assignments, merge
from videoaccel.settings.routers import RouterSettings


def settings(**values: Any) -> GenerateSettings:
    return merge([Layer(values, lambda name: f"--{name}")])


@pytest.mark.parametrize(
    "values, message",
    [
        (
            {"size": "0x64"},
            "--size: a size is HEIGHTxWIDTH in pixels, both from 1 to 99999, such as 240x426; got '0x64'",
        ),
        ({"size": "big"}, "--size: a size is HEIGHTxWIDTH"),
        ({"frames": 0}, "--frames: frames must be a positive whole number, or a name .*; got 0"),
        ({"frames": "3s"}, r"--frames: .*whatever the fps: 1x or 2s \(51\), .*; got '3s'"),
        ({"frames": 1.5}, "--frames: .*got '1.5'"),
        ({"steps": "many"}, "--steps: 'many': a whole number is wanted"),
        ({"steps": True}, "--steps: true is for switches only; a text needs quotes"),
        ({"fps": True}, "--fps: true is for switches only"),
        ({"prompt": False}, "--prompt: false is for switches only"),
        ({"seeds": [True]}, "--seeds: numbers are wanted, not true or false"),
        ({"steps": 0}, "--steps: 0: input should be greater than or equal to 1"),
        ({"fps": "inf"}, "--fps: 'inf': input should be a finite number|less than or equal to 1000"),
        ({"guidance": "nan"}, "--guidance: 'nan': input should be a finite number"),
        ({"seed": -1}, "--seed: -1: input should be greater than or equal to 0"),
        ({"dtype": "int8"}, "--dtype: 'int8': input should be 'float32', 'bfloat16' or 'float16'"),
        ({"aes": "high"}, "--aes: 'high': a number is wanted, or input should be 'none'"),
        ({"stepz": 3}, r"--stepz: unknown option 'stepz'; did you mean steps\? videoaccel generate --help lists all$"),
        ({"zzz": 3}, "--zzz: unknown option 'zzz'; videoaccel generate --help lists all$"),
        ({"size": "64x64", "resolution": "240p"}, "give `size`, or `resolution` and `aspect`, not both"),
        ({"images": ["a"], "video": "b"}, "only one of `images`, `video` and `references`, got `images` and `video`"),
        ({"images": ["a", "b", "c"]}, "`images` takes one picture to start with, or two to start and end with, got 3"),
        ({"extend": "forward"}, "`extend` and `edit` need a clip, such as `video=clip.mp4`"),
        ({"video": "v", "extend": "sideways"}, "--extend: 'sideways': input should be 'forward' or 'backward'"),
        ({"video": "v", "extend": "forward", "edit": 0.5}, "give `extend` or `edit`, not both"),
        ({"video": "v", "edit": 2}, "--edit: 2: input should be less than or equal to 1"),
        ({"mask_strategy": "0"}, "`mask_strategy` needs frames to place, such as `references=a.png`"),
        ({"references": ["a"]}, "give a `mask_strategy` with `references`, to say where they go"),
        ({"references": ["a"], "mask_strategy": ""}, "`mask_strategy` is empty; leave it out, or say"),
        ({"mask_strategy": " "}, "`mask_strategy` is empty"),
        ({"video": "v", "edit": 0.5, "mask_strategy": "0"}, "give `mask_strategy`, or `extend` or `edit`, not both"),
        ({"prompt": "a", "seeds": "1,2"}, "2 seeds for 1 clip; give one for each, or a single `seed`"),
        ({"prompt": "a", "keep": 1}, "`keep` must be below the number of clips, 1, got 1"),
        ({"condition_edit": 0.5}, "`condition_edit` is for `loops` above 1"),
        ({"condition_latents": 2, "images": ["a"]}, "`condition_latents` is for `loops` above 1 or for extending"),
    ],
)
def test_what_is_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        settings(**values)


@pytest.mark.parametrize(
    "values, message",
    [
        ({"steps": 0}, "steps: 0: input should be greater than or equal to 1"),
        ({"size": "big"}, "size: a size is HEIGHTxWIDTH in pixels, both from 1 to 99999, such as 240x426; got 'big'"),
        ({"stepz": 3}, "stepz: there is no such setting; did you mean steps"),
        ({"extend": "forward"}, "`extend` and `edit` need a clip, such as `video=clip.mp4`"),
        ({"steps": 0, "fps": -1}, "fps: -1: input should be greater than 0; steps: 0: input should be greater than "),
    ],
)
def test_settings_made_in_python_are_refused_in_one_sentence(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError) as refused:
        GenerateSettings(**values)
    assert str(refused.value).startswith(message) and "\n" not in str(refused.value)


@pytest.mark.parametrize("kind", [CalibrateSettings, RouterSettings])
def test_so_are_those_of_other_commands(kind: Any) -> None:
    with pytest.raises(ValueError) as refused:
        kind(promt="a cat", steps=0)
    said = "steps: 0: input should be greater than or equal to 3; promt: there is no such setting; did you mean prompts"
    assert str(refused.value) == said


def test_values_may_come_as_text() -> None:
    given = settings(prompt="a cat", frames="2s", steps="7", guidance="2.5", seeds="3", resolution=512, images="a.png")
    assert given.prompt == ("a cat",) and given.frames == 51 and given.steps == 7 and given.guidance == 2.5
    assert given.seeds == (3,) and given.resolution == "512" and given.images == ("a.png",)
    assert settings(aes="none").aes == "none" and settings(aes="6").aes == 6.0
    # YAML reads 9:16 as 9 minutes and 16 seconds.
    assert settings(**assignments(["aspect=9:16"])).aspect == "9:16"
    assert settings(**assignments(["aspect=50:27"])).aspect == "50:27"


def test_later_layers_win() -> None:
    low, high = Layer({"steps": 5, "seed": 1}), Layer({"steps": 9})
    assert merge([low, high]).steps == 9 and merge([low, high]).seed == 1
    with pytest.raises(ValueError, match=r"job\.yaml: steps: -1: "):
        merge([Layer({"steps": -1}, lambda name: f"job.yaml: {name}")])


@pytest.mark.parametrize(
    "low, high",
    [
        ({"size": "64x64"}, {"resolution": "240p"}),
        ({"resolution": "240p", "aspect": "1:1"}, {"size": "64x64"}),
        ({"images": ["a"]}, {"video": "b"}),
        ({"video": "b", "edit": 0.3}, {"images": ["a"]}),
        ({"video": "b", "edit": 0.3}, {"extend": "backward"}),
        ({"references": ["a"], "mask_strategy": "0"}, {"images": ["a"]}),
        ({"prompt": "a", "seeds": (7,), "keep": 0}, {"seed": 3}),
    ],
)
def test_a_later_alternative_replaces_an_earlier_one(low: dict[str, Any], high: dict[str, Any]) -> None:
    """A size on the command line must not clash with a resolution in the configuration file."""
    made = merge([Layer(low), Layer(high)])
    for name, value in high.items():
        expected = tuple(value) if isinstance(value, list) else value
        assert getattr(made, name) == expected
    assert not any(getattr(made, name) == value for name, value in low.items() if name not in ("prompt", "video"))


def test_assignments_of_nested_values() -> None:
    assert assignments(["scheduler.base_size=64", "scheduler.use_timestep_transform=false"]) == {
        "scheduler": {"base_size": 64, "use_timestep_transform": False}
    }
    with pytest.raises(ValueError, match="--set takes name=value, got 'steps'"):
        assignments(["steps"])
    with pytest.raises(ValueError, match=r"--set steps: '\{1' is not valid YAML \(while parsing"):
        assignments(["steps={1"])
    with pytest.raises(ValueError, match="steps has a value already, 3"):
        assignments(["steps=3", "steps.x=1"])


def test_everything_is_filled_in(pipeline_folder: Path) -> None:
    order = resolve(GenerateSettings(prompt=("a", "b"), model=str(pipeline_folder), samples=2, seed=5))
    s = order.settings
    empty = {name for name, value in s.model_dump().items() if value is None}
    assert empty == {
        "negative_prompt", "vae", "text_encoder", "resolution", "aspect", "condition_latents", "keep", "video",
        "extend", "edit", "mask_strategy", "accel", *TARGETS, "cache_memory", "prior", "vbench", "gpus", "dp",
        "cfg_parallel", "sp", "pipeline_class", "variant", "measure_first", "speedup_of",
    }  # fmt: skip
    assert (s.size, s.frames, s.fps, s.steps, s.guidance, s.dtype, s.aes) == ("32x32", 17, 8, 3, 4, "float32", "none")
    made = [sample for batch in order.batches for sample in batch]
    assert [(sample.prompt, sample.seed) for sample in made] == [("a", 5), ("a", 6), ("b", 5), ("b", 6)]
    assert [out.clip for out in order.outputs] == ["out-0.mp4", "out-1.mp4", "out-2.mp4", "out-3.mp4"]


@pytest.mark.parametrize(
    "values, message",
    [
        ({}, "there is no prompt"),
        ({"prompt": "  "}, "the prompt is empty"),
        ({"prompt": ["a", "page 12"]}, "prompt 2 of 2 is empty once cleaned: 'page 12'"),
        ({"prompt": "a", "cache_memory": "1GiB"}, "`cache_memory` change nothing without `accel` or `speedup`"),
        ({"prompt": "a", "accel": "fora", "min_psnr": 30}, "`min_psnr` is a target of soda; fora takes none: set its"),
        ({"prompt": "a", "aspect": "1:1"}, "`aspect` '1:1' is one of a named resolution, but .* 32x32"),
        (
            {"prompt": "a", "speedup": 3, "accel_options": {"speedup": 2}},
            "`speedup` is 3, and among `accel_options` 2; give it once",
        ),
        ({"prompt": "a", "resolution": "240q"}, "no resolution '240q'; there are 144p"),
        ({"prompt": "a", "resolution": "512", "aspect": "1:1"}, "512 has no aspect '1:1'"),
        ({"prompt": "a", "device": "gpu"}, "unknown device 'gpu'; there are cpu, cuda"),
        ({"prompt": "a", "device": "cpu", "offload": True}, "`offload` .* needs a CUDA device, got 'cpu'"),
        ({"prompt": "a", "attention": "magic"}, "unknown attention backend 'magic'; there are native"),
        (
            {"prompt": "a", "attention": "flash"},
            "attention backend 'flash' cannot run here: .*; use 'native', which always works",
        ),
        ({"prompt": "a", "vae": "x"}, "is a pipeline folder with parts of its own; x has no place in it"),
        ({"prompt": "a", "guidance": 1, "negative_prompt": "b"}, "`negative_prompt` does nothing at `guidance` 1"),
        ({"prompt": "a", "negative_prompt": " "}, "the negative prompt is empty"),
        ({"prompt": "a", "references": ["x"], "mask_strategy": "0,a"}, "reference must be a whole number; got 'a'"),
        ({"prompt": "a", "output": "x.avi"}, r"must end in \.mp4, \.gif, \.png"),
        ({"prompt": "a", "output": "x.png"}, "x.png can hold one frame only, not 17"),
        ({"prompt": 'a{"mask_strategy": 3}'}, "only .* may be there, as texts"),
    ],
)
def test_what_does_not_fit_the_model_or_the_machine(
    pipeline_folder: Path, values: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        resolve(merge([Layer({"model": str(pipeline_folder), **values})]))


def test_missing_and_overwritten_inputs(pipeline_folder: Path, tmp_path: Path) -> None:
    model, clip = str(pipeline_folder), tmp_path / "clip.mp4"
    with pytest.raises(FileNotFoundError, match=r"clip\.mp4 does not exist"):
        resolve(GenerateSettings(prompt="a", model=model, video=str(clip)))
    with pytest.raises(FileNotFoundError, match=r"nowhere\.png does not exist"):
        resolve(GenerateSettings(prompt='a{"reference_path": "nowhere.png", "mask_strategy": "0"}', model=model))
    clip.touch()
    with pytest.raises(ValueError, match=r"clip\.mp4 would be written over the file that is read"):
        resolve(GenerateSettings(prompt="a", model=model, video=str(clip), output=str(clip)))


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_a_missing_gpu_is_said() -> None:
    assert pick_device(None).type == "cpu"
    with pytest.raises(
        ValueError, match=r"'cuda' was asked for, but torch .* finds no CUDA devices here; use `device=cpu`"
    ):
        pick_device("cuda")


def test_numbering_sorts() -> None:
    names = numbered("a.b/out.mp4", 12)
    assert names == sorted(names) and names[3] == "a.b/out-03.mp4"


def test_an_empty_output_name_is_refused() -> None:
    """An unset variable in a script must not overwrite out.mp4."""
    with pytest.raises(ValueError, match="output"):
        merge([Layer({"prompt": "a", "output": ""})])


@pytest.mark.parametrize("name", config_names("accel"))
def test_methods_in_the_box_can_be_named(name: str, pipeline_folder: Path) -> None:
    order = resolve(GenerateSettings(prompt="a", model=str(pipeline_folder), accel=name))
    fields = read_yaml(config_folder("accel") / f"{name}.yaml")
    assert order.policy is not None and order.policy.name == fields.pop("method")
    dumped = order.policy.model_dump(mode="json")
    for field, value in fields.items():  # of two at once, by method
        assert dumped[field] | value == dumped[field] if isinstance(value, dict) else dumped[field] == value


def test_two_methods_in_the_box_take_further_fields_but_no_target(pipeline_folder: Path) -> None:
    boxed = {"prompt": "a", "model": str(pipeline_folder), "accel": "fora-sada"}
    policy = resolve(GenerateSettings(**boxed, accel_options={"fora": {"period": 2}})).policy
    assert policy is not None
    dumped = policy.model_dump(mode="json")
    assert dumped["fora"]["period"] == 2 and dumped["fora"]["slots"] == "trunk" and dumped["sada"]["threshold"] == 0.35
    with pytest.raises(ValueError, match=r"`speedup` cannot be kept by fora-sada: .* accel_options.sada.threshold"):
        resolve(GenerateSettings(**boxed, speedup=2.0))


def test_a_target_beside_a_file_takes_the_place_of_its_own(pipeline_folder: Path) -> None:
    order = resolve(GenerateSettings(prompt="a", model=str(pipeline_folder), accel="soda-published", speedup=1.5))
    policy = order.policy
    assert policy is not None and policy.model_dump()["speedup"] == 1.5 and policy.model_dump()["flops_ratio"] is None
    assert policy.model_dump()["schedule"] == "modules"
