"""What quality a number of network calls buys: SODA's whole-step plans, carried out on calibration clips.

Measured when all errors are, since plans are made from them. PSNR is over decoded bytes, against the plain run.

Shape legend: N steps, T frames, H, W pixels.
"""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from videoaccel.calibration.probing import Tick
from videoaccel.common.home import expand
from videoaccel.generation.prepared import Denoising, plain
from videoaccel.media.encoders import Frames
from videoaccel.media.reader import to_uint8
from videoaccel.models.protocols import Autoencoder
from videoaccel.planning.plan import UnreachableError
from videoaccel.policies.soda import CURVES, Soda

if TYPE_CHECKING:  # it needs torchmetrics, an extra
    from videoaccel.eval.perceptual import Lpips

RATIOS = (1.25, 1.5, 1.75, 2.0, 2.5, 3.0, 3.5, 4.0, 5.0, 6.0)
LACKING = "that takes torchmetrics; pip install 'videoaccel[eval]' brings it"
PSNR, LPIPS = (table for table, _ in CURVES.values())


def available() -> bool:
    """Whether what measures quality is installed, the extra [eval]."""
    return importlib.util.find_spec("torchmetrics") is not None


def find_lpips(folder: str | None) -> Lpips | None:
    """LPIPS' network from a folder of backbones; where none is named and none is in the usual place, None.

    Raises:
        MissingBackbone: It is not in the folder.
    """
    if not available():
        return None
    from videoaccel.eval.backbones import Backbones, MissingBackbone
    from videoaccel.eval.perceptual import Lpips

    try:
        return Lpips.from_backbones(Backbones(None if folder is None else expand(folder)))
    except MissingBackbone:
        if folder is not None:
            raise
        return None


def counts(steps: int) -> list[int]:
    """Numbers of network calls at which the curve is measured."""
    return sorted({max(1, round(steps / ratio)) for ratio in RATIOS})


def measure(
    run: Denoising,
    vae: Autoencoder,
    num_frames: int,
    tables: Mapping[str, Tensor],
    *,
    lpips: Lpips | None = None,
    tick: Tick = lambda calls: None,
) -> dict[str, Tensor]:
    """Quality of one clip by number of calls, [1, N], the first of one call; NaN where it was not measured.

    Args:
        run: The clip's denoising run.
        vae: Decodes.
        num_frames: Frames of the clip.
        tables: The finished prior's.
        lpips: Measures LPIPS, too.
        tick: Told of network calls.
    """
    from videoaccel.eval.fidelity import frame_psnr, mean_psnr
    from videoaccel.eval.perceptual import SMALLEST, frame_lpips

    wanted = torch.from_numpy(decoded(vae, plain(run), num_frames))
    job = run.job(prior=tables)
    tick(job.steps)
    curves = {PSNR: torch.full((job.steps,), math.nan)}
    if lpips is not None and min(wanted.shape[1:3]) >= SMALLEST:
        curves[LPIPS] = torch.full((job.steps,), math.nan)
    for calls in counts(job.steps):
        try:
            session = Soda(anchors=calls, order="taylor").session(job, mix=run.layout.mix)
        except UnreachableError:  # so few calls that no forecast reaches from one to the next
            continue
        clip = torch.from_numpy(decoded(vae, run.denoise(session), num_frames))
        curves[PSNR][calls - 1] = mean_psnr(frame_psnr(clip, wanted).tolist())
        if LPIPS in curves and lpips is not None:
            curves[LPIPS][calls - 1] = frame_lpips(lpips, clip, wanted).mean()
        tick(calls)
    return {name: curve[None] for name, curve in curves.items()}


def against(vae: Autoencoder, wanted: Tensor, num_frames: int) -> Callable[[Tensor], list[float]]:
    """What tells the PSNR of every clip, in dB, from its finished latent, against those of plain runs.

    Args:
        vae: Decodes.
        wanted: Finished latents of the plain runs [B, Z, t, h, w].
        num_frames: Frames of each clip.
    """
    from videoaccel.eval.fidelity import CEILING, frame_psnr, mean_psnr

    clips = [torch.from_numpy(decoded(vae, one, num_frames)) for one in wanted.split(1)]

    def psnr(latents: Tensor) -> list[float]:
        made = [torch.from_numpy(decoded(vae, one, num_frames)) for one in latents.split(1)]
        found = [mean_psnr(frame_psnr(one, clip).tolist()) for one, clip in zip(made, clips, strict=True)]
        return [min(value, CEILING) for value in found]

    return psnr


def decoded(vae: Autoencoder, latents: Tensor, num_frames: int) -> Frames:
    """Frames uint8 [T, H, W, 3] of latents [1, Z, t, h, w].

    Raises:
        FloatingPointError: They are not numbers.
    """
    clip = torch.cat(list(vae.decode_chunks(latents, num_frames)), dim=2)[0]
    if clip.isnan().any():
        raise FloatingPointError("the clip has values that are not a number")
    return to_uint8(clip)
