"""The demo recipe's parts: words, data, losses that fall, checkpoints that resume, folders that load."""

import argparse
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from examples.demo_model import build, score, train_text, train_transformer, train_vae
from examples.demo_model.recipe import FRAMES, SIDE, TRANSFORMER_CONFIG, VAE_CONFIG, hard_scene, seeded_scenes
from examples.demo_model.text import MAX_LENGTH, TOKENS, FrozenText, build_text_encoder, build_tokenizer
from examples.small_models.recipe import is_held_out as still_held_out
from videoaccel.eval.oracle import WorldAccuracy
from videoaccel.eval.world import BACKGROUNDS, COLOURS, MOTIONS, SHAPES, Actor, Scene, is_held_out, render, sample_scene
from videoaccel.models.stdit import PatchEmbedding, STDiT3
from videoaccel.models.video_vae import VideoAutoencoder
from videoaccel.sampling.rectified_flow import timesteps

TINY = TRANSFORMER_CONFIG | {"hidden_size": 64, "depth": 2}  # bfloat16 is slow on CPUs that do not have it


def tiny_vae() -> VideoAutoencoder:
    """The recipe's VAE with a quarter of its channels and the same strides."""
    torch.manual_seed(0)
    spatial = VAE_CONFIG["vae_2d"] | {"block_out_channels": (4, 8, 16)}
    return VideoAutoencoder(
        **VAE_CONFIG | {"vae_2d": spatial, "vae_temporal": VAE_CONFIG["vae_temporal"] | {"filters": 8}}
    )


def test_every_word_of_the_world_is_one_token() -> None:
    words = build_tokenizer()
    for colour in COLOURS:
        for shape in SHAPES:
            for motion in MOTIONS:
                sentence = Scene(
                    (Actor(colour, shape, motion),), "dark blue" if colour != "blue" else "black"
                ).sentence()
                ids = words(sentence).input_ids
                assert len(ids) == len(sentence.split()) + 1 and ids[-1] == 1 and words.unk_token_id not in ids
    longest = max(len(words(sample_scene(np.random.default_rng(k)).sentence()).input_ids) for k in range(300))
    assert longest <= TOKENS <= MAX_LENGTH
    assert words.unk_token_id not in words("a quick brown fox, 12 times!").input_ids


def test_what_a_sentence_says_is_asked_of_every_word_of_its_phrase() -> None:
    circle = train_text.actor_phrase(Actor("blue", "circle", "moves left"), "first", still=False, blank=False)
    star = train_text.actor_phrase(Actor("orange", "star", "orbits"), "second", still=False, blank=False)
    sentence, answers = train_text.sentence_and_answers([circle, star, train_text.ground_phrase("dark", "green")])
    assert sentence == "a blue circle moves left and an orange star orbits on a dark green background"
    asked = {
        word: [known[at] if at >= 0 else None for known, at in zip(train_text.QUESTIONS.values(), row, strict=True)]
        for word, row in zip(sentence.split(), answers.tolist(), strict=False)
    }
    assert asked["blue"] == asked["circle"] == asked["left"] == ["first", "blue", None, "circle", "moves left"]
    assert asked["an"] == asked["orbits"] == ["second", "orange", None, "star", "orbits"]
    assert asked["on"] == asked["dark"] == asked["background"] == ["background", "green", "dark", None, None]
    assert asked["and"] == [None] * 5 and (answers[len(sentence.split()) :] == train_text.UNSAID).all()
    assert train_text.actor_phrase(Actor("red", "star", "grows"), "first", still=True, blank=True).words == ["a", "red"]


def test_held_out_combinations_are_not_read_either() -> None:
    rng = np.random.default_rng(0)
    for _ in range(300):
        actors, shade, hue = train_text.draw_actors(rng)
        ground = f"{shade} {hue}".strip()
        assert not any(map(is_held_out, actors)) and ground not in [actor.colour for actor in actors]
        assert ground not in BACKGROUNDS or not any(still_held_out(a.colour, a.shape, ground) for a in actors)


