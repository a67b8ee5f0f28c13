"""The small models' recipe: stills, losses against diffusers' schedulers, resuming, folders that diffusers loads."""

import argparse
from collections import Counter
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL, DDIMScheduler, DDPMScheduler, DiffusionPipeline, LCMScheduler
from safetensors.torch import load_file
from torch import nn

from examples.demo_model.recipe import PACKAGED
from examples.small_models import dit, features, frame_vae, pixart, pixart_lcm, recipe, score
from videoaccel.eval.oracle import read
from videoaccel.eval.world import Scene

TINY = {
    dit: dit.CONFIG | {"num_layers": 2, "attention_head_dim": 4},
    pixart: pixart.CONFIG | {"num_layers": 2, "attention_head_dim": 4, "cross_attention_dim": 16},
}


def test_kinds_are_held_out_evenly() -> None:
    names = recipe.kinds()
    held_out = [name for name in names if recipe.is_held_out(*name)]
    assert len(names) == 124 and len(held_out) == 16
    for place, times in ((0, 2), (1, 4), (2, 4)):
        assert set(Counter(name[place] for name in held_out).values()) == {times}
    assert max(Counter((colour, ground) for colour, _, ground in held_out).values()) == 1


def test_stills_show_what_their_scenes_say() -> None:
    scenes, pictures = next(recipe.seeded_stills(3, 40))
    pixels = ((pictures + 1) * 127.5).round().byte().permute(0, 2, 3, 1).numpy()
    readings = [read(still[None], actors=len(scene.actors)) for still, scene in zip(pixels, scenes, strict=True)]
    assert set(score.tally(readings, scenes).values()) == {100.0}
    assert score.mistakes(readings, scenes) == []
    assert score.mistakes(readings[::-1], scenes[:1] * 40) != []
    assert {len(scene.actors) for scene in scenes} == {1, 2}
    assert all(recipe.label(scene) == -1 for scene in scenes if len(scene.actors) == 2)


