"""Our settings by the names that pipelines have for them."""

from pathlib import Path
from typing import Any

import diffusers
import pytest

from tests.adapters.image_pipes import pixart
from videoaccel.outside.arguments import CLASSES, File, arguments_of, label
from videoaccel.outside.order import fps_of
from videoaccel.outside.signature import Signature, check_calls, signature_of
from videoaccel.settings.generate import GenerateSettings


def told(kind: str, index: Any = None, **settings: Any) -> dict[str, Any]:
    given = {"prompt": "a cat", **settings}
    arguments = arguments_of(GenerateSettings(**given), signature_of(getattr(diffusers, kind)), index=index or {})
    return arguments.of(given["prompt"])


def test_each_pipeline_has_its_own_names() -> None:
    video = {"steps": 9, "guidance": 3.0, "frames": 17, "size": "32x64", "negative_prompt": "blur"}
    same = {"prompt": "a cat", "num_inference_steps": 9, "height": 32, "width": 64, "negative_prompt": "blur"}
    assert told("WanPipeline", **video) == same | {"guidance_scale": 3.0, "num_frames": 17}
    assert told("LattePipeline", **video) == same | {"guidance_scale": 3.0, "video_length": 17}
    assert told("QwenImagePipeline", guidance=4.0) == {"prompt": "a cat", "true_cfg_scale": 4.0}
    assert told("FluxPipeline", guidance=4.0) == {"prompt": "a cat", "guidance_scale": 4.0}
    assert told("LTXPipeline", fps=30) == {"prompt": "a cat", "frame_rate": 30}
    assert told("WanPipeline", fps=30) == {"prompt": "a cat"}, "a clip's own rate is the file's alone"


def test_nothing_said_is_nothing_told() -> None:
    assert told("WanPipeline") == {"prompt": "a cat"}


def test_arguments_of_the_pipelines_own() -> None:
    assert told("FluxPipeline", args={"true_cfg_scale": 2, "sigmas": [1.0, 0.5]}, negative_prompt="x") == {
        "prompt": "a cat", "true_cfg_scale": 2, "sigmas": [1.0, 0.5], "negative_prompt": "x",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("kind", "settings", "message"),
    [
        ("DiTPipeline", {"frames": 4, "prompt": "1"}, "`frames` has no place here: DiTPipeline takes no argument"),
        ("DiTPipeline", {"negative_prompt": "x", "prompt": "1"}, "`negative_prompt` has no place here"),
        ("DiTPipeline", {"size": "8x8", "prompt": "1"}, "`size` has no place here: DiTPipeline takes no"),
        ("WanPipeline", {"images": "a.png"}, "`images` has no place here: WanPipeline takes no argument 'image'"),
        ("WanPipeline", {"args": {"guidence_scale": 3}}, "no argument 'guidence_scale'; did you mean guidance_scale"),
        ("WanPipeline", {"args": {"guidance_scale": True}}, "guidance_scale of a WanPipeline is a number, such as"),
        ("WanPipeline", {"args": {"guidance_scale": float("inf")}}, "is a number, such as 5, got inf"),
        ("WanPipeline", {"args": {"zzz": 3}}, "takes no argument 'zzz'; it takes prompt, negative_prompt, "),
        ("WanPipeline", {"args": {"generator": 3}}, "generator cannot be told by `args`: it is made of `seed`"),
        ("WanPipeline", {"args": {"num_videos_per_prompt": 3}}, "`samples` makes several"),
        ("WanPipeline", {"args": {"num_frames": 3}, "frames": 3}, "num_frames is given twice"),
        ("WanPipeline", {"guidance": 1, "negative_prompt": "x"}, "does nothing at guidance_scale 1; raise it"),
        ("FluxPipeline", {"negative_prompt": "x"}, "does nothing at true_cfg_scale 1; raise it, such as `args="),
        ("WanPipeline", {"prompt": ()}, "WanPipeline needs a prompt"),
        ("DiTPipeline", {"prompt": ()}, "DiTPipeline needs the number or name of a class as the prompt"),
        ("StableVideoDiffusionPipeline", {}, "StableVideoDiffusionPipeline takes no prompt"),
        ("StableVideoDiffusionPipeline", {"prompt": ()}, "StableVideoDiffusionPipeline needs 'image'; `args` tells it"),
    ],
)  # fmt: skip
def test_what_has_no_place_is_refused_by_name(kind: str, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message.replace("(", r"\(")):
        told(kind, **settings)


def test_files_are_known_before_they_are_read(picture: str, clip: str) -> None:
    given = told("WanImageToVideoPipeline", images=(picture, picture), args={"image_embeds": [f"@{clip}", "@@text"]})
    assert given["image"] == given["last_image"] == File(Path(picture))
    moving, text = given["image_embeds"]
    assert moving.moves and text == "@text"
    assert told("QwenImageEditPlusPipeline", images=(picture, picture))["image"] == [File(Path(picture))] * 2
    assert told("WanVideoToVideoPipeline", video=clip)["video"] == File(Path(clip))
    with pytest.raises(FileNotFoundError, match=r"nothing\.png does not exist"):
        told("WanImageToVideoPipeline", images="nothing.png")


def test_classes_in_place_of_prompts() -> None:
    index = {"id2label": {"1": "tench, Tinca tinca", "2": "goldfish"}}
    assert told("DiTPipeline", index, prompt="tinca Tinca") == {CLASSES: [1]}
    assert label(" 12 ", {}) == 12
    with pytest.raises(ValueError, match="there is none called 'goldfsh'; did you mean goldfish"):
        told("DiTPipeline", index, prompt="goldfsh")


def test_frames_per_second_are_those_of_the_pipelines_example() -> None:
    wan = signature_of(diffusers.WanPipeline)
    assert fps_of(GenerateSettings(), wan) == 16 and fps_of(GenerateSettings(fps=5), wan) == 5
    assert fps_of(GenerateSettings(), signature_of(diffusers.LTX2Pipeline)) == 24
    assert fps_of(GenerateSettings(args={"frame_rate": 12}), Signature("A", {"frame_rate": 25})) == 12


def test_a_call_that_swallows_any_argument_is_still_told_of_slips() -> None:
    assert signature_of(diffusers.PixArtAlphaPipeline).swallows and not signature_of(diffusers.WanPipeline).swallows
    with pytest.raises(ValueError, match="PixArtAlphaPipeline takes no argument 'nmae'; did you mean name"):
        Signature("PixArtAlphaPipeline", {"name": None}, swallows=True).check("nmae", 1)
    with pytest.raises(ValueError, match="takes no argument 'guidence_scale'; did you mean guidance_scale"):
        told("PixArtAlphaPipeline", args={"guidence_scale": 3})
    with pytest.warns(UserWarning, match="names no argument 'zzz' but takes any: nobody can tell whether it reads"):
        assert told("PixArtAlphaPipeline", args={"zzz": 3}) == {"prompt": "a cat", "zzz": 3}


def test_calls_of_a_loaded_pipeline_are_looked_through() -> None:
    pipe = pixart().pipe
    check_calls(pipe, {"call": {"prompt": "a cat", "guidance_scale": 3}})
    with pytest.raises(ValueError, match="calls 2: PixArtSigmaPipeline takes no argument 'promt'; did you mean prompt"):
        check_calls(pipe, {"calls 1": {"prompt": "a cat"}, "calls 2": {"promt": "a cat"}})
