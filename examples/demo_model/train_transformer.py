"""Train the demo model's STDiT3 together with its tiny T5 on latents made by ``encode_clips``.

    python -m examples.demo_model.train_transformer --latents runs/demo/latents --out runs/demo/transformer

Rectified flow with the sampler's own timestep shift. Block matrices are trained by Muon, the rest by AdamW; the network
runs in bfloat16 over float32 master weights, and an exponential average of these is what is kept. Stops after
``--minutes`` or ``--steps``, whichever comes first, and resumes from ``checkpoint.pt``: every step draws from a seed of
its own, so that an interrupted run ends where an uninterrupted one does.

``--from demo`` (or a pipeline folder) trains on from finished weights, of which no optimizer state is left: the rate
rises over ``--warmup`` steps, while the optimizers gather their moments anew.
"""

import argparse
import json
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor, nn
from transformers import PreTrainedTokenizerFast, T5EncoderModel

from examples.demo_model.build import PACKAGED
from examples.demo_model.recipe import FPS, SIDE, TRANSFORMER_CONFIG
from examples.demo_model.text import build_text_encoder, build_tokenizer
from videoaccel.models.seam import Site
from videoaccel.models.stdit import STDiT3
from videoaccel.models.stdit_blocks import Conditioning, CrossAttention, SelfAttention

TOKENS = 20  # the longest sentence of the world has 18
EMA_HORIZON = 1000
GIVEN_SHARE = 0.12  # samples with given (clean) first or last frames
IMAGE_SHARE = 0.05  # steps on single frames


