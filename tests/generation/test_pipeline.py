"""What the pipeline promises around the networks: seeds, batches, guidance, references, loops, outputs, saving."""

import importlib
import json
import logging
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import Field
from torch import Tensor

from tests.tiny_pipeline import tiny_pipeline
from videoaccel.common.versions import at_least
from videoaccel.generation.loading import import_networks
from videoaccel.generation.pipeline import VideoPipeline
from videoaccel.generation.references import (
    References,
    continue_clip,
    edit_clip,
    first_and_last_frame,
    first_frame,
    lead_to_clip,
)
from videoaccel.sampling.ddim import DDIMSchedule
from videoaccel.session.job import Job, Mix, local_mix
from videoaccel.session.policy import Policy, Session

PROMPT = "a red circle"


@pytest.fixture(scope="module")
def pipe() -> VideoPipeline:
    return tiny_pipeline()


def latents(pipe: VideoPipeline, prompt: Any = PROMPT, **options: Any) -> Tensor:
    return pipe(prompt, output_type="latent", **options).frames


def test_a_seed_gives_the_same_clip_in_any_batch(pipe: VideoPipeline) -> None:
    alone = [latents(pipe, prompt, seed=5) for prompt in (PROMPT, "a much longer sentence of words")]
    together = latents(pipe, [PROMPT, "a much longer sentence of words"], seed=5)
    torch.testing.assert_close(together, torch.cat(alone), atol=1e-5, rtol=0)
    assert torch.equal(latents(pipe, seed=5), alone[0]), "the same call gives the same bits"
    assert not torch.allclose(latents(pipe, seed=6), alone[0])


def test_samples_have_consecutive_seeds(pipe: VideoPipeline) -> None:
    several = latents(pipe, [PROMPT, "b"], seed=5, num_videos_per_prompt=2)
    torch.testing.assert_close(several[1:2], latents(pipe, seed=6), atol=1e-5, rtol=0)
    torch.testing.assert_close(several[2:3], latents(pipe, "b", seed=5), atol=1e-5, rtol=0)
    torch.testing.assert_close(latents(pipe, [PROMPT, "b"], seed=[9, 5])[1:], several[2:3], atol=1e-5, rtol=0)


def test_generators_are_used_as_given(pipe: VideoPipeline) -> None:
    assert torch.equal(latents(pipe, generator=torch.Generator().manual_seed(5)), latents(pipe, seed=5))
    pair = latents(pipe, num_videos_per_prompt=2, generator=torch.Generator().manual_seed(5))
    assert not torch.allclose(pair[0], pair[1])
    with pytest.raises(ValueError, match="3 generators for 1 sample; give one"):
        latents(pipe, generator=[torch.Generator() for _ in range(3)])


def test_guidance_one_runs_the_conditional_branch_only(pipe: VideoPipeline) -> None:
    rows: list[int] = []
    hook = pipe.transformer.x_embedder.register_forward_pre_hook(lambda _, args: rows.append(len(args[0])))
    one, four = latents(pipe, guidance_scale=1), latents(pipe, guidance_scale=4)
    hook.remove()
    assert rows == [1, 1, 1, 2, 2, 2]
    assert not torch.allclose(one, four)
    nearly = latents(pipe, guidance_scale=1.0000001)
    torch.testing.assert_close(nearly, one, atol=1e-4, rtol=1e-4)


def test_negative_prompt_takes_the_place_of_the_null_text(pipe: VideoPipeline) -> None:
    plain, negative = latents(pipe), latents(pipe, negative_prompt="blue")
    assert not torch.allclose(plain, negative)
    assert torch.equal(latents(pipe, negative_prompt="  BLUE! "), latents(pipe, negative_prompt="blue!")), "cleaned"
    same = latents(pipe, negative_prompt=PROMPT)
    torch.testing.assert_close(same, latents(pipe, guidance_scale=1), atol=1e-4, rtol=1e-4)


