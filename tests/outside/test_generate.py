"""Whole jobs on tiny pipelines of diffusers: files and sidecars, the same again from a sidecar, and what is refused."""

import json
import shutil
import wave
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch
from PIL import Image

import videoaccel
from tests.adapters.image_pipes import pixart
from videoaccel import CalibrateSettings, GenerateSettings, generate
from videoaccel.cli.outside import ran
from videoaccel.jobs.sidecar import Sidecar
from videoaccel.media.reader import read_video
from videoaccel.outside.calls import worded
from videoaccel.outside.find import find_outside
from videoaccel.outside.order import resolve_outside
from videoaccel.preview.outside_plan import OutsidePlan


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path


def record(name: str) -> Any:
    return json.loads(Path(name).read_text())


def again(name: str, output: str) -> bool:
    """Whether a sidecar's settings give the same bytes."""
    origin = Sidecar.read(name)
    generate(GenerateSettings(**{**origin.settings, "output": output}), origin=origin)
    return bool(record(f"{Path(output).stem}.json")["output"]["sha256"] == origin.record["output"]["sha256"])


def test_a_picture_is_what_the_pipeline_itself_makes(dit_folder: Path) -> None:
    assert generate(GenerateSettings(model=str(dit_folder), prompt="goldfish", steps=5, seed=3)) == [Path("out.png")]
    import diffusers

    pipe = diffusers.DiTPipeline.from_pretrained(dit_folder)
    own = pipe(class_labels=[2], num_inference_steps=5, generator=torch.Generator().manual_seed(3)).images[0]
    assert np.array_equal(np.asarray(Image.open("out.png")), np.asarray(own))
    told = record("out.json")
    assert told["pipeline"] == {"class": "DiTPipeline", "arguments": {"class_labels": [2], "num_inference_steps": 5}}
    assert told["network"]["calls"] == told["network"]["computed"] == 5 and told["acceleration"] is None
    assert set(told["model"]["files"]) >= {"model_index.json", "transformer/diffusion_pytorch_model.safetensors"}
    assert told["versions"]["diffusers"] and told["machine"]["device"] == "cpu"


def test_a_run_without_a_prior_measures_first(dit_folder: Path) -> None:
    settings = GenerateSettings(
        model=str(dit_folder), prompt=("1", "2"), samples=2, steps=12, speedup=2, measure_first=2, output="a.png"
    )
    with pytest.warns(UserWarning, match="the next 2 generations are computed whole and measured"):
        paths = generate(settings)
    assert [path.name for path in paths] == ["a-0.png", "a-1.png", "a-2.png", "a-3.png"]
    told = [record(f"a-{k}.json") for k in range(4)]
    assert [one["network"]["computed"] for one in told] == [12, 12, 6, 6]
    assert [one["acceleration"]["measured"] for one in told] == [True, True, False, False]
    assert told[0]["settings"]["speedup"] is None, "made again it is exact, whatever has been measured since"
    prior = told[3]["settings"]["prior"]
    assert Path(prior).is_file() and prior in told[3]["inputs"]
    assert again("a-1.json", "b.png") and again("a-3.json", "c.png")
    generate(settings.model_copy(update={"prompt": ("1",), "samples": 1, "output": "d.png"}))
    assert record("d.json")["network"]["computed"] == 6, "what was measured is found next time"
    Path(prior).write_bytes(b"other")
    with pytest.raises(ValueError, match=r"made with other inputs: .*\.safetensors has changed"):
        again("a-3.json", "e.png")


def test_a_configuration_in_the_box_keeps_its_name(dit_folder: Path) -> None:
    generate(GenerateSettings(model=str(dit_folder), prompt="1", steps=10, accel="uncalibrated"))
    told = record("out.json")
    assert told["acceleration"]["method"] == "fixed_linear"
    assert told["acceleration"]["title"] == "uncalibrated (fixed_linear)"
    assert ran(told).startswith("uncalibrated (fixed_linear): 6 of 10 network calls, in 6 of 10 evaluations")
    assert told["network"]["due"] == {"its period and warm-up": 6} and again("out.json", "b.png")


def test_what_a_pipeline_says_to_a_size_is_said_as_its_own() -> None:
    with (
        pytest.raises(
            ValueError, match="a PixArtAlphaPipeline does not take this call: Invalid sample size; `args=use_"
        ),
        worded("PixArtAlphaPipeline"),
    ):
        pixart()(use_resolution_binning=True)


def test_a_clip_of_a_prompt(wan_folder: Path) -> None:
    settings = GenerateSettings(
        model=str(wan_folder), prompt="a red cat", negative_prompt="blur", steps=9, guidance=3, size="32x32", frames=5,
        accel="fora", output="w.mp4", args={"max_sequence_length": 16},
    )  # fmt: skip
    seen: list[tuple[str, int, int]] = []
    generate(settings, listener=lambda *told: seen.append(told))
    frames, fps = read_video("w.mp4")
    assert frames.shape == (5, 32, 32, 3) and fps == 16
    told = record("w.json")
    assert told["network"] | {"calls": 18, "computed": 12} == told["network"]
    assert {stream["context"] for stream in told["network"]["streams"]} == {"cond", "uncond"}
    assert told["acceleration"]["method"] == "fora" and told["acceleration"]["fields"]["period"] == 2
    assert told["acceleration"]["residual"] == "body"
    assert [stage for stage, done, _ in seen if not done] == ["load", "check", "denoise", "write"]
    assert ("denoise", 9, 9) in seen
    assert again("w.json", "v.mp4")


