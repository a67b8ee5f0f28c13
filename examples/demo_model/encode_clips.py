"""Render clips and encode them with the trained VAE, so that training the transformer reads latents from disk.

    python -m examples.demo_model.encode_clips --vae runs/demo/vae/final --out runs/demo/latents

Writes shards ``N.safetensors`` of 512 latents with their sentences; an existing shard is kept, so it resumes.
"""

import argparse
import json
from pathlib import Path

import torch
from safetensors.torch import save_file

from examples.demo_model.recipe import seeded_scenes
from videoaccel.models.video_vae import VideoAutoencoder

SHARD, BATCH = 512, 16


@torch.inference_mode()
def encode_shard(vae: VideoAutoencoder, path: Path, seed: int, *, hard: float, device: str) -> None:
    """Encode SHARD clips of this seed, a share of them ``hard``, to float16 latents [SHARD, 8, 5, 16, 16]."""
    latents, sentences = [], []
    stream = seeded_scenes(seed, BATCH, hard=hard)
    for _ in range(SHARD // BATCH):
        scenes, clips = next(stream)
        x = torch.from_numpy(clips).permute(0, 4, 1, 2, 3).to(device).float() / 127.5 - 1
        with torch.autocast(device, torch.bfloat16):
            latents.append(vae.encode(x).half().cpu())
        sentences += [scene.sentence() for scene in scenes]
    partial = path.with_suffix(".tmp")
    save_file({"latents": torch.cat(latents).contiguous()}, partial, metadata={"sentences": json.dumps(sentences)})
    partial.replace(path)


def main() -> None:
    """Parse the command line and encode."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--vae", type=Path, default=Path("runs/demo/vae/final"))
    parser.add_argument("--out", type=Path, default=Path("runs/demo/latents"))
    parser.add_argument("--shards", type=int, default=40)
    parser.add_argument("--hard", type=float, default=0.0, help="share of scenes that are often got wrong")
    parser.add_argument("--device", default="cpu")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    vae = VideoAutoencoder.from_pretrained(args.vae).to(args.device)
    for shard in range(args.shards):
        path = args.out / f"{shard}.safetensors"
        if not path.exists():
            encode_shard(vae, path, 1000 + shard, hard=args.hard, device=args.device)
            print(f"{shard + 1}/{args.shards} shards", flush=True)


if __name__ == "__main__":
    main()
