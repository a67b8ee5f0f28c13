"""Train the demo model's video VAE on rendered clips, in four stages.

The 2D half on single frames; the temporal half on the 2D latents (cheap: no pixels); both together on clips; the
decoders alone, which may go on after a transformer was trained on the latents.

    python -m examples.demo_model.train_vae --out runs/demo/vae

Resumes from ``checkpoint.pt`` in the output folder; the finished VAE is saved there by ``save_pretrained``.
"""

import argparse
import itertools
import json
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from examples.demo_model.recipe import FRAMES, VAE_CONFIG, save_checkpoint, seeded_clips
from videoaccel.models.video_vae import LOGVAR_RANGE, VideoAutoencoder

KL_WEIGHT = 1e-5
SHAPE_WEIGHT = {"frames": 4.0, "clips": 4.0, "decoder": 1.0}  # shapes are learnt first, the rest last
STILL_SHARE = 0.25  # of the decoders' steps: single frames, which the stages on clips never show them
STAGES = {"frames": 1200, "latents": 1500, "clips": 1500, "decoder": 3000}
LEARNING = {
    "frames": 1.0,
    "latents": 1.0,
    "clips": 0.3,
    "decoder": 0.3,
}  # over --lr; the last stage only tunes what it finds
BATCH = {"frames": 6, "latents": 6, "clips": 2, "decoder": 2}  # clips; of single frames there are four to a clip


def reconstruct(vae: VideoAutoencoder, x: Tensor, *, stage: str) -> tuple[Tensor, Tensor]:
    """Encode with sampled posteriors and decode; returns the reconstruction and the KL term.

    Args:
        vae: The autoencoder.
        x: [B, 3, T, H, W] in [-1, 1].
        stage: ``frames`` leaves the temporal half out, ``decoder`` leaves the encoders as they are.
    """
    frames = x.transpose(1, 2).flatten(0, 1)
    with torch.set_grad_enabled(stage != "decoder"):
        z, kl = posterior(vae.spatial_vae.module._encode(frames))
        if stage != "frames":
            latent = (z * vae.scale_applied).unflatten(0, (x.shape[0], -1)).transpose(1, 2)
            z, kl_time = posterior(vae.temporal_vae.encode(latent))
            kl = kl + kl_time
    spatial = z
    if stage != "frames":
        spatial = vae.temporal_vae.decode(z, x.shape[2]).transpose(1, 2).flatten(0, 1) / vae.scale_applied
    images = vae.spatial_vae.module._decode(spatial).sample
    return images.unflatten(0, (x.shape[0], -1)).transpose(1, 2), kl


