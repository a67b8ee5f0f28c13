"""Train a small PixArt-alpha (diffusers' ``PixArtTransformer2DModel``) on stills of the demo world.

    python -m examples.small_models.pixart --stills runs/small/stills --vae runs/small/vae --out runs/small/pixart

Reads the demo world's sentences through the demo model's T5, which is frozen. Predicts noise and variances. The export,
``final``, is a folder for diffusers' ``PixArtAlphaPipeline``; call that with ``use_resolution_binning=False``.
"""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from diffusers import (
    AutoencoderKL,
    DPMSolverMultistepScheduler,
    PixArtAlphaPipeline,
    PixArtTransformer2DModel,
    SchedulerMixin,
)
from torch import Tensor, nn
from transformers import T5EncoderModel

from examples.demo_model.text import FrozenText
from examples.small_models.recipe import (
    BETA_END,
    BETA_START,
    TRAIN_STEPS,
    add_start,
    begin_from,
    denoising_loss,
    load_stills,
    noised,
    save_folder,
    shows_held_out,
    stratified,
    trainer_of,
    training_arguments,
    with_plain_attention,
)
from examples.training import Compiled, fit, wait_for_shards
from videoaccel.eval.world import Scene

READER = Path(__file__).parent / "pixart"
"""A folder whose T5 can read; the demo model's cannot tell whose colour a word is."""

CONFIG = {
    "num_attention_heads": 4,
    "attention_head_dim": 32,
    "in_channels": 4,
    "out_channels": 8,
    "num_layers": 12,
    "cross_attention_dim": 128,
    "caption_channels": 128,
    "sample_size": 16,
    "patch_size": 2,
}


def build(config: dict[str, int] | None = None) -> PixArtTransformer2DModel:
    """The network with PixArt's initial weights: cross-attention adds nothing yet, and the output is zero."""
    model = PixArtTransformer2DModel(**(CONFIG if config is None else config))
    for module in model.modules():
        if isinstance(module, nn.Linear):
            nn.init.xavier_uniform_(module.weight)
            nn.init.zeros_(module.bias)
    timestep = model.adaln_single.emb.timestep_embedder
    for linear in (timestep.linear_1, timestep.linear_2, model.adaln_single.linear):
        nn.init.normal_(linear.weight, std=0.02)
    for block in model.transformer_blocks:
        nn.init.zeros_(block.attn2.to_out[0].weight)
    nn.init.zeros_(model.proj_out.weight)
    return model.eval()


def ways(scene: Scene) -> list[str]:
    """Ways to say what a still shows: in full, without motions, of which it shows none, and without shapes.

    Without the last, a network keeps by heart which of "green" and "blue" goes with "dark" for each shape, and has
    nothing to go by where a combination was held out.
    """
    ground = f" on a {scene.background} background"
    still = " and ".join(str(actor).removesuffix(f" {actor.motion}") for actor in scene.actors)
    blank = " and ".join(str(actor).replace(f" {actor.shape}", "") for actor in scene.actors)
    return [scene.sentence(), still + ground, blank + ground]


