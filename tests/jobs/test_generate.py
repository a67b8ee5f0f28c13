"""The whole job from Python: files, sidecars, what is in memory when, and making a clip again."""

import gc
import json
import weakref
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import videoaccel
from tests.generation.stand_in_graphs import stand_in
from tests.workshop import Workshop
from videoaccel.generation import tuning
from videoaccel.generation.pipeline import VideoPipeline
from videoaccel.generation.prepared import Denoising
from videoaccel.jobs import generate as generation
from videoaccel.jobs import parts
from videoaccel.jobs.generate import Clip
from videoaccel.jobs.memory_advice import OutOfMemoryError
from videoaccel.jobs.sidecar import file_hash
from videoaccel.media.reader import read_image, read_video
from videoaccel.models.compiled import compile_branches, compile_decoders
from videoaccel.models.video_vae import VideoAutoencoder
from videoaccel.outside import generate as whatever
from videoaccel.planning.prior import Prior
from videoaccel.settings.generate import GenerateSettings


def test_a_clip_and_its_sidecar(make: Workshop) -> None:
    heard: list[tuple[str, int, int]] = []
    done: list[Clip] = []
    (path,) = make(listener=lambda *told: heard.append(told), done=done.append, seed=3, threads=1)
    frames, fps = read_video(path)
    assert frames.shape == (17, 32, 32, 3) and fps == 8
    assert make.files == ["out.json", "out.mp4"]
    record = make.record()
    assert record == json.loads(json.dumps(done[0].record))
    assert record["prompt"] == "a red circle" and record["seed"] == 3 and record["texts"] == ["a red circle"]
    assert record["output"] == {
        "file": str(path), "sha256": file_hash(path), "frames": 17, "height": 32, "width": 32, "fps": 8.0,
    }  # fmt: skip
    assert {"videoaccel", "python", "torch", "diffusers", "transformers", "av", "numpy"} == set(record["versions"])
    assert record["machine"]["threads"] == 1 and record["machine"]["attention"] == "native"
    assert set(record["seconds"]) == {"text", "load", "check", "prepare", "denoise", "decode", "write"}
    assert record["peak_memory_bytes"] > 50e6
    weights = make.model / "transformer" / "diffusion_pytorch_model.safetensors"
    assert record["model"]["files"]["transformer/diffusion_pytorch_model.safetensors"] == file_hash(weights)
    assert set(record["model"]["files"]) >= {"text_encoder/model.safetensors", "tokenizer/tokenizer.json"}
    assert [step for step in heard if step[0] == "denoise"] == [("denoise", done, 3) for done in range(4)]


def test_a_seed_gives_the_same_bytes_whatever_else_is_made(make: Workshop) -> None:
    """One clip at a time by default: sample k of a prompt has seed + k, and no bit depends on its neighbours."""
    make("many.mp4", prompt=["a red circle", "a much longer prompt than that"], samples=2, seed=5)
    assert [make.record(f"many-{k}.json")["seed"] for k in range(4)] == [5, 6, 5, 6]
    make("one.mp4", seed=6)
    one = (make.folder / "one.mp4").read_bytes()
    assert (make.folder / "many-1.mp4").read_bytes() == one
    assert (make.folder / "many-0.mp4").read_bytes() != one
    make("seeds.mp4", prompt=["a blue circle", "a red circle"], seeds=[9, 6])
    assert (make.folder / "seeds-1.mp4").read_bytes() == one


def test_kinds_of_output(make: Workshop) -> None:
    make("out.gif", contact_sheet=True)
    make("frames/")
    make("still.png", frames=1)
    assert len(read_video(make.folder / "out.gif")[0]) == 17
    assert len(list((make.folder / "frames").glob("*.png"))) == 17
    assert read_image(make.folder / "still.png").shape == (1, 32, 32, 3)
    width, height = Image.open(make.folder / "out-sheet.png").size
    assert width >= 4 * 32 and height >= 4 * 32
    assert make.files == [
        "frames", "frames.json", "out-sheet.png", "out.gif", "out.json", "still.json", "still.png",
    ]  # fmt: skip
    default = generation.resolve(make.settings(output="x.mp4", frames=1).model_copy(update={"output": None}))
    assert default.outputs[0].clip == "out.png"


