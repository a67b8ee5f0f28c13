"""Render clips and encode them with the trained VAE, so that training the transformer reads latents from disk.

    python -m examples.demo_model.encode_clips --vae runs/demo/vae/final --out runs/demo/latents

Writes shards ``N.safetensors`` of 512 latents with their sentences; an existing shard is kept, so it resumes.
"""

import argparse
import json
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file

from examples.demo_model.recipe import in_order, seeded_scenes
from videoaccel.models.video_vae import VideoAutoencoder

SHARD, BATCH = 512, 16


def drawn_clips(seed: int, hard: float, count: int) -> tuple[list[str], np.ndarray]:
    """The sentences and clips, uint8 [count, FRAMES, SIDE, SIDE, 3], of a shard, a share of them ``hard``."""
    sentences, parts = [], []
    for scenes, clips in islice(seeded_scenes(seed, BATCH, hard=hard), count // BATCH):
        sentences += [scene.sentence() for scene in scenes]
        parts.append(clips)
    return sentences, np.concatenate(parts)


@torch.inference_mode()
def encode_shard(
    vae: VideoAutoencoder, path: Path, drawn: tuple[list[str], np.ndarray], *, batch: int = BATCH, device: str = "cpu"
) -> None:
    """Encode drawn clips to float16 latents [count, 8, 5, 16, 16]."""
    sentences, clips = drawn
    latents = []
    for part in torch.from_numpy(clips).split(batch):
        x = part.to(device).permute(0, 4, 1, 2, 3).float() / 127.5 - 1
        with torch.autocast(device, torch.bfloat16):
            latents.append(vae.encode(x).half().cpu())
    partial = path.with_suffix(".tmp")
    save_file({"latents": torch.cat(latents).contiguous()}, partial, metadata={"sentences": json.dumps(sentences)})
    partial.replace(path)


def main() -> None:
    """Parse the command line and encode."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--vae", type=Path, default=Path("runs/demo/vae/final"))
    parser.add_argument("--out", type=Path, default=Path("runs/demo/latents"))
    parser.add_argument("--shards", type=int, default=40)
    parser.add_argument("--size", type=int, default=SHARD, help=f"clips of a shard, a multiple of {BATCH}")
    parser.add_argument("--hard", type=float, default=0.0, help="share of scenes that are often got wrong")
    parser.add_argument("--batch", type=int, default=BATCH, help="clips encoded at a time")
    parser.add_argument("--workers", type=int, default=1, help="programs that draw clips")
    parser.add_argument("--device", default="cpu")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    vae = VideoAutoencoder.from_pretrained(args.vae).to(args.device)
    if args.device != "cpu":
        vae.register_to_config(micro_batch_size=None)  # four frames at a time leave a GPU waiting for its host
    missing = [n for n in range(args.shards) if not (args.out / f"{n}.safetensors").exists()]
    drawing = in_order(drawn_clips, [(1000 + shard, args.hard, args.size) for shard in missing], workers=args.workers)
    for shard, drawn in zip(missing, drawing, strict=True):
        encode_shard(vae, args.out / f"{shard}.safetensors", drawn, batch=args.batch, device=args.device)
        print(f"{shard + 1}/{args.shards} shards", flush=True)


if __name__ == "__main__":
    main()