def test_outputs_agree(pipe: VideoPipeline) -> None:
    array, tensor = pipe(PROMPT, output_type="np").frames, pipe(PROMPT, output_type="pt").frames
    assert array.shape == (1, 17, 32, 32, 3) and tensor.shape == (1, 17, 3, 32, 32)
    assert array.min() >= 0 and array.max() <= 1
    np.testing.assert_array_equal(array, tensor.permute(0, 1, 3, 4, 2).numpy())
    images = pipe(PROMPT).frames
    assert len(images) == 1 and len(images[0]) == 17
    assert np.abs(np.asarray(images[0][3]) / 255 - array[0, 3]).max() <= 0.5 / 255 + 1e-6
    (frames,) = pipe(PROMPT, output_type="np", return_dict=False)
    np.testing.assert_array_equal(frames, array)


def test_one_frame_is_an_image(pipe: VideoPipeline) -> None:
    assert pipe(PROMPT, num_frames=1, output_type="np").frames.shape == (1, 1, 32, 32, 3)


def image(value: float = 0.5, frames: int = 1) -> Tensor:
    return torch.linspace(-1, value, 32).expand(3, frames, 32, 32).clone()


@torch.no_grad()
def encoded(pipe: VideoPipeline, clip: Tensor) -> Tensor:
    """Latents of a clip; the pipeline itself runs in inference mode, a bare network would keep a graph."""
    return pipe.vae.encode(clip[None])


def test_a_given_frame_stays(pipe: VideoPipeline) -> None:
    """Without sampling noise in it: the first latent of the result is the encoded image's."""
    made = latents(pipe, references=first_frame(image()), seed=3)
    free = latents(pipe, seed=3)
    mode = encoded(pipe, image())[0]
    spread = (made[0, :, :1] - mode).abs().mean()
    assert spread < (free[0, :, :1] - mode).abs().mean()
    assert not torch.allclose(made[:, :, 1:], free[:, :, 1:])
    again = latents(pipe, [PROMPT, "b"], references=[first_frame(image()), References()], seed=3)
    torch.testing.assert_close(again[:1], made, atol=1e-5, rtol=0)
    torch.testing.assert_close(again[1:], latents(pipe, "b", seed=3), atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    "references, given",
    [
        (first_and_last_frame(image(), image(1.0), align=None, chunk=17), [0, 4]),
        (continue_clip(image(frames=20), latents=2), [0, 1]),
        (lead_to_clip(image(frames=20), latents=2, align=None, chunk=17), [3, 4]),
        (edit_clip(image(frames=17), frames=17, edit=0.0), [0, 1, 2, 3, 4]),
    ],
)
def test_references_stand_where_they_should(pipe: VideoPipeline, references: References, given: list[int]) -> None:
    """Given latents are what the loop started from, untouched; the others moved."""
    seen: list[Tensor] = []

    def record(pipe: VideoPipeline, i: int, t: Tensor, values: dict[str, Tensor]) -> dict[str, Tensor]:
        seen.append(values["latents"].clone())
        return {}

    final = latents(pipe, references=references, callback_on_step_end=record)
    moved = [(final[:, :, frame] - seen[0][:, :, frame]).abs().max() > 0 for frame in range(5)]
    assert [frame for frame in range(5) if not moved[frame]] == given


def test_an_edit_is_between_keeping_and_ignoring(pipe: VideoPipeline) -> None:
    clip = image(frames=17)
    target = encoded(pipe, clip)
    distances = []
    for edit in (0.0, 0.3, 1.0):
        made = latents(pipe, references=edit_clip(clip, frames=17, edit=edit), num_inference_steps=8)
        distances.append(float((made - target).abs().mean()))
    assert distances[0] < distances[1] < distances[2]


