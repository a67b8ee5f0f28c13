"""Make an ``AutoencoderKL`` of the demo VAE's frame half: its encoder unchanged, its decoder tuned to stand alone.

    python -m examples.small_models.frame_vae --out runs/small/vae_training --vae runs/small/vae

Inside the demo's VAE the frame decoder reads what the temporal half hands it; on the encoder's own latents it gets
colours wrong (20 dB). The encoder stays, so latents do not change while the decoder trains.
"""

import argparse
from functools import partial
from pathlib import Path

import torch
from diffusers import AutoencoderKL
from torch import Tensor

from examples.demo_model.recipe import PACKAGED
from examples.demo_model.train_vae import psnr
from examples.small_models.recipe import seeded_stills, trainer_of, training_arguments
from examples.training import fit
from videoaccel.models.video_vae import VideoAutoencoder

SHAPE_WEIGHT = 2.0  # a shape covers little of the picture
SCALING_STILLS = 256


def frame_half(demo: Path = PACKAGED, *, stills: int) -> AutoencoderKL:
    """The 2D autoencoder inside a demo pipeline's VAE, in float32; latents of ``stills`` get a mean square of 1."""
    vae: AutoencoderKL = VideoAutoencoder.from_pretrained(demo / "vae").float().spatial_vae.module
    _, x = next(seeded_stills(7, stills))
    with torch.inference_mode():
        moments = torch.cat([vae._encode(part) for part in x.split(64)])
    vae.register_to_config(scaling_factor=round(float(moments.chunk(2, 1)[0].square().mean() ** -0.5), 4))
    return vae.eval()


def decoder_loss(vae: AutoencoderKL, x: Tensor) -> Tensor:
    """Squared and absolute error of the decoder on latents of pictures [B, 3, H, W], shapes weighted."""
    with torch.autocast(x.device.type, torch.bfloat16):
        with torch.no_grad():
            z = vae.encode(x).latent_dist.mode()
        difference = vae.decode(z).sample.float() - x
    shape = (x - x[..., :1, :1]).abs().amax(1, keepdim=True) > 0.1
    return ((1 + SHAPE_WEIGHT * shape) * (difference.square() + 0.1 * difference.abs())).mean()


@torch.inference_mode()
def evaluate(vae: AutoencoderKL, *, count: int = 64) -> float:
    """PSNR in dB of encode and decode on stills that training never saw."""
    _, x = next(seeded_stills(10**6, count))
    return psnr(vae.decode(vae.encode(x).latent_dist.mode()).sample, x)


def train(args: argparse.Namespace) -> None:
    """Tune the decoder; the export is a folder for ``AutoencoderKL.from_pretrained``, float16."""
    torch.manual_seed(args.seed)
    vae = frame_half(stills=SCALING_STILLS).to(args.device)
    for name, parameter in vae.named_parameters():
        parameter.requires_grad_(name.startswith(("decoder", "post_quant_conv")))

    def draw(generator: torch.Generator) -> tuple[Tensor, ...]:
        seed = int(torch.randint(2**40, (1,), generator=generator, device=generator.device))
        return (next(seeded_stills(seed, args.batch))[1].to(args.device),)

    def export(weights: dict[str, Tensor]) -> None:
        copy = AutoencoderKL.from_config(vae.config)
        copy.load_state_dict({name: p.cpu() for name, p in vae.state_dict().items()} | weights)
        copy.half().save_pretrained(args.vae)
        print(f"{evaluate(AutoencoderKL.from_pretrained(args.vae)):.2f} dB", flush=True)

    fit(trainer_of(vae, partial(decoder_loss, vae), args), draw, export, args)


def main() -> None:
    """Parse the command line and train."""
    parser = training_arguments("runs/small/vae_training", steps=1500, batch=12, lr=1e-3, warmup=50, cooldown=1000)
    train(parser.parse_args())


if __name__ == "__main__":
    main()
