"""What the small models share: stills of the demo world as latents, the noise schedule, one training loop.

    python -m examples.small_models.recipe --vae runs/small/vae --out runs/small/stills

encodes the stills. Shape legend: B batch, Z latent channels, h, w latent rows and columns, H, W pixels.
"""

import argparse
import json
from collections.abc import Callable, Iterator
from functools import cache
from itertools import product
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL, DiffusionPipeline, ModelMixin
from diffusers.models.attention_processor import Attention, AttnProcessor
from numpy.typing import NDArray
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from examples.demo_model.recipe import FRAMES, SIDE, in_order
from examples.training import Compiled, Trainer, add_options
from videoaccel.eval.world import BACKGROUNDS, COLOURS, SHAPES, Actor, Scene, render, sample_scene

SHARD, BATCH = 4096, 128
PAIR_SHARE = 0.2
TRAIN_STEPS, BETA_START, BETA_END = 1000, 1e-4, 0.02  # of the linear noise schedule that DiT and PixArt share


def kinds() -> list[tuple[str, str, str]]:
    """The 124 kinds of still: colour, shape and background that can be seen on one another."""
    return [(c, s, b) for c, s, b in product(COLOURS, SHAPES, BACKGROUNDS) if c != b]


def is_held_out(colour: str, shape: str, background: str) -> bool:
    """Tell whether models that read sentences never see this kind: 2 of each colour, 4 of each shape and ground."""
    at = list(COLOURS).index(colour)
    turn = (list(SHAPES).index(shape) - at) % 4
    return turn in (0, 2) and list(BACKGROUNDS).index(background) == (at + at // 4 + turn // 2) % 4


def shows_held_out(scene: Scene) -> bool:
    """Tell whether any actor of a scene makes a held-out kind with the background."""
    return any(is_held_out(actor.colour, actor.shape, scene.background) for actor in scene.actors)


def label(scene: Scene) -> int:
    """The place of a one-actor scene among :func:`kinds`; -1 for a pair."""
    if len(scene.actors) > 1:
        return -1
    return kinds().index((scene.actors[0].colour, scene.actors[0].shape, scene.background))


def class_name(scene: Scene) -> str:
    """What a model of classes calls a one-actor scene."""
    actor = scene.actors[0]
    return f"{actor.colour} {actor.shape} on {scene.background}"


def still_scenes(names: list[tuple[str, str, str]], *, seed: int) -> list[Scene]:
    """A scene of each kind; the motion, which a still does not show, is drawn."""
    rng = np.random.default_rng(seed)
    motions = ("moves left", "moves right", "moves up", "moves down", "bounces", "orbits", "grows", "shrinks")
    return [Scene((Actor(c, s, str(rng.choice(motions))),), b) for c, s, b in names]


def seeded_stills(seed: int, count: int) -> Iterator[tuple[list[Scene], Tensor]]:
    """Endless batches of scenes and a random frame of each, [count, 3, H, W] in [-1, 1]."""
    rng = np.random.default_rng(seed)
    while True:
        scenes = [sample_scene(rng, held_out=None, pair_share=PAIR_SHARE) for _ in range(count)]
        frames = [render(s, rng=rng, frames=FRAMES, side=SIDE)[int(rng.integers(FRAMES))] for s in scenes]
        yield scenes, torch.from_numpy(np.stack(frames)).permute(0, 3, 1, 2).float() / 127.5 - 1


def drawn_stills(seed: int, count: int) -> tuple[list[str], NDArray[np.uint8]]:
    """The sentences and pictures, uint8 [count, 3, H, W], of a shard."""
    parts, sentences = [], []
    stream = seeded_stills(seed, min(count, BATCH))
    while len(sentences) < count:
        scenes, x = next(stream)
        parts.append(((x + 1) * 127.5).round().byte().numpy())
        sentences += [scene.sentence() for scene in scenes]
    return sentences, np.concatenate(parts)


@torch.inference_mode()
def encode_stills(
    vae: AutoencoderKL, path: Path, drawn: tuple[list[str], NDArray[np.uint8]], *, device: str = "cpu"
) -> None:
    """Write the scaled latents of drawn stills, float16 [count, Z, h, w], with their sentences."""
    sentences, pictures = drawn
    latents = []
    for part in torch.from_numpy(pictures).split(BATCH):
        with torch.autocast(device, torch.bfloat16):
            x = part.to(device).float() / 127.5 - 1
            z = vae.encode(x).latent_dist.mode() * vae.config.scaling_factor
        latents.append(z.half().cpu())
    save_file(
        {"latents": torch.cat(latents).contiguous()},
        path.with_suffix(".tmp"),
        metadata={"sentences": json.dumps(sentences)},
    )
    path.with_suffix(".tmp").replace(path)


def load_stills(folder: Path, keep: Callable[[Scene], bool]) -> tuple[Tensor, list[Scene]]:
    """All shards' latents [N, Z, h, w] in float16 and scenes, of those that ``keep`` wants.

    Raises:
        FileNotFoundError: There is no shard.
    """
    parts, kept = [], []
    for path in sorted(folder.glob("*.safetensors"), key=lambda path: int(path.stem)):
        with safe_open(path, "pt") as shard:
            scenes = [Scene.parse(sentence) for sentence in json.loads(shard.metadata()["sentences"])]
            pick = [index for index, scene in enumerate(scenes) if keep(scene)]
            parts.append(shard.get_tensor("latents")[pick])
            kept += [scenes[index] for index in pick]
    if not parts:
        raise FileNotFoundError(f"{folder} holds no stills")
    return torch.cat(parts), kept


@cache
def alphas_cumprod(device: torch.device) -> Tensor:
    """Signal's share of the variance after each of the training steps, [1000]; made once for a device."""
    return torch.cumprod(1 - torch.linspace(BETA_START, BETA_END, TRAIN_STEPS), 0).to(device)


def noised(data: Tensor, t: Tensor, noise: Tensor) -> Tensor:
    """Data [B, Z, h, w] at noise levels ``t`` [B]."""
    level = alphas_cumprod(data.device)[t].view(-1, 1, 1, 1)
    return level.sqrt() * data + (1 - level).sqrt() * noise


def denoising_loss(out: Tensor, data: Tensor, noise: Tensor, t: Tensor) -> Tensor:
    """Squared error of the predicted noise, plus the bound that trains the learned variances alone (Nichol, Dhariwal).

    ``out`` [B, 2Z, h, w] holds the noise and, between the smallest (-1) and largest (1) log variance, a place for it.
    """
    eps, place = out.float().chunk(2, dim=1)
    a = alphas_cumprod(data.device)
    before = torch.cat([a.new_ones(1), a[:-1]])
    beta = 1 - a / before
    smallest = (beta * (1 - before) / (1 - a)).clamp_min(0)
    smallest[0] = smallest[1]
    a, before, beta, smallest = (v[t].view(-1, 1, 1, 1) for v in (a, before, beta, smallest))
    log_variance = (place + 1) / 2 * beta.log() + (1 - place) / 2 * smallest.log()
    # The means of the true and the predicted step back differ by what the noises do.
    gap = (beta / ((1 - a) * (1 - beta)).sqrt() * (eps.detach() - noise)).square() / log_variance.exp()
    bound = 0.5 * (log_variance - smallest.log() + smallest / log_variance.exp() - 1 + gap)
    first = 0.5 * (log_variance + np.log(2 * np.pi) + gap)  # at t = 0 the step back ends on the data itself
    bound = torch.where(t.view(-1, 1, 1, 1) == 0, first, bound) / np.log(2)
    return (eps - noise).square().mean() + bound.mean()


def stratified(count: int, generator: torch.Generator) -> Tensor:
    """Timesteps 0 to 999, one from each ``count``-th of the range, in random order, [count]."""
    device = generator.device
    u = (torch.arange(count, device=device) + torch.rand(count, generator=generator, device=device)) / count
    order = torch.randperm(count, generator=generator, device=device)
    return (u * TRAIN_STEPS).long().clamp(max=TRAIN_STEPS - 1)[order]


def with_plain_attention(network: ModelMixin) -> ModelMixin:
    """Spell attention out while training on a CPU, which then takes half as long for the backward pass of 64 tokens."""
    for module in network.modules():
        if isinstance(module, Attention):
            module.set_processor(AttnProcessor())
    return network


def is_matrix(name: str, parameter: Tensor) -> bool:
    """Tell what Muon trains: projections in attention and feed-forward parts, no modulation, no embedding."""
    return parameter.ndim == 2 and (".attn" in name or ".ff." in name)


def trainer_of(
    network: nn.Module, loss: Callable[..., Tensor], args: argparse.Namespace, forward: Compiled | None = None
) -> Trainer:
    """The trainer of a network's parameters that want gradients."""
    named = [(name, p) for name, p in network.named_parameters() if p.requires_grad]
    return Trainer(named, is_matrix, loss, args, forward=forward)


def begin_from(network: ModelMixin, folder: Path | None) -> None:
    """Start from the transformer of a pipeline folder, if one is given; strict, so of the same sizes."""
    if folder is not None:
        network.load_state_dict(type(network).from_pretrained(folder / "transformer").state_dict())


def save_folder(pipeline: DiffusionPipeline, folder: Path) -> None:
    """Write a pipeline's folder; its parts do not say where they were read from, which diffusers notes."""
    pipeline.save_pretrained(folder)
    for file in folder.glob("*/config.json"):
        config = json.loads(file.read_text())
        config.pop("_name_or_path", None)
        file.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")


def add_start(parser: argparse.ArgumentParser) -> None:
    """The option that :func:`begin_from` serves."""
    parser.add_argument("--from", dest="init", type=Path, help="pipeline folder whose weights to start from")


def training_arguments(out: str, **defaults: float) -> argparse.ArgumentParser:
    """The options that every model's training has; ``defaults`` are steps, batch, lr, warmup and cooldown."""
    parser = argparse.ArgumentParser(formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--stills", type=Path, default=Path("runs/small/stills"))
    parser.add_argument("--vae", type=Path, default=Path("runs/small/vae"))
    parser.add_argument("--out", type=Path, default=Path(out))
    add_options(parser, **defaults)
    return parser


def main() -> None:
    """Parse the command line and encode stills; existing shards are kept, so it resumes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--vae", type=Path, default=Path("runs/small/vae"))
    parser.add_argument("--out", type=Path, default=Path("runs/small/stills"))
    parser.add_argument("--shards", type=int, default=12)
    parser.add_argument("--size", type=int, default=SHARD, help="stills of a shard")
    parser.add_argument("--workers", type=int, default=1, help="programs that draw stills")
    parser.add_argument("--device", default="cpu")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    vae = AutoencoderKL.from_pretrained(args.vae).to(args.device)
    missing = [n for n in range(args.shards) if not (args.out / f"{n}.safetensors").exists()]
    drawing = in_order(drawn_stills, [(1000 + shard, args.size) for shard in missing], workers=args.workers)
    for shard, drawn in zip(missing, drawing, strict=True):
        encode_stills(vae, args.out / f"{shard}.safetensors", drawn, device=args.device)
        print(f"{shard + 1}/{args.shards} shards", flush=True)


if __name__ == "__main__":
    main()