def test_a_clip_into_another(wan_folder: Path) -> None:
    shared = {"model": str(wan_folder), "prompt": "a cat", "steps": 3, "size": "32x32"}
    generate(GenerateSettings(**shared, frames=5, output="first/"))
    settings = GenerateSettings(
        **shared, pipeline_class="WanVideoToVideoPipeline", video="first", args={"strength": 0.7}, output="second.gif"
    )
    generate(settings)
    told = record("second.json")
    assert told["network"]["evaluations"] == 2 and told["output"]["frames"] == 5
    assert list(told["inputs"]) == [str(Path("first").absolute())]


def test_a_pipeline_of_blocks(blocks_folder: Path) -> None:
    settings = {"model": str(blocks_folder), "prompt": "a cat", "steps": 8, "size": "32x32", "frames": 5}
    generate(GenerateSettings(**settings, accel="taylorseer", output="b.mp4"))
    told = record("b.json")
    assert told["pipeline"]["class"] == "WanModularPipeline" and told["output"]["frames"] == 5
    assert 8 <= told["network"]["computed"] < told["network"]["calls"] == 16
    with pytest.raises(ValueError, match="takes no argument 'strenth'"):
        generate(GenerateSettings(**settings, args={"strenth": 1}, output="c.mp4"))


def test_sound_of_a_prompt(sound_folder: Path) -> None:
    settings = {"model": str(sound_folder), "prompt": "a cat", "steps": 8, "args": {"audio_end_in_s": 0.4}}
    assert generate(GenerateSettings(**settings, accel="fora")) == [Path("out.wav")]
    with wave.open("out.wav") as file:
        assert (file.getframerate(), file.getnchannels(), file.getnframes()) == (64, 2, 25)
    assert again("out.json", "b.wav")
    with pytest.raises(ValueError, match=r"a\.mp4 cannot hold sound; write \.wav"):
        generate(GenerateSettings(**settings, output="a.mp4"))


@pytest.mark.parametrize("kind", ["dit", "wan", "sound"])
def test_clips_of_one_call_are_those_of_single_calls(kind: str, request: pytest.FixtureRequest) -> None:
    folder: Path = request.getfixturevalue(f"{kind}_folder")
    prompts, more, ending = {
        "dit": (("1", "2", "1"), {}, "png"),
        "wan": (("a cat", "a dog"), {"size": "32x32", "frames": 1, "negative_prompt": "bad"}, "png"),
        "sound": (("rain", "a storm"), {"args": {"audio_end_in_s": 0.4}}, "wav"),
    }[kind]
    shared = {"model": str(folder), "prompt": prompts, "steps": 8, "seeds": (4, 5, 6)[: len(prompts)], **more}
    generate(GenerateSettings(**shared, output=f"alone.{ending}"))
    generate(GenerateSettings(**shared, output=f"plain.{ending}", batch_size=2))
    generate(GenerateSettings(**shared, output=f"off.{ending}", batch_size=2, accel="off"))
    for k in range(len(prompts)):
        plain, off = Path(f"plain-{k}.{ending}").read_bytes(), Path(f"off-{k}.{ending}").read_bytes()
        assert plain == off, "the machinery changes nothing"
        if ending == "png":
            one, other = (np.asarray(Image.open(f"{name}-{k}.png"), dtype=int) for name in ("alone", "plain"))
            assert abs(one - other).max() <= 1 and len(
                {path.read_bytes() for path in Path().glob("plain-*.png")}
            ) == len(prompts)
    told = record("off-1.json")
    assert told["prompt"] == prompts[1] and told["settings"]["keep"] == 1 and told["settings"]["seeds"] == [4, 5]
    assert again("off-1.json", f"again.{ending}") and not Path(f"again-0.{ending}").exists()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"loops": 2, "dp": 2}, "`loops`, `dp`: that is for this project's own models, not for a DiTPipeline"),
        ({"aspect": "9:16"}, "`aspect` is one of a named `resolution`"),
        ({"offload": True, "device": "cpu"}, "`offload` keeps a GPU's memory free"),
        ({"accel": "pab"}, "pab has to look into the network; on pipelines of diffusers these can be had: "),
        ({"accel": "fora", "accel_options": {"perod": 3}}, "has no field 'perod'"),
        ({"accel": "fora", "speedup": 2}, "`speedup` is a target of"),
        ({"accel": "fora", "prior": "x"}, "fora uses no prior"),
        ({"measure_first": 2}, "change nothing without `accel` or `speedup`"),
        ({"output": "a.wav"}, "can hold sound only"),
        ({"scheduler": {"beta": 3}, "output": "a.png"}, "DDIMScheduler has no field 'beta'"),
        (
            {"speedup": 2, "measure_first": 0},
            "for this call; videoaccel calibrate measures one, and with `measure_first=4` the first clips do",
        ),
        ({"vbench": "x.json", "prompt": ()}, "`vbench` is of clips, and this pipeline makes none"),
    ],
)
def test_what_is_refused(settings: dict[str, Any], message: str, dit_folder: Path, here: Path) -> None:
    with pytest.raises(ValueError, match=message):
        generate(GenerateSettings(**{"model": str(dit_folder), "prompt": "1", "steps": 8, **settings}))
    assert not [path for path in here.iterdir() if path.name != "cache"]