def reconstruct_latents(vae: VideoAutoencoder, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The temporal half alone: its reconstruction of the 2D latents, these, and the KL term."""
    with torch.no_grad():
        moments = vae.spatial_vae.module._encode(x.transpose(1, 2).flatten(0, 1))
        latent = moments.chunk(2, dim=1)[0].float() * vae.scale_applied
        latent = latent.unflatten(0, (x.shape[0], -1)).transpose(1, 2)
    z, kl = posterior(vae.temporal_vae.encode(latent))
    return vae.temporal_vae.decode(z, x.shape[2]), latent, kl


def posterior(moments: Tensor) -> tuple[Tensor, Tensor]:
    """A sample and the mean KL divergence to a standard normal distribution."""
    mean, logvar = moments.chunk(2, dim=1)
    logvar = logvar.clamp(*LOGVAR_RANGE)
    kl = 0.5 * (mean.square() + logvar.exp() - 1 - logvar).mean()
    return mean + torch.exp(0.5 * logvar) * torch.randn_like(mean), kl


def batches(seed: int, *, clips: bool, count: int, hard: float = 0.0) -> Iterator[Tensor]:
    """Endless batches in [-1, 1]: ``count`` clips [B, 3, T, H, W], or four single frames of each, [4B, 3, 1, H, W]."""
    for video in seeded_clips(seed, count, hard=hard):
        if not clips:
            yield single_frames(as_tensor(video), np.random.default_rng(seed + int(video[0, 0, 0, 0, 0])))
        else:
            yield as_tensor(video)


def as_tensor(video: np.ndarray) -> Tensor:
    """uint8 [B, T, H, W, 3] -> [B, 3, T, H, W] in [-1, 1]."""
    return torch.from_numpy(video).permute(0, 4, 1, 2, 3).float() / 127.5 - 1


def single_frames(video: Tensor, rng: np.random.Generator) -> Tensor:
    """Four random frames of each clip, [B, 3, T, H, W] -> [4B, 3, 1, H, W]."""
    pick = rng.integers(0, video.shape[2], size=(len(video), 4))
    return torch.cat([video[row, :, pick[row]].transpose(0, 1) for row in range(len(video))])[:, :, None]


def psnr(a: Tensor, b: Tensor) -> float:
    """Mean over clips of the peak signal-to-noise ratio in dB of values in [-1, 1]."""
    errors = ((a.clamp(-1, 1) - b) / 2).square().flatten(1).mean(1)
    return float((-10 * errors.log10()).mean())


@torch.inference_mode()
def evaluate(vae: VideoAutoencoder, *, clips: int = 32) -> float:
    """PSNR of encode and decode (posterior modes) on clips that training never saw."""
    video = next(batches(10**6, clips=True, count=clips)).to(next(vae.parameters()).device)
    return psnr(vae.decode(vae.encode(video), FRAMES), video)


@torch.inference_mode()
def fit_latent_scale(vae: VideoAutoencoder, *, clips: int = 256) -> None:
    """Set shift and scale so that latents of training clips have mean 0 and deviation 1 per channel."""
    vae.shift.zero_()
    vae.scale.fill_(1)
    stream = batches(7, clips=True, count=16)
    z = torch.cat([vae.encode(video) for video in itertools.islice(stream, clips // 16)])
    mean, std = z.mean((0, 2, 3, 4)), z.std((0, 2, 3, 4))
    vae.shift.copy_(mean.view_as(vae.shift))
    vae.scale.copy_(std.view_as(vae.scale))
    vae.register_to_config(latents_mean=mean.tolist(), latents_std=std.tolist())


def stage_loss(
    vae: VideoAutoencoder, video: Tensor, stage: str, shape_weight: float | None = None
) -> tuple[Tensor, dict[str, float]]:
    """The loss of one step and what to log of it; shapes weigh as much more as their stage has it, or as told."""
    with torch.autocast(video.device.type, torch.bfloat16):
        if stage == "latents":
            out, target, kl = reconstruct_latents(vae, video)
        else:
            (out, kl), target = reconstruct(vae, video, stage=stage), video
    difference = out.float() - target
    if stage == "latents":
        error = (difference / target.std((0, 2, 3, 4), keepdim=True)).square().mean()
        return error + KL_WEIGHT * kl, {"relative_error": error.item(), "kl": kl.item()}
    # A shape covers little of the picture: without a weight its colour hardly counts.
    shape = (video - video[..., :1, :1]).abs().amax(1, keepdim=True) > 0.1
    weight = 1 + (SHAPE_WEIGHT[stage] if shape_weight is None else shape_weight) * shape
    loss = (weight * (difference.square() + 0.1 * difference.abs())).mean()
    return loss + KL_WEIGHT * kl, {"psnr": psnr(out.detach().float(), target), "kl": kl.item()}


def train(args: argparse.Namespace) -> None:
    """Run the stages, with a checkpoint every 100 steps."""
    torch.manual_seed(args.seed)
    args.out.mkdir(parents=True, exist_ok=True)
    vae = VideoAutoencoder(**VAE_CONFIG)
    if args.init is not None:
        given = VideoAutoencoder.from_pretrained(args.init)
        vae.load_state_dict(given.state_dict())
        vae.register_to_config(latents_mean=given.shift.flatten().tolist(), latents_std=given.scale.flatten().tolist())
    vae = vae.to(args.device)
    vae.spatial_vae.to(memory_format=torch.channels_last)  # an eighth less time a step on a CPU
    optimizer = torch.optim.AdamW(vae.parameters(), lr=args.lr, weight_decay=0.0, betas=(0.9, 0.98))
    checkpoint, first = args.out / "checkpoint.pt", 0
    if checkpoint.exists():
        saved = torch.load(checkpoint, weights_only=True, map_location=args.device)
        vae.load_state_dict(saved["model"])
        optimizer.load_state_dict(saved["optimizer"])
        first = saved["step"]
    stages = [name for name in STAGES for _ in range(args.steps[name])]
    streams = {
        name: batches(args.seed + first, clips=name != "frames", count=BATCH[name], hard=args.hard) for name in STAGES
    }
    stills = np.random.default_rng(args.seed + first)
    start = time.time()
    for step, stage in list(enumerate(stages))[first:]:
        left = 1 - (step - stages.index(stage)) / args.steps[stage]
        for group in optimizer.param_groups:
            group["lr"] = args.lr * LEARNING[stage] * min(1.0, (step + 1) / 100) * max(0.02, left**0.7)
        video = next(streams[stage])
        if stage == "decoder" and stills.random() < STILL_SHARE:
            video = single_frames(video, stills)
        loss, log = stage_loss(vae, video.to(args.device), stage, args.shape_weight)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(vae.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        if step % 50 == 49:
            record = {"step": step + 1, "stage": stage, "loss": loss.item(), **log, "seconds": time.time() - start}
            with (args.out / "log.jsonl").open("a") as file:
                file.write(
                    json.dumps({k: round(v, 4) if isinstance(v, float) else v for k, v in record.items()}) + "\n"
                )
        if step % 100 == 99 or step == len(stages) - 1:
            save_checkpoint(checkpoint, vae, optimizer, step + 1)
    vae.eval().to("cpu")
    if args.init is None:  # a transformer may have been trained on latents of this scale
        fit_latent_scale(vae)
    vae.save_pretrained(args.out / "final")
    (args.out / "score.json").write_text(json.dumps({"psnr_db": round(evaluate(vae), 2)}) + "\n")


def main() -> None:
    """Parse the command line and train."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/demo/vae"))
    for name, steps in STAGES.items():
        parser.add_argument(f"--{name}-steps", type=int, default=steps)
    parser.add_argument("--init", type=Path, help="VAE folder to start from; its latent scale is kept")
    parser.add_argument("--hard", type=float, default=0.0, help="share of scenes that are often got wrong")
    parser.add_argument("--shape-weight", type=float, help="how much more shapes weigh in every stage; default its own")
    parser.add_argument("--lr", type=float, default=1.5e-3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cpu")
    args = parser.parse_args()
    args.steps = {name: getattr(args, f"{name}_steps") for name in STAGES}
    train(args)


if __name__ == "__main__":
    main()