@pytest.mark.parametrize("t", [1, 400, 999])
def test_variance_bound_is_zero_for_the_true_step_back(t: int) -> None:
    """The right noise and the smallest variance are the posterior, by diffusers' own numbers too."""
    torch.manual_seed(0)
    data, noise, steps = torch.randn(2, 4, 4, 4), torch.randn(2, 4, 4, 4), torch.tensor([t, t])
    smallest = torch.cat([noise, torch.full_like(noise, -1.0)], dim=1)
    assert abs(float(recipe.denoising_loss(smallest, data, noise, steps))) < 1e-5
    largest = torch.cat([noise, torch.full_like(noise, 1.0)], dim=1)
    scheduler = DDPMScheduler(beta_start=recipe.BETA_START, beta_end=recipe.BETA_END, variance_type="learned_range")
    low, high = (scheduler._get_variance(t, predicted_variance=torch.tensor(p)) for p in (-1.0, 1.0))
    expected = 0.5 * (high - low + (low - high).exp() - 1) / np.log(2)  # log variances
    assert float(recipe.denoising_loss(largest, data, noise, steps)) == pytest.approx(float(expected), abs=1e-5)
    x = recipe.noised(data, steps, noise)
    torch.testing.assert_close(x, scheduler.add_noise(data, noise, steps), atol=1e-5, rtol=1e-5)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A frame VAE and a shard of stills."""
    folder = tmp_path_factory.mktemp("small")
    vae = frame_vae.frame_half(stills=16)
    vae.save_pretrained(folder / "vae")
    (folder / "stills").mkdir()
    recipe.encode_stills(vae, folder / "stills" / "0.safetensors", recipe.drawn_stills(1, 24))
    return folder


def arguments(folder: Path, out: str, steps: int) -> argparse.Namespace:
    """Options of a training of a few steps."""
    return argparse.Namespace(
        stills=folder / "stills",
        vae=folder / "vae",
        out=folder / out,
        text=PACKAGED,
        init=None,
        steps=steps,
        batch=4,
        lr=1e-3,
        warmup=1,
        cooldown=1,
        minutes=9.0,
        seconds=None,
        log_steps=50,
        seed=0,
        device="cpu",
        compile=False,
        record=True,
        shards=1,
        wait=9.0,
    )


@pytest.mark.parametrize("model", [dit, pixart], ids=["dit", "pixart"])
def test_interrupted_training_ends_where_it_would_have(folder: Path, model: ModuleType) -> None:
    name = model.__name__.rpartition(".")[2]
    whole, halves = arguments(folder, f"{name}_whole", 4), arguments(folder, f"{name}_halves", 4)
    model.train(whole, TINY[model])
    halves.minutes = -1.0  # stops before the first step, and leaves a checkpoint
    model.train(halves, TINY[model])
    for steps in (2, 4):
        halves.minutes, halves.steps = 9.0, steps
        model.train(halves, TINY[model])
    one, other = (torch.load(args.out / "checkpoint.pt", weights_only=True) for args in (whole, halves))
    assert one["step"] == other["step"] == 4
    assert all(torch.equal(a, b) for a, b in zip(one["weights"], other["weights"], strict=True))
    assert all(torch.equal(a, b) for a, b in zip(one["average"], other["average"], strict=True))
    weights = "transformer/diffusion_pytorch_model.safetensors"
    begun = arguments(folder, f"{name}_from_whole", 0)
    begun.init = whole.out / "final"
    model.train(begun, TINY[model])
    assert (begun.out / "final" / weights).read_bytes() == (whole.out / "final" / weights).read_bytes()
    for path in (whole.out / "final").rglob("*.safetensors"):
        assert {tensor.dtype for tensor in load_file(path).values()} == {torch.float16}
    assert all("_name_or_path" not in path.read_text() for path in (whole.out / "final").glob("*/config.json"))
    pipe = DiffusionPipeline.from_pretrained(whole.out / "final", dtype=torch.float32)
    pipe.set_progress_bar_config(disable=True)
    scenes = score.scenes_for(pipe, trained=False, repeats=1)
    assert len(scenes) == (124 if model is dit else 16)
    if model is dit:
        assert pipe.get_label_ids(["red circle on black", "white star on dark green"]) == [0, 123]
    stills = score.generate(pipe, scenes[:2], seed=0, steps=2, guidance=2.0)
    assert stills.shape == (2, 64, 64, 3) and score.sheet(stills, columns=2).size == (128, 64)


def test_a_still_is_said_in_several_ways() -> None:
    scene = Scene.parse("a red circle orbits and an orange star moves left on a dark blue background")
    assert pixart.ways(scene) == [
        scene.sentence(),
        "a red circle and an orange star on a dark blue background",
        "a red orbits and an orange moves left on a dark blue background",
    ]


def test_losses_reach_every_weight_that_counts(folder: Path) -> None:
    """Both networks move everywhere once their zero-initialised outputs have moved."""
    for model in (dit, pixart):
        torch.manual_seed(0)
        network: nn.Module = model.build(TINY[model])
        for p in network.parameters():
            nn.init.normal_(p, std=0.1)
        x, t = torch.randn(4, 4, 16, 16), torch.tensor([0, 10, 500, 999])
        given = {"class_labels": torch.arange(4)}
        if model is pixart:
            given = {"encoder_hidden_states": torch.randn(4, 20, 128), "added_cond_kwargs": {}}
        noise = torch.randn_like(x)
        out = network(recipe.noised(x, t, noise), timestep=t, **given).sample
        recipe.denoising_loss(out, x, noise, t).backward()
        still = [name for name, p in network.named_parameters() if p.grad is None or not p.grad.any()]
        assert still == []


def test_distillation_steps_and_ends_where_diffusers_schedulers_do() -> None:
    betas = {"beta_start": recipe.BETA_START, "beta_end": recipe.BETA_END, "beta_schedule": "linear"}
    lcm = LCMScheduler(**betas, clip_sample=False)
    lcm.set_timesteps(4)
    ddim = DDIMScheduler(**betas, clip_sample=False)
    ddim.set_timesteps(pixart_lcm.LEVELS)
    torch.manual_seed(0)
    x, eps = torch.randn(2, 4, 4, 4), torch.randn(2, 4, 4, 4)
    for at in lcm.timesteps.tolist():
        t = torch.tensor([at, at])
        torch.testing.assert_close(pixart_lcm.end_of_path(eps, x, t), lcm.step(eps, at, x).denoised)
        before = t - pixart_lcm.SPAN
        torch.testing.assert_close(pixart_lcm.ddim(eps, x, t, before), ddim.step(eps, at, x).prev_sample)
    torch.testing.assert_close(pixart_lcm.end_of_path(eps, x, torch.tensor([0, 0])), x)


def test_distillation_leaves_the_teacher_and_samples_in_four_steps(folder: Path) -> None:
    torch.manual_seed(0)
    teacher = pixart.build(TINY[pixart])
    nn.init.normal_(teacher.proj_out.weight, std=0.1)
    teacher.save_pretrained(folder / "teacher" / "transformer")
    args = arguments(folder, "lcm", 2)
    args.init, args.guidance = folder / "teacher", 3.0
    pixart_lcm.train(args, TINY[pixart])
    pipe = DiffusionPipeline.from_pretrained(args.out / "final", dtype=torch.float32)
    pipe.set_progress_bar_config(disable=True)
    changed = {
        name
        for (name, a), b in zip(teacher.named_parameters(), pipe.transformer.parameters(), strict=True)
        if not torch.equal(a.half(), b.half())
    }
    assert "transformer_blocks.0.attn2.to_q.weight" in changed
    scenes = score.scenes_for(pipe, trained=False, repeats=1)[:2]
    assert isinstance(pipe.scheduler, LCMScheduler)
    assert score.generate(pipe, scenes, seed=0, steps=4, guidance=1.0).shape == (2, 64, 64, 3)


def test_frame_decoder_learns_and_encoder_stays(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(frame_vae, "SCALING_STILLS", 16)
    args = arguments(folder, "vae_training", 3)
    args.vae = folder / "tuned"
    frame_vae.train(args)
    before, after = (AutoencoderKL.from_pretrained(folder / name).half().state_dict() for name in ("vae", "tuned"))
    moved = {name.split(".")[0] for name in before if not torch.equal(before[name], after[name])}
    assert moved == {"decoder", "post_quant_conv"}


def test_frechet_distance_of_known_normal_distributions() -> None:
    """Shifted by (3, 4) it is 25; with deviations 1 and 2 it is 1 per feature; of a set to itself 0."""
    g = torch.Generator().manual_seed(0)
    a = torch.randn(20_000, 2, generator=g, dtype=torch.float64)
    a = (a - a.mean(0)) @ torch.linalg.inv(torch.linalg.cholesky(torch.cov(a.T))).T  # moments as if of infinitely many
    turn = torch.tensor([[0.6, -0.8], [0.8, 0.6]], dtype=torch.float64)
    assert features.frechet_distance(a, a) == pytest.approx(0, abs=1e-9)
    assert features.frechet_distance(a, a @ turn + torch.tensor([3.0, 4.0])) == pytest.approx(25)
    assert features.frechet_distance(2 * a, a) == pytest.approx(2)
    stretched = a * torch.tensor([3.0, 1.0])
    assert features.frechet_distance(stretched @ turn, a) == pytest.approx(4)
    with pytest.raises(ValueError, match="there are 1 and 20000"):
        features.frechet_distance(a[:1], a)


def test_classifier_learns_and_its_features_tell_stills_apart(folder: Path) -> None:
    args = arguments(folder, "features", 30)
    args.batch, args.lr = 16, 3e-3
    features.train(args)
    network = features.StillClassifier.from_pretrained(args.out / "final")
    scenes, x = next(recipe.seeded_stills(5, 64))
    chance = sum(float(np.log(len(words))) for words in features.QUESTIONS)
    with torch.no_grad():
        told = sum(
            torch.nn.functional.cross_entropy(a, t) for a, t in zip(network(x), features.truth(scenes), strict=True)
        )
        same, other = (network.features(y) for y in (x.flip(-1), -x))
        own = network.features(x)
    assert float(told) < chance - 0.2
    assert features.frechet_distance(own, same) < 0.2 * features.frechet_distance(own, other)
