"""Train a small PixArt-alpha (diffusers' ``PixArtTransformer2DModel``) on stills of the demo world.

    python -m examples.small_models.pixart --stills runs/small/stills --vae runs/small/vae --out runs/small/pixart

Reads the demo world's sentences through the demo model's T5, which is frozen. Predicts noise and variances. The export,
``final``, is a folder for diffusers' ``PixArtAlphaPipeline``; call that with ``use_resolution_binning=False``.
"""

import argparse
from pathlib import Path

import torch
from diffusers import AutoencoderKL, DPMSolverMultistepScheduler, PixArtAlphaPipeline, PixArtTransformer2DModel
from torch import Tensor, nn
from transformers import PreTrainedTokenizerFast, T5EncoderModel

from examples.demo_model.build import PACKAGED
from examples.small_models.recipe import (
    BETA_END,
    BETA_START,
    TRAIN_STEPS,
    denoising_loss,
    fit,
    load_stills,
    noised,
    shows_held_out,
    stratified,
    training_arguments,
    with_plain_attention,
)

TOKENS = 20  # the longest sentence of the world has 18
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


class Sentences:
    """A pipeline's frozen T5 and its tokenizer."""

    def __init__(self, folder: Path, device: str) -> None:
        self.tokenizer = PreTrainedTokenizerFast.from_pretrained(folder / "tokenizer")
        self.encoder = T5EncoderModel.from_pretrained(folder / "text_encoder").float().to(device).requires_grad_(False)

    def ids(self, sentences: list[str]) -> tuple[Tensor, Tensor]:
        """Token ids and mask, [N, TOKENS] each."""
        text = self.tokenizer(sentences, padding="max_length", max_length=TOKENS, return_tensors="pt")
        return text.input_ids, text.attention_mask


def train(args: argparse.Namespace, config: dict[str, int] | None = None) -> None:
    """Train on all stills without held-out kinds; 10 % of the sentences are replaced by the empty one."""
    torch.manual_seed(args.seed)
    model = with_plain_attention(build(config)).to(args.device)
    text = Sentences(args.text, args.device)
    latents, scenes = load_stills(args.stills, keep=lambda scene: not shows_held_out(scene))
    ids, mask = text.ids([scene.sentence() for scene in scenes])
    no_ids, no_mask = text.ids([""])

    def loss(generator: torch.Generator) -> Tensor:
        pick = torch.randint(len(latents), (args.batch,), generator=generator)
        dropped = (torch.rand(args.batch, generator=generator) < 0.1)[:, None]
        words = torch.where(dropped, no_ids, ids[pick]).to(args.device)
        seen = torch.where(dropped, no_mask, mask[pick]).to(args.device)
        data = latents[pick].float()
        noise = torch.randn(data.shape, generator=generator).to(args.device)
        t, data = stratified(args.batch, generator).to(args.device), data.to(args.device)
        with torch.autocast(args.device, torch.bfloat16):
            y = text.encoder(input_ids=words, attention_mask=seen).last_hidden_state
            out = model(
                noised(data, t, noise),
                encoder_hidden_states=y,
                encoder_attention_mask=seen,
                timestep=t,
                added_cond_kwargs={"resolution": None, "aspect_ratio": None},
            ).sample
        return denoising_loss(out, data, noise, t)

    def export(weights: dict[str, Tensor]) -> None:
        copy = build(config)
        copy.load_state_dict({name: p.cpu() for name, p in model.state_dict().items()} | weights)
        PixArtAlphaPipeline(
            tokenizer=text.tokenizer,
            text_encoder=T5EncoderModel.from_pretrained(args.text / "text_encoder", dtype=torch.float16),
            vae=AutoencoderKL.from_pretrained(args.vae, dtype=torch.float16),
            transformer=copy.half(),
            scheduler=DPMSolverMultistepScheduler(
                num_train_timesteps=TRAIN_STEPS, beta_start=BETA_START, beta_end=BETA_END
            ),
        ).save_pretrained(args.out / "final")

    fit(model, loss, args, export)


def main() -> None:
    """Parse the command line and train."""
    parser = training_arguments("runs/small/pixart", steps=12000, batch=32, lr=1e-3, warmup=200, cooldown=6000)
    parser.add_argument("--text", type=Path, default=PACKAGED, help="pipeline folder whose T5 reads the sentences")
    train(parser.parse_args())


if __name__ == "__main__":
    main()
