"""How near a clip's first frame comes to the picture that it begins with, and how near the VAE lets it.

    python -m benchmarks.first_frame > benchmarks/results/first-frame.txt

For every prompt of ``prompts.txt`` the first frame of its scene is the picture. *Alone* encodes it as one frame, and
*still* as a clip that stands still to the end of the chunk, of which the first latent is taken (what ``--image`` does
without ``align``); the latents after it are those of the scene. *Limit* is the first frame of the whole scene, encoded
and decoded. *Made* is the first frame of ``--image`` with the prompt, all other latents made by the demo model.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from videoaccel.eval.world import Scene, render
from videoaccel.generation.pipeline import VideoPipeline
from videoaccel.generation.references import References, first_frame
from videoaccel.media.reader import to_uint8

FRAMES, SIDE = 17, 64


def main() -> None:
    """Print a row a prompt, and the means."""
    pipe = VideoPipeline.from_pretrained("demo")
    pipe.set_progress_bar_config(disable=True)
    lines = (Path(__file__).parent / "prompts.txt").read_text(encoding="utf-8").splitlines()
    prompts = [line for line in lines if line and not line.startswith("#")]
    rows = [_row(pipe, prompt) for prompt in prompts]
    print("| prompt | alone, dB | still | limit | made |\n|---|---|---|---|---|")
    for prompt, row in zip(prompts, rows, strict=True):
        print(f"| {prompt} | {' | '.join(f'{value:.1f}' for value in row)} |")
    print(f"| mean | {' | '.join(f'{value:.1f}' for value in np.mean(rows, axis=0))} |")


@torch.inference_mode()
def _row(pipe: VideoPipeline, prompt: str) -> list[float]:
    frames = render(Scene.parse(prompt), rng=np.random.default_rng(0), frames=FRAMES, side=SIDE)
    clip = torch.from_numpy(frames).permute(3, 0, 1, 2) / 127.5 - 1
    own = pipe.vae.encode(clip[None])[0]
    firsts = [References((clip[:, :1],), "0").encode(pipe.vae, None, whole=whole)[0] for whole in (False, True)]  # type: ignore[arg-type]
    decoded = [_decoded(pipe, torch.cat((first, own[:, 1:]), dim=1)) for first in firsts]
    size = {"height": SIDE, "width": SIDE, "num_frames": FRAMES}
    made = pipe(prompt, references=first_frame(clip[:, :1]), seed=0, output_type="pt", **size).frames[0]
    decoded += [_decoded(pipe, own), (made[0].permute(1, 2, 0) * 255).round().byte().numpy()]
    return [_psnr(first, frames[0]) for first in decoded]


def _decoded(pipe: VideoPipeline, latents: Tensor) -> np.ndarray:
    return to_uint8(pipe.vae.decode(latents[None], FRAMES)[0].clamp(-1, 1))[0]


def _psnr(one: np.ndarray, other: np.ndarray) -> float:
    return float(10 * np.log10(255**2 / ((one.astype(float) - other) ** 2).mean()))


if __name__ == "__main__":
    main()