def spread(make: Workshop, name: str) -> Any:
    return read_video(make.folder / name)[0].astype(float)


def test_what_cannot_be_written_is_said_before_the_work(make: Workshop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(generation, "encode_texts", lambda order: pytest.fail("work began"))
    (make.folder / "out.json").mkdir()
    with pytest.raises(IsADirectoryError, match=r"out\.json: it is a folder"):
        make()


def test_a_prior_that_nobody_can_have_made_is_missed_before_the_text(
    make: Workshop, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(generation, "encode_texts", lambda order: pytest.fail("work began"))
    with pytest.raises(ValueError, match="soda needs calibrated tables, which are not there for this model and sett"):
        make(accel="soda", steps=4)


def test_a_prior_beside_the_model_is_named(make: Workshop, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    (tmp_path / "mine").symlink_to(make.model)
    beside = tmp_path / "mine-prior.safetensors"
    given = {"accel": "soda", "steps": 4, "size": "64x64", "frames": 5, "guidance": 4, "model": str(tmp_path / "mine")}
    for steps, end in ((4, ""), (9, ", of steps 9")):
        made_for = {"model": "m", "steps": steps, "size": [64, 64], "frames": 5, "guidance": 4.0}
        Prior(made_for, {"levels": torch.ones(1)}, {"levels": 1}).save(beside)
        with pytest.raises(ValueError) as told:
            make(**given)
        assert str(told.value).endswith(f"; `prior={beside}` takes the one that lies beside the model{end}")


def test_given_images_and_clips(make: Workshop, picture: str, clip: str) -> None:
    """Each way of conditioning changes the clip in its own way, and what is given is seen where it belongs."""
    make("free.gif")
    make("first.gif", images=[picture])
    make("both.gif", images=[picture, picture])
    make("same.gif", references=[picture], mask_strategy="0")
    make("forward.gif", video=clip)
    make("backward.gif", video=clip, extend="backward", condition_latents=2)
    make("keep.gif", video=clip, edit=0, frames=20)
    make("edit.gif", video=clip, edit=0.9, frames=20)
    own = json.dumps({"reference_path": picture, "mask_strategy": "0"})
    make("own.gif", prompt=f"a red circle{own}")
    clips = {
        name: spread(make, f"{name}.gif") for name in ("free", "first", "both", "forward", "backward", "keep", "edit")
    }
    assert (make.folder / "same.gif").read_bytes() == (make.folder / "first.gif").read_bytes()
    assert (make.folder / "own.gif").read_bytes() == (make.folder / "first.gif").read_bytes()
    for name, made in clips.items():
        others = [other for key, other in clips.items() if key != name]
        assert all(np.abs(made[:17] - other[:17]).mean() > 0.01 for other in others), name
    assert make.record("forward.json")["settings"]["extend"] == "forward"
    assert make.record("forward.json")["inputs"] == {clip: file_hash(Path(clip))}
    assert "references" in make.record("forward.json")["seconds"]


def test_no_more_of_a_film_is_read_than_is_used(make: Workshop, clip: str, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int | None] = []
    read = parts.read_clip

    def spy(*given: Any, max_frames: int | None = None, **size: Any) -> torch.Tensor:
        asked.append(max_frames)
        return read(*given, max_frames=max_frames, **size)

    monkeypatch.setattr(parts, "read_clip", spy)
    with pytest.warns(UserWarning, match=r"only the first 5 frames of .*clip.mp4 will be edited"):
        make("edit.gif", video=clip, edit=0.9, frames=5)
    make("backward.gif", video=clip, extend="backward", condition_latents=2)
    make("forward.gif", video=clip)
    make("own.gif", video=clip, mask_strategy="0,0,0,0,5")
    assert asked == [6, 8, None, None]


def test_given_files_that_do_not_fit(make: Workshop, clip: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    with pytest.raises(ValueError, match="the video has 20 frames; continuing it takes at least 34"):
        make(video=clip, condition_latents=10, frames=40)
    with pytest.raises(ValueError, match="there is no reference 3; loop 0 has 1"):
        make(video=clip, mask_strategy="0,3")
    broken = tmp_path_factory.mktemp("given") / "broken.mp4"
    broken.write_bytes(Path(clip).read_bytes()[:500])
    with pytest.raises(ValueError, match=r"broken\.mp4 is not a readable video"):
        make(video=str(broken))
    assert make.files == []


def test_loops(make: Workshop) -> None:
    make("loops.gif", prompt="|0|a red circle|1|a blue circle", loops=3, frames=20, contact_sheet=True)
    frames = spread(make, "loops.gif")
    assert len(frames) == 20 + 19 + 19
    make("once.gif", frames=20)
    np.testing.assert_array_equal(frames[:20], spread(make, "once.gif"))
    record = make.record("loops.json")
    assert record["texts"] == ["a red circle", "a blue circle", "a blue circle"]


def test_frames_go_to_the_file_chunk_by_chunk(make: Workshop, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []
    frames = generation.to_uint8

    def spy(chunk: torch.Tensor) -> Any:
        sizes.append(chunk.shape[1])
        return frames(chunk)

    monkeypatch.setattr(generation, "to_uint8", spy)
    make(frames=40)
    assert sizes == [17, 17, 6]


def test_the_text_encoder_is_gone_before_the_rest_is_loaded(make: Workshop, monkeypatch: pytest.MonkeyPatch) -> None:
    encoders: list[Any] = []
    load, build = parts.load_text_encoder, VideoPipeline.from_pretrained

    def spy_text(*args: Any, **options: Any) -> Any:
        tokenizer, encoder = load(*args, **options)
        encoders.append(weakref.ref(encoder))
        return tokenizer, encoder

    def spy_rest(*args: Any, **options: Any) -> Any:
        gc.collect()
        assert encoders[0]() is None
        pipe = build(*args, **options)
        assert pipe.text_encoder is None and pipe.tokenizer is None
        return pipe

    monkeypatch.setattr(parts, "load_text_encoder", spy_text)
    monkeypatch.setattr(VideoPipeline, "from_pretrained", spy_rest)
    make(prompt=["a", "b"], samples=2)
    assert len(encoders) == 1


def test_text_cache_needs_no_encoder(make: Workshop, monkeypatch: pytest.MonkeyPatch, tmp_path_factory: Any) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
    make("one.mp4", text_cache=True)
    monkeypatch.setattr(parts, "load_text_encoder", lambda *_, **__: pytest.fail("loaded"))
    make("two.mp4", text_cache=True)
    assert (make.folder / "one.mp4").read_bytes() == (make.folder / "two.mp4").read_bytes()


def test_options_reach_the_networks(make: Workshop, monkeypatch: pytest.MonkeyPatch) -> None:
    make("plain.gif")
    make("half.gif", dtype="bfloat16")
    make("shifted.gif", scheduler={"base_size": 512})
    plain, half, shifted = (spread(make, f"{name}.gif") for name in ("plain", "half", "shifted"))
    assert 0 < np.abs(half - plain).mean() < 20
    assert np.abs(shifted - plain).mean() > 0.01
    with pytest.raises(
        ValueError, match="the scheduler has no field base_sise; there are base_size, num_train_timesteps"
    ):
        make(scheduler={"base_sise": 1})
    monkeypatch.setattr(parts, "TILE", 16)
    make("tiles.gif", vae_tiling=True)
    tiles = spread(make, "tiles.gif")
    assert np.abs(tiles - plain).mean() > 0.01 and np.corrcoef(tiles.ravel(), plain.ravel())[0, 1] > 0.5


def test_compile_is_timed_apart(make: Workshop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tuning, "compile_branches", partial(compile_branches, backend="eager"))
    monkeypatch.setattr(tuning, "compile_decoders", partial(compile_decoders, backend="eager"))
    make("plain.gif", frames=4)
    make("compiled.gif", frames=4, compile=True)
    assert (
        make.record("compiled.json")["seconds"]["compile"] > 0 and "compile" not in make.record("plain.json")["seconds"]
    )
    assert np.abs(spread(make, "compiled.gif") - spread(make, "plain.gif")).max() <= 1


def test_graphs_leave_no_trace_but_in_the_record(make: Workshop, monkeypatch: pytest.MonkeyPatch) -> None:
    make("plain.mp4")
    tune = VideoPipeline.tune

    def tuned(self: VideoPipeline, **options: Any) -> VideoPipeline:
        tune(self, **options)
        self.graphs = stand_in()
        return self

    monkeypatch.setattr(VideoPipeline, "tune", tuned)
    make("replayed.mp4")
    assert (make.folder / "replayed.mp4").read_bytes() == (make.folder / "plain.mp4").read_bytes()
    steps = make.record("plain.json")["settings"]["steps"]
    assert make.record("plain.json")["networks"]["graphs"] == "off"
    assert make.record("replayed.json")["networks"]["graph_calls"] == {"recorded": 1, "replayed": steps}
    with pytest.raises(ValueError, match=r"`graphs=on` cannot run here: they need a CUDA device"):
        make(graphs="on")


@pytest.mark.parametrize(
    "error", [torch.OutOfMemoryError("CUDA out of memory"), MemoryError(), RuntimeError("DefaultCPUAllocator: can't")]
)
def test_out_of_memory_says_what_to_lower(make: Workshop, monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise error

    monkeypatch.setattr(VideoAutoencoder, "decode_spatial_latent", full)
    message = (
        r"out of memory on cpu during decode: lower `batch_size` \(now 2\) or `size` \(now 32x32\) or `frames` "
        r"\(now 17\), or use `dtype=bfloat16`, or use `vae_tiling`"
    )
    with pytest.raises(OutOfMemoryError, match=message):
        make(samples=2, batch_size=2)
    assert make.files == [], "no half file is left"


def test_other_failures_are_not_mistaken_for_memory(make: Workshop, monkeypatch: pytest.MonkeyPatch) -> None:
    def nothing(self: Any, z: torch.Tensor, frames: int) -> torch.Tensor:
        return torch.full((1, 4, frames, 16, 16), float("nan"))

    monkeypatch.setattr(VideoAutoencoder, "decode_spatial_latent", nothing)
    with pytest.raises(FloatingPointError, match=r"NaN.*a wider `dtype`"):
        make()
    assert make.files == []


def test_public_names() -> None:
    assert videoaccel.VideoPipeline is VideoPipeline and videoaccel.generate is whatever.generate
    assert videoaccel.GenerateSettings is GenerateSettings
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        videoaccel.nothing  # noqa: B018


def test_the_share_of_operations_is_told_where_they_were_counted(
    make: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = {"accel": "fora", "accel_options": {"period": 2}, "frames": 5, "steps": 6}
    monkeypatch.setattr(Denoising, "counted", lambda self: self.costs("flops"))
    make("counted.gif", **asked)
    (loop,) = make.record("counted.json")["acceleration"]["loops"]
    assert 0.4 < loop["flops_share"] < 0.9
    monkeypatch.setattr(Denoising, "counted", lambda self: None)
    make("not.gif", **asked)
    assert "flops_share" not in make.record("not.json")["acceleration"]["loops"][0]