def test_loops_go_on_from_the_frames_before(pipe: VideoPipeline) -> None:
    chunks = list(pipe.stream(pipe.request("|0|a red circle|1|a blue circle", loops=3, num_frames=20)))
    assert sum(chunk.shape[2] for chunk in chunks) == 20 + 19 + 19
    once = list(pipe.stream(pipe.request("a red circle", num_frames=20)))
    assert torch.equal(torch.cat(chunks, 2)[:, :, :20], torch.cat(once, 2))
    with pytest.raises(ValueError, match="latents can be had of one loop, not of 3"):
        latents(pipe, loops=3)


def test_step_callback_may_change_latents(pipe: VideoPipeline) -> None:
    out = latents(pipe, callback_on_step_end=lambda pipe, i, t, values: {"latents": values["latents"] * 0})
    assert out.abs().max() == 0


def test_given_initial_latents(pipe: VideoPipeline) -> None:
    z = torch.randn(1, 4, 5, 16, 16)
    assert torch.equal(latents(pipe, latents=z, seed=1), latents(pipe, latents=z, seed=2))
    with pytest.raises(ValueError, match=r"latents must have shape \[1, 4, 5, 16, 16\], got \[1, 4, 5, 8, 8\]"):
        latents(pipe, latents=z[..., :8, :8])


class SkipSteps(Session):
    """Serves every second step with the velocity of the one before."""

    def predict(self, i: int, x: Tensor, call: Any) -> Any:
        if i % 2 == 0:
            self.last = call()
        return self.last


class SkipStepsPolicy(Policy):
    """The policy of the session above; `off` computes every step."""

    off: bool
    jobs: list[Any] = Field(default_factory=list)

    def session(self, job: Job, *, mix: Mix = local_mix) -> Session:
        self.jobs.append(job)
        return Session(job, mix=mix) if self.off else SkipSteps(job, mix=mix)


def test_a_policy_guides_the_loop_and_off_is_bit_identical(pipe: VideoPipeline) -> None:
    exact = latents(pipe, num_inference_steps=4)
    off, skip = SkipStepsPolicy(off=True), SkipStepsPolicy(off=False)
    assert torch.equal(latents(pipe, num_inference_steps=4, policy=off), exact)
    assert not torch.allclose(latents(pipe, num_inference_steps=4, policy=skip), exact)
    (job,) = off.jobs
    assert job.steps == 4 and job.sigmas.shape == (1, 5) and job.places == 64 and job.branches == ("cond", "uncond")
    latents(pipe, policy=off, references=first_frame(image()))
    assert off.jobs[-1].x_mask.shape == (3, 1, 5)
    assert off.jobs[-1].x_mask[:, 0, 0].sum() == 0 and off.jobs[-1].x_mask[:, 0, 1:].all()


