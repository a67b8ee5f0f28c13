"""Train a small class-conditional DiT (diffusers' ``DiTTransformer2DModel``) on stills of the demo world.

    python -m examples.small_models.dit --stills runs/small/stills --vae runs/small/vae --out runs/small/dit

A class is a colour, a shape and a background ("red circle on black"). Predicts noise and variances. The export,
``final``, is a folder for diffusers' ``DiTPipeline``.
"""

import argparse

import torch
from diffusers import AutoencoderKL, DDIMScheduler, DiTPipeline, DiTTransformer2DModel
from torch import Tensor, nn

from examples.small_models.recipe import (
    BETA_END,
    BETA_START,
    TRAIN_STEPS,
    add_start,
    begin_from,
    denoising_loss,
    kinds,
    label,
    load_stills,
    noised,
    save_folder,
    stratified,
    trainer_of,
    training_arguments,
    with_plain_attention,
)
from examples.training import Compiled, fit, wait_for_shards

NO_CLASS = 1000  # what DiTPipeline takes for the absence of a class, however many there are
CONFIG = {
    "num_attention_heads": 4,
    "attention_head_dim": 24,
    "in_channels": 4,
    "out_channels": 8,
    "num_layers": 12,
    "sample_size": 16,
    "patch_size": 2,
    "num_embeds_ada_norm": NO_CLASS,
}


def build(config: dict[str, int] | None = None) -> DiTTransformer2DModel:
    """The network with DiT's initial weights: blocks that do nothing yet, an output of zero."""
    model = DiTTransformer2DModel(**(CONFIG if config is None else config))
    for module in model.modules():
        if isinstance(module, nn.Linear):
            nn.init.xavier_uniform_(module.weight)
            nn.init.zeros_(module.bias)
        elif isinstance(module, nn.Embedding):
            nn.init.normal_(module.weight, std=0.02)
    for block in model.transformer_blocks:
        for linear in (block.norm1.emb.timestep_embedder.linear_1, block.norm1.emb.timestep_embedder.linear_2):
            nn.init.normal_(linear.weight, std=0.02)
        nn.init.zeros_(block.norm1.linear.weight)
    for linear in (model.proj_out_1, model.proj_out_2):
        nn.init.zeros_(linear.weight)
    return model.eval()  # in train() every block would drop classes for itself


def forget_unused_classes(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Set the rows of classes that do not exist to zero, where they are initial noise."""
    for name, weight in weights.items():
        if name.endswith("embedding_table.weight"):
            weight[len(kinds()) : NO_CLASS] = 0
    return weights


def names() -> dict[int, str]:
    """Class names by number, as ``DiTPipeline`` keeps them."""
    return {index: f"{c} {s} on {b}" for index, (c, s, b) in enumerate(kinds())}


def train(args: argparse.Namespace, config: dict[str, int] | None = None) -> None:
    """Train on the stills of one actor; 10 % of the classes are dropped."""
    torch.manual_seed(args.seed)
    model = build(config)
    begin_from(model, args.init)
    model.to(args.device)
    forward = Compiled(with_plain_attention(model) if args.device == "cpu" else model, compile=args.compile)
    data: dict[str, Tensor] = {}

    def load() -> None:
        wait_for_shards(args.stills, args)
        latents, scenes = load_stills(args.stills, keep=lambda scene: len(scene.actors) == 1)
        labels = torch.tensor([label(scene) for scene in scenes])
        data.update(latents=latents.to(args.device), labels=labels.to(args.device))

    def draw(generator: torch.Generator) -> tuple[Tensor, ...]:
        latents, labels = data["latents"], data["labels"]
        options = {"generator": generator, "device": generator.device}
        pick = torch.randint(len(latents), (args.batch,), **options)
        dropped = torch.rand(args.batch, **options) < 0.1
        picked = latents[pick].float()
        noise = torch.randn(picked.shape, **options)
        return picked, noise, stratified(args.batch, generator), torch.where(dropped, NO_CLASS, labels[pick])

    def loss(data: Tensor, noise: Tensor, t: Tensor, classes: Tensor) -> Tensor:
        with torch.autocast(args.device, torch.bfloat16):
            out = forward(noised(data, t, noise), timestep=t, class_labels=classes).sample
        return denoising_loss(out, data, noise, t)

    def export(weights: dict[str, Tensor]) -> None:
        copy = build(config)
        copy.load_state_dict({name: p.cpu() for name, p in model.state_dict().items()} | forget_unused_classes(weights))
        pipe = DiTPipeline(
            transformer=copy.half(),
            vae=AutoencoderKL.from_pretrained(args.vae, dtype=torch.float16),
            scheduler=DDIMScheduler(
                num_train_timesteps=TRAIN_STEPS, beta_start=BETA_START, beta_end=BETA_END, clip_sample=False
            ),
        )
        pipe.register_to_config(id2label=names())  # or the folder would not have them
        save_folder(pipe, args.out / "final")

    size = (args.batch, CONFIG["in_channels"], CONFIG["sample_size"], CONFIG["sample_size"])
    like = torch.zeros(size, device=args.device), torch.zeros(args.batch, dtype=torch.long, device=args.device)
    rehearsals = ((like[0], like[0], like[1], like[1]),)
    fit(trainer_of(model, loss, args, forward), draw, export, args, rehearsals=rehearsals, load=load)


def main() -> None:
    """Parse the command line and train."""
    parser = training_arguments("runs/small/dit", steps=12000, batch=32, lr=1e-3, warmup=200, cooldown=6000)
    add_start(parser)
    train(parser.parse_args())


if __name__ == "__main__":
    main()
