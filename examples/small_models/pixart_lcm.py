"""Distil the small PixArt-alpha into a consistency model of 4 steps.

    python -m examples.small_models.pixart_lcm --from runs/small/pixart/final --out runs/small/pixart_lcm

The student says at any of 50 noise levels where the teacher's guided path ends: what it says at one level must be what
it says one DDIM step of the teacher further. The export, ``final``, is a folder for diffusers' ``PixArtAlphaPipeline``
with its ``LCMScheduler``; call it with 4 steps and a guidance of 1, since the teacher's is inside.

Source: Luo et al., "Latent Consistency Models" (arXiv 2310.04378), without the embedded guidance, which PixArt has no
place for, and with the student itself, held still, as its own target.
"""

import argparse
from pathlib import Path

import torch
from diffusers import LCMScheduler, PixArtTransformer2DModel
from torch import Tensor

from examples.small_models.pixart import READER, Stills, build, predict, save_pipeline
from examples.small_models.recipe import (
    BETA_END,
    BETA_START,
    TRAIN_STEPS,
    alphas_cumprod,
    noised,
    stratified,
    trainer_of,
    training_arguments,
    with_plain_attention,
)
from examples.training import Compiled, fit

LEVELS = 50  # noise levels of the teacher's path: the LCMScheduler's original_inference_steps
SPAN = TRAIN_STEPS // LEVELS
SIGMA, SCALING = 0.5, 10.0  # of the boundary condition, as in LCMScheduler
HUBER = 1e-3


def level(t: Tensor) -> tuple[Tensor, Tensor]:
    """Signal and noise of latents at ``t`` [B], [B, 1, 1, 1] each."""
    a = alphas_cumprod(t.device)[t].view(-1, 1, 1, 1)
    return a.sqrt(), (1 - a).sqrt()


def end_of_path(eps: Tensor, x: Tensor, t: Tensor) -> Tensor:
    """The consistency function of a predicted noise: clean latents, and ``x`` itself at t = 0."""
    signal, noise = level(t)
    scaled = SCALING * t.view(-1, 1, 1, 1)
    skip, out = SIGMA**2 / (scaled**2 + SIGMA**2), scaled / (scaled**2 + SIGMA**2).sqrt()
    return skip * x + out * (x - noise * eps) / signal


def ddim(eps: Tensor, x: Tensor, t: Tensor, to: Tensor) -> Tensor:
    """Latents one step of DDIM further, at ``to`` [B]."""
    signal, noise = level(t)
    further, left = level(to)
    return further * (x - noise * eps) / signal + left * eps


def train(args: argparse.Namespace, config: dict[str, int] | None = None) -> None:
    """Train on the teacher's stills; sentences are never dropped, as guidance is not asked for again."""
    torch.manual_seed(args.seed)
    teacher = PixArtTransformer2DModel.from_pretrained(args.init / "transformer").float().eval()
    student = build(config)
    student.load_state_dict(teacher.state_dict())
    for network in (teacher.requires_grad_(False), student):
        network.to(args.device)
        if args.device == "cpu":
            with_plain_attention(network)
    guide, forward = (Compiled(network, compile=args.compile) for network in (teacher, student))
    stills = Stills(args)

    def draw(generator: torch.Generator) -> tuple[Tensor, ...]:
        data, states, mask = stills.batch(generator, dropped=0.0)
        noise = torch.randn(data.shape, generator=generator, device=generator.device)
        t = stratified(args.batch, generator) // SPAN * SPAN + SPAN - 1
        none = (x[:1].expand(args.batch, *x.shape[1:]).contiguous() for x in (stills.states, stills.mask))
        return data, noise, t, states, mask, *none

    def eps(network: Compiled, x: Tensor, t: Tensor, states: Tensor, mask: Tensor) -> Tensor:
        return predict(network, x, t, states, mask).float().chunk(2, dim=1)[0]

    def loss(data: Tensor, noise: Tensor, t: Tensor, states: Tensor, mask: Tensor, *none: Tensor) -> Tensor:
        x = noised(data, t, noise)
        with torch.no_grad():
            told, untold = eps(guide, x, t, states, mask), eps(guide, x, t, *none)
            before = (t - SPAN).clamp(min=0)
            nearer = ddim(untold + args.guidance * (told - untold), x, t, before)
            target = end_of_path(eps(forward, nearer, before, states, mask), nearer, before)
        gap = end_of_path(eps(forward, x, t, states, mask), x, t) - target
        return ((gap.square() + HUBER**2).sqrt() - HUBER).mean()

    def export(weights: dict[str, Tensor]) -> None:
        copy = build(config)
        copy.load_state_dict({name: p.cpu() for name, p in student.state_dict().items()} | weights)
        steps = {"num_train_timesteps": TRAIN_STEPS, "beta_start": BETA_START, "beta_end": BETA_END}
        save_pipeline(
            args,
            copy,
            stills.text,
            LCMScheduler(**steps, beta_schedule="linear", clip_sample=False, original_inference_steps=LEVELS),
        )

    latents, states, mask = stills.like()
    t = torch.full((args.batch,), SPAN - 1, device=args.device)
    rehearsals = ((latents, latents, t, states, mask, states, mask),)
    fit(trainer_of(student, loss, args, forward), draw, export, args, rehearsals=rehearsals, load=stills.load)


def main() -> None:
    """Parse the command line and distil."""
    parser = training_arguments("runs/small/pixart_lcm", steps=4000, batch=32, lr=3e-4, warmup=100, cooldown=2000)
    parser.add_argument("--from", dest="init", type=Path, default=Path("runs/small/pixart/final"), help="the teacher")
    parser.add_argument("--guidance", type=float, default=4.5, help="of the teacher")
    parser.add_argument("--text", type=Path, default=READER, help="pipeline folder whose T5 reads the sentences")
    train(parser.parse_args())


if __name__ == "__main__":
    main()