def test_what_is_wrong_is_said_before_anything_is_loaded(dit_folder: Path, wan_folder: Path, here: Path) -> None:
    Path("none.safetensors").write_text("x")
    shared = {"model": str(dit_folder), "prompt": "1", "steps": 8, "speedup": 2}
    with mock.patch("videoaccel.outside.generate.load", side_effect=AssertionError):
        with pytest.raises(FileNotFoundError, match=r"there is no prior .*no\.safetensors; videoaccel calibrate"):
            generate(GenerateSettings(**shared, prior="no.safetensors"))
        with pytest.raises(ValueError, match=r"none\.safetensors is no prior"):
            generate(GenerateSettings(**shared, prior="none.safetensors"))
        shutil.copytree(wan_folder, "wan")
        shutil.rmtree("wan/vae")
        with pytest.raises(ValueError, match="wan is not whole: its index names vae, and there is no folder"):
            generate(GenerateSettings(model="wan", prompt="a", steps=8))


def test_what_a_pipeline_says_to_a_size_that_it_does_not_take(wan_folder: Path) -> None:
    with pytest.raises(ValueError, match=r"a WanPipeline does not take this call \(RuntimeError: .*`size`, `frames`"):
        generate(GenerateSettings(model=str(wan_folder), prompt="a", steps=8, frames=5))


def test_a_plan_of_settings(dit_folder: Path) -> None:
    asked = GenerateSettings(model=str(dit_folder), steps=12, accel="fora")
    foretold = videoaccel.plan(asked)
    assert isinstance(foretold, OutsidePlan) and foretold.computed == [0, 1, 2, 4, 6, 8, 10]
    with pytest.raises(ValueError, match="call is for a pipeline of diffusers that is loaded"):
        videoaccel.plan(asked, call={})  # type: ignore[call-overload]


def test_other_fields_of_the_scheduler(dit_folder: Path) -> None:
    shared = {"model": str(dit_folder), "prompt": "1", "steps": 4}
    generate(GenerateSettings(**shared, output="a.png"))
    generate(GenerateSettings(**shared, scheduler={"beta_end": 0.01}, output="b.png"))
    assert record("a.json")["output"]["sha256"] != record("b.json")["output"]["sha256"]


def test_our_own_models_take_nothing_of_it() -> None:
    with pytest.raises(ValueError, match="`args` is for pipelines of diffusers, and demo is one of our own models"):
        generate(GenerateSettings(prompt="a", args={"x": 1}))


def test_a_run_leaves_global_random_numbers_alone(dit_folder: Path) -> None:
    torch.manual_seed(5)
    before = torch.get_rng_state()
    generate(GenerateSettings(model=str(dit_folder), prompt="1", steps=2))
    assert torch.equal(torch.get_rng_state(), before)


def test_what_is_resolved(wan_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(wan_folder.parent)
    settings = GenerateSettings(model=wan_folder.name, prompt=("a", "b"), samples=2, resolution="144p", seed=4)
    found = find_outside(settings)
    assert found is not None
    order = resolve_outside(settings, found)
    s = order.settings
    assert (s.model, s.size, s.dtype, s.device) == (str(wan_folder), "144x256", "float32", "cpu")
    assert [(sample.prompt, sample.seed) for sample in order.samples] == [("a", 4), ("a", 5), ("b", 4), ("b", 5)]
    assert [sample.outputs.clip for sample in order.samples] == [f"out-{k}.mp4" for k in range(4)]
    assert videoaccel.generate is generate


def test_files_of_arguments_are_inputs(blocks_folder: Path, here: Path, picture: str) -> None:
    args = {"a": ["@x.png", "@@y"], "b": "@x.png"}
    settings = GenerateSettings(model=str(blocks_folder), prompt="a", images=picture, args=args, output="o.mp4")
    found = find_outside(settings)
    assert found is not None
    assert resolve_outside(settings, found).inputs == [Path(picture), here / "x.png"]


def test_a_calibration_by_settings(dit_folder: Path, here: Path) -> None:
    settings = CalibrateSettings(model=str(dit_folder), steps=9, samples=1, output="p.safetensors")
    prior = videoaccel.calibrate(settings, curve=0)
    assert prior.path == Path("p.safetensors") and len(prior.tables["levels"]) == 9
    with pytest.raises(ValueError, match="`memory` is for calibrating our own models, not a DiTPipeline"):
        videoaccel.calibrate(settings.model_copy(update={"memory": 2}))