def test_reading_is_learnt(tmp_path: Path) -> None:
    """Sixty steps are enough for some of it; where a word stands is learnt, which a bag of words cannot tell."""
    defaults = {"steps": 60, "batch": 32, "lr": 1e-2, "warmup": 10, "cooldown": 10}
    words = ["--out", str(tmp_path), "--sentences", "400"]
    right = train_text.train(train_text.options([*words, *(f"--{k}={v}" for k, v in defaults.items())]))
    assert right["shade"] > 0.9 and right["colour"] > 0.5
    text = FrozenText(tmp_path / "final", "cpu")
    assert text.read(["a red star"])[0].shape == (1, TOKENS, 128)


def test_the_small_models_text_encoder_tells_whose_colour_a_word_is() -> None:
    """Two sentences of the same words mean different stills; a T5 whose attention is saturated makes them one."""
    text = FrozenText(Path("examples/small_models/pixart"), "cpu")
    grounds = ["a blue circle orbits on a dark green background", "a green circle orbits on a dark blue background"]
    one, other = text.read(grounds)[0].float()
    assert float((one[1] - other[7]).norm() / one[1].norm()) > 0.3  # "blue" of the circle and of the background
    assert float((one[2] - other[2]).norm() / one[2].norm()) > 0.3  # "circle"


def test_training_and_sampling_shift_timesteps_alike() -> None:
    """Uniform numbers through the training shift are the sampler's schedule for the demo's size."""
    schedule = timesteps(10, SIDE, SIDE, FRAMES, base_size=SIDE)[:, 0] / 1000
    u = torch.arange(10, 0, -1) / 10
    ratio = 5**0.5
    torch.testing.assert_close(ratio * u / (1 + (ratio - 1) * u), schedule, atol=1e-6, rtol=0)
    drawn = train_transformer.sample_timesteps(4000, 5, torch.Generator().manual_seed(0)) / 1000
    back = drawn / (ratio - (ratio - 1) * drawn)
    assert abs(float(back.mean()) - 0.5) < 0.01 and float(back.min()) > 0 and float(back.max()) <= 1


def test_given_frames_are_at_the_ends() -> None:
    mask = train_transformer.frame_mask(4000, 5, torch.Generator().manual_seed(0))
    share = float((~mask).any(1).float().mean())
    assert abs(share - train_transformer.GIVEN_SHARE) < 0.03
    assert mask[:, 2:4].all() and mask.any(1).all()
    assert train_transformer.frame_mask(9, 1, torch.Generator()).all()


def test_hard_scenes_are_hard_and_never_held_out() -> None:
    rng = np.random.default_rng(0)
    scenes = [hard_scene(rng) for _ in range(600)]
    assert not any(is_held_out(actor) for scene in scenes for actor in scene.actors)
    grounds = {word for name in BACKGROUNDS for word in name.split()} - {"black"}
    swappable = [s.background != "black" and s.actors[0].colour in grounds for s in scenes]
    assert 0.3 < np.mean(swappable) < 0.6
    assert np.mean([any(actor.motion == "orbits" for actor in scene.actors) for scene in scenes]) > 0.3
    assert 0.5 < np.mean([len(scene.actors) == 2 for scene in scenes]) < 0.65
    plain, mixed = (next(seeded_scenes(0, 64, hard=hard))[0] for hard in (0.0, 0.5))
    orbits = [sum(scene.actors[0].motion == "orbits" for scene in part) for part in (plain, mixed)]
    assert orbits[0] < orbits[1] < 40


@pytest.mark.parametrize("stage", train_vae.STAGES)
def test_vae_stages_learn(stage: str) -> None:
    vae = tiny_vae()
    video = next(train_vae.batches(0, clips=stage != "frames", count=1))
    assert video.shape[2:] == (1 if stage == "frames" else FRAMES, SIDE, SIDE)
    video = video[..., 16:48, 16:48]
    optimizer = torch.optim.Adam(vae.parameters(), lr=2e-3)
    losses = []
    for _ in range(6):
        loss, _ = train_vae.stage_loss(vae, video, stage)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    moved = {name.split(".")[0] for name, p in vae.named_parameters() if optimizer.state.get(p)}
    assert moved == {"frames": {"spatial_vae"}, "latents": {"temporal_vae"}}.get(stage, {"spatial_vae", "temporal_vae"})
    encoders = [p for name, p in vae.named_parameters() if "encoder" in name or ".quant_conv" in name]
    assert all(p not in optimizer.state for p in encoders) == (stage == "decoder")


