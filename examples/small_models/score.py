"""Score a small model with the oracle: background, colour and shape of generated stills.

    python -m examples.small_models.score --model runs/small/pixart/final --out runs/small/scores

A model that reads sentences is asked for the kinds that training never showed (``--trained``: for the others), with a
motion or (``--still``) without; a class-conditional one for every class. Draws a contact sheet; what is wrong is
listed. ``--features`` adds the Fréchet distance to as many rendered stills of the same kinds, and that of rendered
ones among themselves, which is the floor; it takes many stills (``--repeats 16``) to mean something.
"""

import argparse
import json
from collections import Counter
from pathlib import Path

import numpy as np
import torch
from diffusers import DiffusionPipeline, DiTPipeline
from numpy.typing import NDArray
from PIL import Image

from examples.demo_model.recipe import FRAMES, SIDE
from examples.small_models.features import StillClassifier, frechet_distance
from examples.small_models.pixart import ways
from examples.small_models.recipe import is_held_out, kinds, label, still_scenes
from videoaccel.eval.oracle import Reading, agreement, read
from videoaccel.eval.world import Scene, render

ATTRIBUTES = ("background", "colour", "shape")
SAMPLING = {"DiTPipeline": (50, 4.0), "PixArtAlphaPipeline": (20, 4.5)}  # steps, guidance


def scenes_for(pipe: DiffusionPipeline, *, trained: bool, repeats: int) -> list[Scene]:
    """What to ask for: all kinds of a class-conditional model, else the held-out (or the trained) ones."""
    names = kinds()
    if not isinstance(pipe, DiTPipeline):
        names = [name for name in names if is_held_out(*name) != trained]
    return [scene for seed in range(repeats) for scene in still_scenes(names, seed=seed)]


def generate(
    pipe: DiffusionPipeline, scenes: list[Scene], *, seed: int, steps: int, guidance: float, still: bool = False
) -> NDArray[np.uint8]:
    """Stills [B, H, W, 3] of scenes; with ``still`` no motion is named."""
    options = {"num_inference_steps": steps, "guidance_scale": guidance, "output_type": "np"}
    options["generator"] = torch.Generator().manual_seed(seed)
    if isinstance(pipe, DiTPipeline):
        images = pipe(class_labels=[label(scene) for scene in scenes], **options).images
    else:
        sentences = [ways(scene)[still] for scene in scenes]
        images = pipe(sentences, use_resolution_binning=False, clean_caption=False, **options).images
    return np.round(np.asarray(images) * 255).astype(np.uint8)


def tally(readings: list[Reading], scenes: list[Scene]) -> dict[str, float]:
    """Percent that is right by attribute, and of whole ``still``s."""
    right: Counter[str] = Counter()
    total: Counter[str] = Counter()
    for reading, scene in zip(readings, scenes, strict=True):
        counts = agreement(reading, scene)
        for name in ATTRIBUTES:
            right[name] += counts[name][0]
            total[name] += counts[name][1]
        right["still"] += all(counts[name][0] == counts[name][1] for name in ATTRIBUTES)
        total["still"] += 1
    return {name: round(100 * right[name] / total[name], 1) for name in total}


def mistakes(readings: list[Reading], scenes: list[Scene]) -> list[str]:
    """A line for each still that shows something else than what was asked for."""
    lines = []
    for reading, scene in zip(readings, scenes, strict=True):
        seen = [f"{a.colour.word} {a.shape.word}" for a in reading.actors]
        asked = [f"{a.colour} {a.shape}" for a in scene.actors]
        if seen != asked or reading.background.word != scene.background:
            got = f"{' and '.join(seen)} on {reading.background.word}"
            lines.append(f"{' and '.join(asked)} on {scene.background}: {got}")
    return lines


def sheet(stills: NDArray[np.uint8], *, columns: int = 16) -> Image.Image:
    """Stills [B, H, W, 3] in rows of ``columns``; a last row that is not full is left out."""
    rows = len(stills) // columns
    grid = stills[: rows * columns].reshape(rows, columns, *stills.shape[1:])
    return Image.fromarray(grid.transpose(0, 2, 1, 3, 4).reshape(rows * stills.shape[1], -1, 3))


def rendered(scenes: list[Scene], *, seed: int) -> NDArray[np.uint8]:
    """A frame of each scene, [B, H, W, 3]."""
    rng = np.random.default_rng(seed)
    return np.stack([render(scene, rng=rng, frames=FRAMES, side=SIDE)[int(rng.integers(FRAMES))] for scene in scenes])


@torch.inference_mode()
def distance(network: StillClassifier, one: NDArray[np.uint8], other: NDArray[np.uint8]) -> float:
    """Fréchet distance of two sets of stills [B, H, W, 3]."""
    sets = [torch.from_numpy(x).permute(0, 3, 1, 2).float() / 127.5 - 1 for x in (one, other)]
    return frechet_distance(*(torch.cat([network.features(x) for x in part.split(64)]) for part in sets))


def main() -> None:
    """Parse the command line and score."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=Path("runs/small/scores"))
    parser.add_argument("--repeats", type=int, default=None, help="stills of each kind; default: 1 of a class, else 8")
    parser.add_argument("--guidance", type=float, default=None)
    parser.add_argument("--steps", type=int, default=None)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--features", type=Path, default=None, help="folder of the trained classifier of stills")
    parser.add_argument("--trained", action="store_true")
    parser.add_argument("--still", action="store_true", help="sentences that name no motion")
    parser.add_argument("--device", default="cpu")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    pipe = DiffusionPipeline.from_pretrained(args.model, dtype=torch.float32).to(args.device)
    pipe.set_progress_bar_config(disable=True)
    name = type(pipe).__name__
    repeats = args.repeats or (1 if name == "DiTPipeline" or args.trained else 8)
    steps, guidance = args.steps or SAMPLING[name][0], args.guidance or SAMPLING[name][1]
    scenes = scenes_for(pipe, trained=args.trained, repeats=repeats)
    parts = []
    for start in range(0, len(scenes), args.batch):
        batch = scenes[start : start + args.batch]
        parts.append(generate(pipe, batch, seed=start, steps=steps, guidance=guidance, still=args.still))
    stills = np.concatenate(parts)
    readings = [read(still[None], actors=len(s.actors)) for still, s in zip(stills, scenes, strict=True)]
    record = {"model": name, "steps": steps, "guidance": guidance, "stills": len(stills), "trained": args.trained}
    record["still"] = args.still
    record |= {"percent": tally(readings, scenes), "wrong": mistakes(readings, scenes)}
    if args.features is not None:
        network = StillClassifier.from_pretrained(args.features, dtype=torch.float32)
        real = rendered(scenes, seed=0)
        record["frechet"] = round(distance(network, stills, real), 4)
        record["frechet_floor"] = round(distance(network, rendered(scenes, seed=1), real), 4)
    stem = f"{name}{'_trained' if args.trained else ''}{'_still' if args.still else ''}"
    (args.out / f"{stem}.json").write_text(json.dumps(record, indent=2) + "\n")
    sheet(stills).save(args.out / f"{stem}.png")
    print(json.dumps(record, indent=2))


if __name__ == "__main__":
    main()