def test_folders_saved_before_schedules_moved_still_name_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What an earlier version saved names a schedule by its old module, and so does the demo model."""
    monkeypatch.delitem(sys.modules, "videoaccel.ddim", raising=False)
    index = {"_class_name": "VideoPipeline", "scheduler": ["videoaccel.ddim", "DDIMSchedule"]}
    (tmp_path / "model_index.json").write_text(json.dumps(index))
    import_networks(tmp_path)
    assert importlib.import_module("videoaccel.ddim").DDIMSchedule is DDIMSchedule


def test_a_fresh_process_loads_the_demo() -> None:
    """diffusers loads classes of imported modules only, and nothing else here imports the networks first."""
    code = "from videoaccel import VideoPipeline as P; print(type(P.from_pretrained('demo').transformer))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "STDiT3" in done.stdout, done.stderr[-500:]


def test_saving_and_loading_is_exact(pipe: VideoPipeline, tmp_path: Path) -> None:
    pipe.save_pretrained(tmp_path)
    loaded = VideoPipeline.from_pretrained(tmp_path)
    loaded.set_progress_bar_config(disable=True)
    assert torch.equal(latents(loaded), latents(pipe))
    assert loaded.defaults == pipe.defaults
    half = VideoPipeline.from_pretrained(tmp_path, dtype=torch.bfloat16)
    assert half.transformer.dtype == torch.bfloat16 and half.vae.dtype == torch.bfloat16
    without = VideoPipeline.from_pretrained(tmp_path, text_encoder=None, tokenizer=None)
    with pytest.raises(ValueError, match="without a text encoder"):
        without(PROMPT)
    states = pipe.encode_prompt([PROMPT])
    without.set_progress_bar_config(disable=True)
    assert torch.equal(without(prompt_states=[states], output_type="latent").frames, latents(pipe))


@pytest.mark.parametrize(
    "options, message",
    [
        ({"height": 1}, "height must be at least 2 pixels, got 1"),
        ({"num_frames": 0}, "num_frames must be at least 1, got 0"),
        ({"height": 32.0}, r"height must be a whole number, got 32\.0"),
        ({"num_inference_steps": 0}, "num_inference_steps must be at least 1, got 0"),
        ({"num_inference_steps": 2.5}, r"num_inference_steps must be a whole number, got 2\.5"),
        ({"num_videos_per_prompt": 0}, "num_videos_per_prompt must be at least 1, got 0"),
        ({"loops": "2"}, "loops must be a whole number, got '2'"),
        ({"guidance_scale": float("nan")}, "guidance_scale must be a finite number"),
        ({"guidance_scale": "a"}, "guidance_scale must be a number, got 'a'"),
        ({"guidance_scale": True}, "guidance_scale must be a number, got True"),
        ({"negative_prompt": ["b"]}, r"a prompt must be a text, got \['b'\]"),
        ({"negative_prompt": " "}, "the negative prompt is empty: ' '; leave it out for the null text"),
        ({"prompt_states": []}, r"prompt_states must be a list with the PromptStates of each loop, got \[\]"),
        ({"seed": -1}, "a seed must be between 0 and"),
        ({"seed": 1.5}, r"a seed must be a whole number, got 1\.5"),
        ({"seed": "7"}, "a seed must be a whole number, got '7'"),
        ({"seed": 0, "generator": torch.Generator()}, "give a seed or a generator, not both; got seed 0"),
        ({"generator": 5}, "generator must be a torch.Generator, or a list with one for each sample, got 5"),
        ({"seed": [1, 2]}, "2 seeds for 1 prompt with 1 sample each"),
        ({"output_type": "gif"}, "output_type must be one of pil, np, pt, latent, got 'gif'"),
        ({"attention_backend": "magic"}, "unknown attention backend 'magic'"),
        ({"references": [References(), References()]}, "2 references for 1 prompt; give one"),
        ({"references": References(strategy="0,7")}, "no reference 7"),
        ({"references": "x.png"}, r"references must be a References .*, got 'x\.png'; first_frame\(read_clip\(path, "),
        ({"references": ["x.png"]}, "references must be a References or a list with one for each prompt, got 'x"),
        ({"references": image()}, r"references must be a References .*, got Tensor torch\.float32 \[3, 1, 32, 32\]"),
        (
            {"references": first_frame(torch.zeros(3, 1, 48, 20))},
            r"a reference is 48x20 pixels \(height x width\), the video 32x32; read_clip\(path, height=32, width=32\)",
        ),
        ({"condition_edit": 2.0}, "condition_edit must be between 0 and 1"),
    ],
)
def test_bad_arguments_are_named(pipe: VideoPipeline, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        pipe(PROMPT, **options)


@pytest.mark.parametrize("clip", ["x.png", image()[:, 0], image().to(torch.uint8), np.zeros((3, 1, 32, 32))])
def test_a_reference_is_a_clip_in_floats(clip: Any) -> None:
    with pytest.raises(ValueError, match=r"a reference must be a float tensor \[3, T, H, W\] in \[-1, 1\], got"):
        first_frame(clip)


def test_a_reference_may_differ_by_less_than_a_latent_place(pipe: VideoPipeline) -> None:
    """A clip of 33x32 has the latents of 32x32: what a model made of an odd size can be given back to it."""
    wide = torch.cat((image(), image()[:, :, :1]), dim=2)
    assert torch.isfinite(latents(pipe, references=first_frame(wide))).all()


def test_numpy_numbers_are_numbers(pipe: VideoPipeline) -> None:
    made = latents(pipe, seed=np.int64(5), num_inference_steps=np.int32(2), guidance_scale=np.float32(4))
    assert torch.equal(made, latents(pipe, seed=5, num_inference_steps=2, guidance_scale=4))


@pytest.mark.parametrize("prompt", ["", "   ", [], ["a", ""]])
def test_empty_prompts_are_refused(pipe: VideoPipeline, prompt: Any) -> None:
    with pytest.raises(ValueError, match=r"empty|no prompt"):
        pipe(prompt)


@pytest.mark.parametrize("prompt", [5, ["a", 5]])
def test_prompts_are_texts(pipe: VideoPipeline, prompt: Any) -> None:
    with pytest.raises(ValueError, match="a prompt must be a text, got 5"):
        pipe(prompt)


def test_one_prompt_can_be_encoded_without_a_list(pipe: VideoPipeline) -> None:
    assert torch.equal(pipe.encode_prompt(PROMPT).states, pipe.encode_prompt([PROMPT]).states)


@pytest.mark.skipif(not at_least("diffusers", "0.39"), reason="diffusers says nothing of it before 0.39")
def test_a_cast_says_only_what_matters(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    pipe, before = tiny_pipeline(), list(logging.getLogger("diffusers.models.modeling_utils").filters)
    monkeypatch.setattr(logging.getLogger("diffusers"), "propagate", True)
    caplog.set_level(logging.WARNING, logger="diffusers")  # a command line run before may have turned it down
    pipe.to(torch.bfloat16)
    pipe.transformer.to(torch.bfloat16)
    assert pipe.transformer.dtype == pipe.vae.dtype == pipe.text_encoder.dtype == torch.bfloat16
    pipe.to("cpu", torch.float16)
    assert caplog.messages == [], "our networks run in float16 on a CPU, which diffusers denies"
    assert logging.getLogger("diffusers.models.modeling_utils").filters == before
    monkeypatch.setattr(pipe.transformer, "_keep_in_fp32_modules", ["t_embedder"])
    pipe.to(torch.float32)
    assert "There are modules in STDiT3 that should be kept in float32: ['t_embedder']" in caplog.text


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_a_missing_gpu_is_said(pipe: VideoPipeline) -> None:
    """The sentence is the command line's; torch's own are of builds and drivers."""
    missing = r"device '{}' was asked for, but torch .* finds no CUDA devices here; use `device=cpu`, or see"
    for device in ("cuda", "cuda:1"):
        with pytest.raises(ValueError, match=missing.format(device)):
            pipe.to(device)
    with pytest.raises(ValueError, match=missing.format("cuda")):
        pipe.to(device=torch.device("cuda"), dtype=torch.bfloat16)
    with pytest.raises(ValueError, match=r"needs a CUDA device, but torch .* finds none here; leave it out"):
        pipe.enable_model_cpu_offload()
    with pytest.raises(ValueError, match=missing.format("cuda")):
        pipe.enable_model_cpu_offload(device="cuda")


def test_devices_that_cannot_be(pipe: VideoPipeline) -> None:
    with pytest.raises(ValueError, match="unknown device 'gpu'; there are cpu, cuda, cuda:N and mps"):
        pipe.to("gpu")
    with pytest.raises(ValueError, match="offloading keeps a GPU's memory free and needs a CUDA device, got 'cpu'"):
        pipe.enable_model_cpu_offload(device="cpu")
    assert pipe.to("cpu").device.type == "cpu" and pipe.transformer.dtype == torch.float32


def test_unknown_model_lists_what_there_is() -> None:
    with pytest.raises(
        ValueError, match=r"no model or folder is called 'nothing'; there are demo, dit-xl-2-256, dit-xl-2-512, latte-1"
    ):
        VideoPipeline.from_pretrained("nothing")