def test_shapes_may_weigh_more_than_their_stage_has_it() -> None:
    vae, video = tiny_vae(), next(train_vae.batches(0, clips=True, count=1, hard=1.0))
    losses = []
    for weight in (None, 1.0, 3.0):
        torch.manual_seed(0)
        losses.append(float(train_vae.stage_loss(vae, video, "decoder", weight)[0]))
    assert losses[0] == losses[1] < losses[2]


def test_latent_scale_normalises() -> None:
    vae = tiny_vae().eval()
    train_vae.fit_latent_scale(vae, clips=16)
    z = vae.encode(next(train_vae.batches(7, clips=True, count=16)))
    torch.testing.assert_close(z.mean((0, 2, 3, 4)), torch.zeros(8), atol=1e-3, rtol=0)
    torch.testing.assert_close(z.std((0, 2, 3, 4)), torch.ones(8), atol=1e-3, rtol=0)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, argparse.Namespace]:
    """A few steps of the transformer's training, stopped and resumed."""
    folder = tmp_path_factory.mktemp("demo")
    (folder / "latents").mkdir()
    scenes, _ = next(seeded_scenes(0, 8))
    sentences = json.dumps([scene.sentence() for scene in scenes])
    save_file(
        {"latents": torch.randn(8, 8, 5, 16, 16).half()}, folder / "latents" / "0.safetensors", {"sentences": sentences}
    )
    args = argparse.Namespace(
        latents=folder / "latents",
        out=folder / "out",
        steps=2,
        cooldown=1,
        warmup=200,
        last_weight=1.0,
        minutes=9.0,
        seconds=None,
        log_steps=50,
        device="cpu",
        record=True,
        shards=None,
        wait=0.0,
        batch=2,
        lr=1e-3,
        seed=0,
        compile=False,
        init=None,
        text=Path("demo"),
    )
    train_transformer.train(args, TINY)
    return folder, args


def test_training_resumes_where_it_stopped_and_ends_where_it_would_have(
    trained: tuple[Path, argparse.Namespace],
) -> None:
    """Two steps and one more, against three, on a rate that does not depend on the end."""
    folder, args = trained
    before = torch.load(args.out / "checkpoint.pt", weights_only=True)
    trainer = train_transformer.Network(args, TINY)
    fresh = [p.clone() for p in trainer.parameters]
    trainer.resume()
    assert trainer.step == before["step"] == 2
    assert all(torch.equal(a, b) for a, b in zip(trainer.parameters, before["weights"], strict=True))
    assert any(not torch.equal(a, b) for a, b in zip(trainer.parameters, fresh, strict=True))
    shutil.copytree(args.out, folder / "halves")
    for name in ("whole", "halves"):
        train_transformer.train(argparse.Namespace(**{**vars(args), "out": folder / name, "steps": 3}), TINY)
    whole, halves = (torch.load(folder / name / "checkpoint.pt", weights_only=True) for name in ("whole", "halves"))
    assert whole["step"] == halves["step"] == 3
    for part in ("weights", "average"):
        assert all(torch.equal(a, b) for a, b in zip(whole[part], halves[part], strict=True))


