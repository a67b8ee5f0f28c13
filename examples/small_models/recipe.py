"""What the small models share: stills of the demo world as latents, the noise schedule, one training loop.

    python -m examples.small_models.recipe --vae runs/small/vae --out runs/small/stills

encodes the stills. Shape legend: B batch, Z latent channels, h, w latent rows and columns, H, W pixels.
"""

import argparse
import json
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from itertools import product
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL, ModelMixin
from diffusers.models.attention_processor import Attention, AttnProcessor
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from examples.demo_model.recipe import FRAMES, SIDE
from videoaccel.eval.world import BACKGROUNDS, COLOURS, SHAPES, Actor, Scene, render, sample_scene

SHARD, BATCH = 4096, 128
PAIR_SHARE = 0.2
EMA_HORIZON = 1000
TRAIN_STEPS, BETA_START, BETA_END = 1000, 1e-4, 0.02  # of the linear noise schedule that DiT and PixArt share

Loss = Callable[[torch.Generator], Tensor]


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


@torch.inference_mode()
def encode_stills(vae: AutoencoderKL, path: Path, *, seed: int, count: int = SHARD, device: str = "cpu") -> None:
    """Write ``count`` scaled latents, float16 [count, Z, h, w], with their sentences."""
    latents, sentences = [], []
    stream = seeded_stills(seed, min(count, BATCH))
    while len(sentences) < count:
        scenes, x = next(stream)
        with torch.autocast(device, torch.bfloat16):
            z = vae.encode(x.to(device)).latent_dist.mode() * vae.config.scaling_factor
        latents.append(z.half().cpu())
        sentences += [scene.sentence() for scene in scenes]
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


def alphas_cumprod() -> Tensor:
    """Signal's share of the variance after each of the training steps, [1000]."""
    return torch.cumprod(1 - torch.linspace(BETA_START, BETA_END, TRAIN_STEPS), 0)


def noised(data: Tensor, t: Tensor, noise: Tensor) -> Tensor:
    """Data [B, Z, h, w] at noise levels ``t`` [B]."""
    level = alphas_cumprod().to(data.device)[t].view(-1, 1, 1, 1)
    return level.sqrt() * data + (1 - level).sqrt() * noise


def denoising_loss(out: Tensor, data: Tensor, noise: Tensor, t: Tensor) -> Tensor:
    """Squared error of the predicted noise, plus the bound that trains the learned variances alone (Nichol, Dhariwal).

    ``out`` [B, 2Z, h, w] holds the noise and, between the smallest (-1) and largest (1) log variance, a place for it.
    """
    eps, place = out.float().chunk(2, dim=1)
    a = alphas_cumprod().to(data.device)
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
    u = (torch.arange(count) + torch.rand(count, generator=generator)) / count
    return (u * TRAIN_STEPS).long().clamp(max=TRAIN_STEPS - 1)[torch.randperm(count, generator=generator)]


def with_plain_attention(network: ModelMixin) -> ModelMixin:
    """Spell attention out while training: a CPU then takes half as long for the backward pass of 64 tokens."""
    for module in network.modules():
        if isinstance(module, Attention):
            module.set_processor(AttnProcessor())
    return network


