"""Score the demo model with the oracle: VAE reconstruction, and colour, shape and motion of generated clips.

    python -m examples.demo_model.score --out runs/demo/scores

Generates 64 prompts (combinations never trained on, unless ``--trained``; two of them a prompt with ``--pairs``) with
2 seeds each, draws a contact sheet and lists the clips that show something else than what was asked for.
``last_frames`` looks at the last latent frame's pictures alone, whose colours a median over the clip does not see.
"""

import argparse
import json
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torchmetrics import MetricCollection

from examples.demo_model.train_vae import evaluate
from videoaccel.eval.oracle import WorldAccuracy, agreement, read
from videoaccel.eval.world import Scene, held_out_scenes, sample_scene
from videoaccel.generation.pipeline import VideoPipeline
from videoaccel.media.reader import to_uint8

LAST_FRAMES = 4  # pictures of the last latent frame
ATTRIBUTES = ("background", "colour", "shape", "motion", "scene")


def scenes(count: int, *, trained: bool, pairs: bool = False) -> list[Scene]:
    """Fixed prompts of one actor or of pairs: held-out combinations, or combinations of the training set."""
    if pairs:
        rng = np.random.default_rng(54321)
        return [sample_scene(rng, held_out=not trained, pair_share=1.0) for _ in range(count)]
    if not trained:
        return held_out_scenes(count, seed=0)
    rng = np.random.default_rng(12345)
    return [sample_scene(rng, pair_share=0.0) for _ in range(count)]


def generate(pipe: VideoPipeline, sentences: list[str], *, seed: int, guidance: float, steps: int) -> torch.Tensor:
    """Clips uint8 [B, T, H, W, 3] of the default size."""
    request = pipe.request(
        sentences, seed=seed, guidance_scale=guidance, num_inference_steps=steps, num_videos_per_prompt=1
    )
    return torch.cat([torch.from_numpy(to_uint8(chunk)) for chunk in pipe.stream(request)], dim=1)


def sheet(clips: torch.Tensor, *, frames: int = 6) -> Image.Image:
    """Every clip a row of frames, two clips side by side."""
    pick = torch.linspace(0, clips.shape[1] - 1, frames).round().long()
    rows = [torch.cat(list(clip[pick]), dim=1) for clip in clips]
    half = (len(rows) + 1) // 2
    columns = [torch.cat(part, dim=0) for part in (rows[:half], rows[half:] or rows[:half])]
    return Image.fromarray(torch.cat(columns, dim=1).numpy())


def mistakes(clips: torch.Tensor, sentences: list[str]) -> list[str]:
    """A line for each clip of which the oracle reads something else: the sentence, and what is read."""
    lines = []
    for clip, sentence in zip(clips.numpy(), sentences, strict=True):
        asked = Scene.parse(sentence)
        seen = read(clip, actors=len(asked.actors))
        if agreement(seen, asked)["scene"][0] == 0:
            actors = (" ".join(str(answer.word) for answer in actor) for actor in seen.actors)
            lines.append(f"{sentence}: {' and '.join(actors)} on {seen.background.word}")
    return lines


def main() -> None:
    """Parse the command line and score."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="demo")
    parser.add_argument("--out", type=Path, default=Path("runs/demo/scores"))
    parser.add_argument("--prompts", type=int, default=64)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--guidance", type=float, default=None)
    parser.add_argument("--steps", type=int, default=None)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--trained", action="store_true")
    parser.add_argument("--pairs", action="store_true")
    parser.add_argument("--device", default="cpu")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    pipe = VideoPipeline.from_pretrained(args.model).to(args.device)
    guidance = pipe.defaults.guidance if args.guidance is None else args.guidance
    steps = args.steps or pipe.defaults.steps
    sentences = [scene.sentence() for scene in scenes(args.prompts, trained=args.trained, pairs=args.pairs)]
    metrics = MetricCollection({name: WorldAccuracy(name) for name in ATTRIBUTES})
    last = MetricCollection({name: WorldAccuracy(name) for name in ATTRIBUTES[:3]})
    kept, wrong = [], []
    for seed in range(args.seeds):
        for start in range(0, len(sentences), args.batch):
            batch = sentences[start : start + args.batch]
            clips = generate(pipe, batch, seed=seed, guidance=guidance, steps=steps)
            metrics.update(clips, batch)
            last.update(clips[:, -LAST_FRAMES:], batch)
            kept.append(clips)
            wrong += mistakes(clips, batch)
            print(f"seed {seed}: {start + len(batch)}/{len(sentences)}", flush=True)
    percent, last_percent = (
        {name: round(100 * float(value), 1) for name, value in part.compute().items()} for part in (metrics, last)
    )
    record = {"guidance": guidance, "steps": steps, "prompts": len(sentences), "seeds": args.seeds}
    record |= {"held_out": not args.trained, "percent": percent, "vae_psnr_db": round(evaluate(pipe.vae), 2)}
    record |= {"pairs": args.pairs, "last_frames": last_percent, "wrong": wrong}
    name = f"{'trained' if args.trained else 'held_out'}{'_pairs' if args.pairs else ''}_guidance{guidance:g}"
    (args.out / f"{name}.json").write_text(json.dumps(record, indent=2) + "\n")
    sheet(torch.cat(kept)[:32]).save(args.out / f"{name}.png")
    (args.out / f"{name}.txt").write_text("\n".join(sentences) + "\n")
    print(json.dumps(record, indent=2))


if __name__ == "__main__":
    main()
