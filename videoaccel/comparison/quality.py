"""What a comparison says of a clip: fidelity to the exact one and, in the demo world, whether it shows its sentence.

Needs torchmetrics, which the extra [eval] brings.
"""

from typing import Any

import torch

from videoaccel.eval.fidelity import frame_psnr, frame_ssim, mean_psnr
from videoaccel.eval.oracle import agreement, read
from videoaccel.eval.world import Scene
from videoaccel.media.encoders import Frames


def compare_clips(frames: Frames, reference: Frames, prompt: str) -> dict[str, Any]:
    """``psnr``, ``ssim``, and ``world``: by attribute what is right and how much there was; None for other prompts.

    Args:
        frames: uint8 [T, H, W, 3].
        reference: The exact clip.
        prompt: What both should show.
    """
    clip, wanted = torch.from_numpy(frames), torch.from_numpy(reference)
    scene = scene_of(prompt)
    return {
        "psnr": mean_psnr(frame_psnr(clip, wanted).tolist()),
        "ssim": float(frame_ssim(clip, wanted).mean()),
        "world": None if scene is None else agreement(read(frames, actors=len(scene.actors)), scene),
    }


def scene_of(prompt: str) -> Scene | None:
    """The scene of the demo world that a prompt describes, if it does."""
    try:
        return Scene.parse(prompt)
    except ValueError:
        return None