class Latents:
    """All latent shards in memory, with their sentences as token ids."""

    def __init__(self, folder: Path, tokenizer: PreTrainedTokenizerFast) -> None:
        parts, sentences = [], []
        for path in sorted(folder.glob("*.safetensors")):
            with safe_open(path, "pt") as shard:
                parts.append(shard.get_tensor("latents"))
                sentences += json.loads(shard.metadata()["sentences"])
        self.latents = torch.cat(parts)
        text = tokenizer(sentences, padding="max_length", max_length=TOKENS, return_tensors="pt")
        self.ids, self.mask = text.input_ids, text.attention_mask

    def batch(self, count: int, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
        """Random latents [B, Z, t, h, w] in float32, token ids and mask [B, TOKENS]."""
        pick = torch.randint(len(self.latents), (count,), generator=generator)
        return self.latents[pick].float(), self.ids[pick], self.mask[pick]


def initialise(model: STDiT3) -> None:
    """Xavier weights, small embedders, and a final layer that starts at zero."""
    for module in model.modules():
        if isinstance(module, nn.Linear):
            nn.init.xavier_uniform_(module.weight)
            nn.init.zeros_(module.bias)
    for embedder in (model.t_embedder.mlp, model.fps_embedder.mlp):
        nn.init.normal_(embedder[0].weight, std=0.02)
        nn.init.normal_(embedder[2].weight, std=0.02)
    nn.init.normal_(model.t_block[1].weight, std=0.02)
    nn.init.zeros_(model.final_layer.linear.weight)


def plain_attention(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
    """Attention spelled out: for tiny sequences its backward pass is faster on a CPU than the fused kernel's."""
    q, k, v = (x.transpose(1, 2) for x in (q * q.shape[-1] ** -0.5, k, v))
    scores = (q @ k.transpose(-1, -2)).float()
    if mask is not None:
        scores = scores.masked_fill(~mask, float("-inf"))
    return (scores.softmax(-1).to(v.dtype) @ v).transpose(1, 2)


def run(site: Site, branch: object, x: Tensor, cond: Conditioning) -> Tensor:
    """The seam with :func:`plain_attention`."""
    if isinstance(branch, SelfAttention | CrossAttention):
        return branch.add(x, branch.mix(branch.pre(x, cond), cond, attend=plain_attention), cond)
    return branch.compute(x, cond, run)  # type: ignore[attr-defined]


def sample_timesteps(count: int, frames: int, generator: torch.Generator) -> Tensor:
    """Stratified uniform timesteps through the sampler's own shift, [count] in (0, 1000)."""
    u = (torch.rand(1, generator=generator) + torch.arange(count) / count) % 1
    u = u.clamp(1e-3, 1.0)[torch.randperm(count, generator=generator)]
    ratio = 1.0 if frames == 1 else frames**0.5
    return 1000 * ratio * u / (1 + (ratio - 1) * u)


def frame_mask(count: int, frames: int, generator: torch.Generator) -> Tensor:
    """x_mask [count, frames]: all True, but for some samples False at the first, last or both ends."""
    mask = torch.ones(count, frames, dtype=torch.bool)
    if frames == 1:
        return mask
    for row in torch.nonzero(torch.rand(count, generator=generator) < GIVEN_SHARE).flatten():
        first, last = ((1, 0), (0, 1), (1, 1), (2, 0))[int(torch.randint(4, (1,), generator=generator))]
        mask[row, :first] = False
        mask[row, frames - last :] = False
    return mask


class Trainer:
    """Networks, their bfloat16 working copy, optimizers and average."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.args = args
        self.tokenizer = build_tokenizer()
        torch.manual_seed(args.seed)
        self.text: T5EncoderModel = build_text_encoder(self.tokenizer)
        self.model = STDiT3(**TRANSFORMER_CONFIG)
        initialise(self.model)
        if args.init is not None:
            start = PACKAGED if str(args.init) == "demo" else args.init
            self.model.load_state_dict(STDiT3.from_pretrained(start / "transformer").state_dict())
            self.text.load_state_dict(T5EncoderModel.from_pretrained(start / "text_encoder").state_dict())
        self.master = [p.detach().clone().requires_grad_() for p in self.parameters()]
        self.average = [p.detach().clone() for p in self.master]
        for part in (self.model.spatial_blocks, self.model.temporal_blocks, self.model.y_embedder.y_proj):
            part.to(torch.bfloat16)
        self.model.x_embedder.to(torch.bfloat16)
        self.model.final_layer.to(torch.bfloat16)
        names = [name for name, _ in self.named()]
        matrix = ["blocks" in name and p.ndim == 2 and "table" not in name for name, p in self.named()]
        pick = [p for p, is_matrix in zip(self.master, matrix, strict=True) if is_matrix]
        rest = [p for p, is_matrix in zip(self.master, matrix, strict=True) if not is_matrix]
        assert len(names) == len(self.master)
        self.optimizers: list[torch.optim.Optimizer] = [
            torch.optim.Muon(pick, lr=args.lr, weight_decay=0.01, adjust_lr_fn="match_rms_adamw"),
            torch.optim.AdamW(rest, lr=args.lr, weight_decay=0.0, betas=(0.9, 0.98), fused=True),
        ]
        self.step, self.seconds = 0, 0.0

    def named(self) -> Iterator[tuple[str, nn.Parameter]]:
        """Trained parameters of both networks."""
        for prefix, network in (("model", self.model), ("text", self.text)):
            for name, parameter in network.named_parameters():
                if name != "rope.freqs":
                    yield f"{prefix}.{name}", parameter

    def parameters(self) -> list[nn.Parameter]:
        """The working parameters, in the order of ``master`` and ``average``."""
        return [parameter for _, parameter in self.named()]

    def publish(self, values: list[Tensor]) -> None:
        """Copy float32 values into the working parameters."""
        with torch.no_grad():
            torch._foreach_copy_(self.parameters(), values)

    def loss(self, forward: Callable[..., Tensor], batch: tuple[Tensor, Tensor, Tensor], g: torch.Generator) -> Tensor:
        """Rectified-flow loss on the frames being denoised, the last weighted; 10 % of the prompts are dropped."""
        data, ids, mask = batch
        count, frames = data.shape[0], data.shape[2]
        y = self.text(input_ids=ids, attention_mask=mask).last_hidden_state
        dropped = torch.rand(count, generator=g) < self.model.config.class_dropout_prob
        y = torch.where(dropped[:, None, None], self.model.y_embedder.y_embedding[:TOKENS], y)
        context = self.model.prepare(
            y[:, None], fps=torch.tensor([120.0 if frames == 1 else FPS]), height=SIDE, width=SIDE,
            latent_size=data.shape[2:],
        )  # fmt: skip
        context = context._replace(text_mask=(mask != 0)[:, None, None])
        t = sample_timesteps(count, frames, g)
        denoised = frame_mask(count, frames, g)
        level = (t[:, None] / 1000 * denoised)[:, None, :, None, None]
        noise = torch.randn(data.shape, generator=g)
        v = forward((1 - level) * data + level * noise, t, x_mask=denoised, context=context, run=run)
        error = (v[:, : data.shape[1]] - (data - noise)).square().mean((1, 3, 4))
        weight = denoised.float()
        if frames > 1:
            weight[:, -1] *= self.args.last_weight
        return (error * weight).sum() / weight.sum()

    def update(self) -> None:
        """One optimizer step on the master weights, then publish them and move the average."""
        for master, working in zip(self.master, self.parameters(), strict=True):
            master.grad = None if working.grad is None else working.grad.float()
            working.grad = None
        norm = nn.utils.clip_grad_norm_(self.master, 1.0)
        warm = min(1.0, (self.step + 1) / self.args.warmup)
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = self.args.lr * warm * self.decay()
            if torch.isfinite(norm):
                optimizer.step()
        self.publish(self.master)
        weight = 1 - min(1 - 1 / EMA_HORIZON, (1 + self.step) / (10 + self.step))
        torch._foreach_lerp_(self.average, [p.detach() for p in self.master], weight)
        self.step += 1

    def decay(self) -> float:
        """Constant, then linear to a twentieth over the last ``--cooldown`` steps of ``--steps``."""
        left = (self.args.steps - self.step) / max(self.args.cooldown, 1)
        return max(0.05, min(1.0, left))

    def save(self) -> None:
        """Checkpoint atomically."""
        path = self.args.out / "checkpoint.pt"
        state = {"master": self.master, "average": self.average, "step": self.step, "seconds": self.seconds}
        state |= {"optimizers": [optimizer.state_dict() for optimizer in self.optimizers]}
        torch.save(state, path.with_suffix(".tmp"))
        path.with_suffix(".tmp").replace(path)

    def resume(self) -> None:
        """Continue from the checkpoint, if there is one."""
        with suppress(FileNotFoundError):
            saved = torch.load(self.args.out / "checkpoint.pt", weights_only=True)
            with torch.no_grad():
                torch._foreach_copy_(self.master, saved["master"])
                torch._foreach_copy_(self.average, saved["average"])
            for optimizer, state in zip(self.optimizers, saved["optimizers"], strict=True):
                optimizer.load_state_dict(state)
            self.step, self.seconds = saved["step"], saved["seconds"]
            self.publish(self.master)

    def export(self) -> None:
        """Save the averaged networks and the tokenizer as parts of a pipeline folder."""
        model, text = STDiT3(**TRANSFORMER_CONFIG), build_text_encoder(self.tokenizer)
        model.y_embedder.y_embedding.copy_(self.model.y_embedder.y_embedding)
        own = [p for n, p in model.named_parameters() if n != "rope.freqs"] + list(text.parameters())
        with torch.no_grad():
            torch._foreach_copy_(own, self.average)
        final = self.args.out / "final"
        model.save_pretrained(final / "transformer")
        text.save_pretrained(final / "text_encoder")
        self.tokenizer.save_pretrained(final / "tokenizer")


def train(args: argparse.Namespace) -> None:
    """Train until the budget is spent; log every 50 steps, checkpoint every 100, export every 500."""
    args.out.mkdir(parents=True, exist_ok=True)
    trainer = Trainer(args)
    trainer.resume()
    data = Latents(args.latents, trainer.tokenizer)
    generator = torch.Generator()
    forward = torch.compile(trainer.model) if args.compile else trainer.model
    start, before, losses = time.time(), trainer.seconds, []
    while trainer.step < args.steps and time.time() - start < 60 * args.minutes:
        generator.manual_seed((args.seed << 32) + trainer.step)
        latents, ids, mask = data.batch(args.batch, generator)
        if torch.rand(1, generator=generator) < IMAGE_SHARE:
            latents = latents[:, :, :1]
        loss = trainer.loss(forward, (latents, ids, mask), generator)
        loss.backward()
        trainer.update()
        trainer.seconds = before + time.time() - start
        if latents.shape[2] > 1:
            losses.append(loss.item())
        if trainer.step % 50 == 0:
            record = {"step": trainer.step, "loss": round(sum(losses) / len(losses), 4), "batch": args.batch}
            with (args.out / "log.jsonl").open("a") as log:
                log.write(json.dumps(record | {"hours": round(trainer.seconds / 3600, 3)}) + "\n")
            losses = []
        if trainer.step % 100 == 0:
            trainer.save()
        if trainer.step % 500 == 0:
            trainer.export()
            data = Latents(args.latents, trainer.tokenizer)  # more may have been encoded by now
    trainer.save()
    trainer.export()


def main() -> None:
    """Parse the command line and train."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--latents", type=Path, default=Path("runs/demo/latents"))
    parser.add_argument("--out", type=Path, default=Path("runs/demo/transformer"))
    parser.add_argument(
        "--from", dest="init", type=Path, help="pipeline folder, or demo, whose weights to start from, no checkpoint"
    )
    parser.add_argument("--steps", type=int, default=60000)
    parser.add_argument("--cooldown", type=int, default=6000)
    parser.add_argument("--warmup", type=int, default=200)
    parser.add_argument("--last-weight", type=float, default=1.0, help="weight of the last latent frame in the loss")
    parser.add_argument("--minutes", type=float, default=1e9)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--compile", action=argparse.BooleanOptionalAction, default=True)
    train(parser.parse_args())


if __name__ == "__main__":
    main()