def test_last_latent_frame_may_weigh_more(trained: tuple[Path, argparse.Namespace]) -> None:
    """A network that says nothing errs by the noise's variance, and on a last frame of tens by a hundred more."""
    _, args = trained
    clips = torch.zeros(8, 8, 5, 16, 16)
    clips[:, :, -1] = 10.0
    noise = torch.randn(clips.shape, generator=torch.Generator().manual_seed(2))
    states, mask = torch.zeros(8, TOKENS, 128), torch.ones(8, TOKENS, dtype=torch.long)
    denoised = torch.ones(8, 5, dtype=torch.bool)
    for weight in (1.0, 3.0):
        trainer = train_transformer.Network(argparse.Namespace(**{**vars(args), "last_weight": weight}), TINY)
        trainer.compiled = lambda x, *_, **__: torch.cat([x, x], 1) * 0
        loss = trainer.flow_loss(clips, states, mask, denoised[:, 0], torch.full((8,), 500.0), denoised, noise)
        assert float(loss) == pytest.approx((4 + weight * 101) / (4 + weight), rel=0.02)


def test_the_compiler_is_kept_out_of_the_embedder() -> None:
    embedder, x, graphs = PatchEmbedding(2, 8, (1, 2, 2)), torch.randn(1, 2, 3, 4, 6), list[str]()

    def backend(graph: torch.fx.GraphModule, inputs: list[torch.Tensor]) -> Any:
        graphs.append(graph.code)
        return graph.forward

    wanted = embedder(x)
    train_transformer.keep_apart(embedder)
    out = torch.compile(lambda x: embedder(x) + 1, backend=backend)(x)
    assert torch.equal(out, wanted + 1) and embedder(x).is_contiguous() and not wanted.is_contiguous()
    assert graphs and not any("conv" in code for code in graphs)


def test_training_may_start_from_weights(trained: tuple[Path, argparse.Namespace]) -> None:
    folder, args = trained
    again = argparse.Namespace(**{**vars(args), "init": args.out / "final", "out": folder / "other"})
    trainer = train_transformer.Network(again, TINY)
    start = dict(zip(trainer.names, trainer.parameters, strict=True))
    weights = STDiT3.from_pretrained(args.out / "final" / "transformer").state_dict()
    assert torch.equal(start["final_layer.linear.weight"], weights["final_layer.linear.weight"])
    trainer = train_transformer.Network(argparse.Namespace(**{**vars(again), "init": Path("demo")}))
    start = dict(zip(trainer.names, trainer.parameters, strict=True))
    shipped = STDiT3.from_pretrained(build.PACKAGED / "transformer").float().state_dict()
    assert all(torch.equal(start[name], weight) for name, weight in shipped.items() if "blocks" in name)


def test_scores_look_at_pairs_and_at_the_last_frames_alone() -> None:
    scenes = score.scenes(12, trained=False, pairs=True)
    assert all(len(scene.actors) == 2 and all(map(is_held_out, scene.actors)) for scene in scenes)
    assert scenes == score.scenes(24, trained=False, pairs=True)[:12]
    rng = np.random.default_rng(0)
    clips = torch.from_numpy(np.stack([render(scene, rng=rng) for scene in scenes]))
    sentences = [scene.sentence() for scene in scenes]
    assert score.mistakes(clips, sentences) == []
    wrong = score.mistakes(clips[:1], sentences[1:2])
    assert len(wrong) == 1 and wrong[0].startswith(f"{sentences[1]}: {scenes[0].actors[0].colour} ")
    for name in ("background", "colour", "shape"):
        last = WorldAccuracy(name)
        last.update(clips[:, -score.LAST_FRAMES :], sentences)
        assert float(last.compute()) == 1.0


def test_trained_parts_become_a_pipeline(trained: tuple[Path, argparse.Namespace]) -> None:
    folder, args = trained
    tiny_vae().save_pretrained(folder / "vae")
    pipe = build.assemble(folder / "vae", args.out / "final")
    pipe.set_progress_bar_config(disable=True)
    frames = pipe("a red circle moves left on a black background", num_inference_steps=1, output_type="np").frames
    assert frames.shape == (1, FRAMES, SIDE, SIDE, 3)
    weights = STDiT3.from_pretrained(args.out / "final" / "transformer").state_dict()
    assert TINY["hidden_size"] == weights["final_layer.linear.weight"].shape[1]
    words = pipe.tokenizer
    assert len(words) == build_text_encoder(words).config.vocab_size