class Stills:
    """Stills of no held-out kind on a device, and what T5 makes of all :func:`ways` to say them."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.args, self.text = args, FrozenText(args.text, args.device)

    def load(self) -> None:
        """Read the shards, once there are as many as wanted."""
        wait_for_shards(self.args.stills, self.args)
        latents, scenes = load_stills(self.args.stills, keep=lambda scene: not shows_held_out(scene))
        said = [ways(scene) for scene in scenes]
        sentences = ["", *sorted({way for row in said for way in row})]  # the frozen T5 reads each once
        place = {sentence: index for index, sentence in enumerate(sentences)}
        self.states, self.mask = self.text.read(sentences)
        self.which = torch.tensor([[place[way] for way in row] for row in said]).to(self.args.device)
        self.latents = latents.to(self.args.device)

    def batch(self, generator: torch.Generator, *, dropped: float) -> tuple[Tensor, Tensor, Tensor]:
        """Latents [B, Z, h, w], text states and mask; a share of the sentences is ``dropped`` for the empty one."""
        count, options = self.args.batch, {"generator": generator, "device": generator.device}
        pick = torch.randint(len(self.latents), (count,), **options)
        none = torch.rand(count, **options) < dropped
        way = torch.randint(self.which.shape[1], (count,), **options)
        words = torch.where(none, 0, self.which[pick, way])
        return self.latents[pick].float(), self.states[words], self.mask[words]

    def like(self) -> tuple[Tensor, Tensor, Tensor]:
        """Made-up inputs of the same shapes."""
        side = CONFIG["sample_size"]
        latents = torch.zeros(self.args.batch, CONFIG["in_channels"], side, side, device=self.args.device)
        return latents, *self.text.read(["a"] * self.args.batch)


def predict(forward: Callable[..., Any], x: Tensor, t: Tensor, states: Tensor, mask: Tensor) -> Tensor:
    """A network's output [B, 2Z, h, w] in bfloat16 for noised latents [B, Z, h, w] at ``t`` [B]."""
    with torch.autocast(x.device.type, torch.bfloat16):
        sample: Tensor = forward(
            x,
            encoder_hidden_states=states,
            encoder_attention_mask=mask,
            timestep=t,
            added_cond_kwargs={"resolution": None, "aspect_ratio": None},
        ).sample
    return sample


def save_pipeline(
    args: argparse.Namespace, transformer: PixArtTransformer2DModel, text: FrozenText, scheduler: SchedulerMixin
) -> None:
    """Write ``final``, a folder for ``PixArtAlphaPipeline`` in float16."""
    encoder = T5EncoderModel.from_pretrained(
        args.text / "text_encoder"
    ).half()  # told a dtype, it keeps some in float32
    pipeline = PixArtAlphaPipeline(
        tokenizer=text.tokenizer,
        text_encoder=encoder,
        vae=AutoencoderKL.from_pretrained(args.vae, dtype=torch.float16),
        transformer=transformer.half(),
        scheduler=scheduler,
    )
    save_folder(pipeline, args.out / "final")


def train(args: argparse.Namespace, config: dict[str, int] | None = None) -> None:
    """Train on all stills without held-out kinds; 10 % of the sentences are replaced by the empty one."""
    torch.manual_seed(args.seed)
    model = build(config)
    begin_from(model, args.init)
    model.to(args.device)
    forward = Compiled(with_plain_attention(model) if args.device == "cpu" else model, compile=args.compile)
    stills = Stills(args)

    def draw(generator: torch.Generator) -> tuple[Tensor, ...]:
        data, states, mask = stills.batch(generator, dropped=0.1)
        noise = torch.randn(data.shape, generator=generator, device=generator.device)
        return data, noise, stratified(args.batch, generator), states, mask

    def loss(data: Tensor, noise: Tensor, t: Tensor, states: Tensor, mask: Tensor) -> Tensor:
        return denoising_loss(predict(forward, noised(data, t, noise), t, states, mask), data, noise, t)

    def export(weights: dict[str, Tensor]) -> None:
        copy = build(config)
        copy.load_state_dict({name: p.cpu() for name, p in model.state_dict().items()} | weights)
        steps = {"num_train_timesteps": TRAIN_STEPS, "beta_start": BETA_START, "beta_end": BETA_END}
        save_pipeline(args, copy, stills.text, DPMSolverMultistepScheduler(**steps))

    latents, states, mask = stills.like()
    t = torch.zeros(args.batch, dtype=torch.long, device=args.device)
    rehearsals = ((latents, latents, t, states, mask),)
    fit(trainer_of(model, loss, args, forward), draw, export, args, rehearsals=rehearsals, load=stills.load)


def main() -> None:
    """Parse the command line and train."""
    parser = training_arguments("runs/small/pixart", steps=12000, batch=32, lr=1e-3, warmup=200, cooldown=6000)
    add_start(parser)
    parser.add_argument("--text", type=Path, default=READER, help="pipeline folder whose T5 reads the sentences")
    train(parser.parse_args())


if __name__ == "__main__":
    main()