class Trainer:
    """A network, its optimizers (Muon on the blocks' matrices, AdamW on the rest) and its averaged weights."""

    def __init__(self, network: nn.Module, args: argparse.Namespace) -> None:
        self.network, self.args = network, args
        named = [(name, p) for name, p in network.named_parameters() if p.requires_grad]
        self.names = [name for name, _ in named]
        self.parameters = [p for _, p in named]
        self.average = [p.detach().clone() for p in self.parameters]
        matrix = [p for name, p in named if self.is_matrix(name, p)]
        rest = [p for name, p in named if not self.is_matrix(name, p)]
        self.optimizers: list[torch.optim.Optimizer] = [
            torch.optim.AdamW(rest, lr=args.lr, weight_decay=0.0, betas=(0.9, 0.98))
        ]
        if matrix:
            self.optimizers += [torch.optim.Muon(matrix, lr=args.lr, weight_decay=0.01, adjust_lr_fn="match_rms_adamw")]
        self.step, self.seconds = 0, 0.0

    @staticmethod
    def is_matrix(name: str, parameter: nn.Parameter) -> bool:
        """Tell what Muon trains: projections in attention and feed-forward parts, no modulation, no embedding."""
        return parameter.ndim == 2 and (".attn" in name or ".ff." in name)

    def rate(self) -> float:
        """Linear up over ``warmup`` steps, constant, linear to a fiftieth over the last ``cooldown`` of ``steps``."""
        args = self.args
        left = (args.steps - self.step) / max(args.cooldown, 1)
        return float(args.lr * min(1.0, (self.step + 1) / args.warmup) * max(0.02, min(1.0, left)))

    def update(self, loss: Tensor) -> None:
        """One optimizer step; a step whose gradient is not finite is left out."""
        loss.backward()
        norm = nn.utils.clip_grad_norm_(self.parameters, 1.0)
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = self.rate()
            if torch.isfinite(norm):
                optimizer.step()
            optimizer.zero_grad()
        weight = 1 - min(1 - 1 / EMA_HORIZON, (1 + self.step) / (10 + self.step))
        torch._foreach_lerp_(self.average, [p.detach() for p in self.parameters], weight)
        self.step += 1

    def save(self) -> None:
        """Write ``checkpoint.pt`` so that an interruption leaves the old one or the new one, never half of one."""
        path = self.args.out / "checkpoint.pt"
        state = {"weights": [p.detach() for p in self.parameters], "average": self.average, "step": self.step}
        state |= {"optimizers": [optimizer.state_dict() for optimizer in self.optimizers], "seconds": self.seconds}
        torch.save(state, path.with_suffix(".tmp"))
        path.with_suffix(".tmp").replace(path)

    def resume(self) -> None:
        """Continue from the checkpoint, if there is one."""
        with suppress(FileNotFoundError):
            saved = torch.load(self.args.out / "checkpoint.pt", weights_only=True, map_location=self.args.device)
            with torch.no_grad():
                torch._foreach_copy_(self.parameters, saved["weights"])
                torch._foreach_copy_(self.average, saved["average"])
            for optimizer, state in zip(self.optimizers, saved["optimizers"], strict=True):
                optimizer.load_state_dict(state)
            self.step, self.seconds = saved["step"], saved["seconds"]

    def averaged(self) -> dict[str, Tensor]:
        """The averaged weights by name, on the CPU."""
        return {name: p.cpu() for name, p in zip(self.names, self.average, strict=True)}


def fit(network: nn.Module, loss: Loss, args: argparse.Namespace, export: Callable[[dict[str, Tensor]], None]) -> None:
    """Train until ``steps`` or ``minutes`` are spent; log every 50 steps, checkpoint every 100, export every 500.

    Every step draws from a seed of its own, so that an interrupted run ends where an uninterrupted one does.
    """
    args.out.mkdir(parents=True, exist_ok=True)
    trainer = Trainer(network, args)
    trainer.resume()
    generator, losses = torch.Generator(), []
    start, before = time.time(), trainer.seconds
    while trainer.step < args.steps and time.time() - start < 60 * args.minutes:
        generator.manual_seed((args.seed << 32) + trainer.step)
        value = loss(generator)
        trainer.update(value)
        losses.append(value.item())
        trainer.seconds = before + time.time() - start
        if trainer.step % 50 == 0:
            record = {"step": trainer.step, "loss": round(sum(losses) / len(losses), 5), "lr": trainer.rate()}
            with (args.out / "log.jsonl").open("a") as log:
                log.write(json.dumps(record | {"hours": round(trainer.seconds / 3600, 3)}) + "\n")
            losses = []
        if trainer.step % 100 == 0:
            trainer.save()
        if trainer.step % 500 == 0:
            export(trainer.averaged())
    trainer.save()
    export(trainer.averaged())


def training_arguments(out: str, **defaults: float) -> argparse.ArgumentParser:
    """The options that every model's training has; ``defaults`` are steps, batch, lr, warmup and cooldown."""
    parser = argparse.ArgumentParser(formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--stills", type=Path, default=Path("runs/small/stills"))
    parser.add_argument("--vae", type=Path, default=Path("runs/small/vae"))
    parser.add_argument("--out", type=Path, default=Path(out))
    for name, value in defaults.items():
        parser.add_argument(f"--{name}", type=type(value), default=value)
    parser.add_argument("--minutes", type=float, default=1e9)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cpu")
    return parser


def main() -> None:
    """Parse the command line and encode stills; existing shards are kept, so it resumes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--vae", type=Path, default=Path("runs/small/vae"))
    parser.add_argument("--out", type=Path, default=Path("runs/small/stills"))
    parser.add_argument("--shards", type=int, default=20)
    parser.add_argument("--device", default="cpu")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    vae = AutoencoderKL.from_pretrained(args.vae).to(args.device)
    for shard in range(args.shards):
        path = args.out / f"{shard}.safetensors"
        if not path.exists():
            encode_stills(vae, path, seed=1000 + shard, device=args.device)
            print(f"{shard + 1}/{args.shards} shards", flush=True)


if __name__ == "__main__":
    main()
