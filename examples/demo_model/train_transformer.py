"""Train the demo model's STDiT3 on latents made by ``encode_clips`` and the T5 of ``train_text``, which is frozen.

    python -m examples.demo_model.train_transformer --latents runs/demo/latents --out runs/demo/transformer

Rectified flow with the sampler's own timestep shift. Block matrices are trained by Muon, the rest by AdamW; the network
runs in bfloat16 over float32 master weights, and an exponential average of these is what is kept. Stops after
``--minutes`` or ``--steps``, whichever comes first, and resumes from ``checkpoint.pt``: every step draws from a seed of
its own, so that an interrupted run ends where an uninterrupted one does (:mod:`examples.training`).

``--from demo`` (or a pipeline folder) trains on from finished weights, of which no optimizer state is left: the rate
rises over ``--warmup`` steps, while the optimizers gather their moments anew.
"""

import argparse
import json
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor, nn

from examples.demo_model.recipe import FPS, PACKAGED, SIDE, TRANSFORMER_CONFIG
from examples.demo_model.text import TOKENS, FrozenText
from examples.training import Compiled, Trainer, add_options, fit, wait_for_shards
from videoaccel.models.seam import Attend, Run, Site, attention
from videoaccel.models.stdit import STDiT3
from videoaccel.models.stdit_blocks import Conditioning, CrossAttention, SelfAttention

GIVEN_SHARE = 0.12  # samples with given (clean) first or last frames
GIVEN_ENDS = ((1, 0), (0, 1), (1, 1), (2, 0))  # how many of the first and of the last are given then
IMAGE_SHARE = 0.05  # steps on single frames
FRAMES = 5  # latent frames of a clip


class Latents:
    """All latent shards in a device's memory, with what T5 makes of their sentences."""

    def __init__(self, folder: Path, text: FrozenText, device: str = "cpu") -> None:
        self.folder, self.text, self.device = folder, text, device
        self.shards = 0

    def load(self) -> None:
        """Read the shards, if there are more of them than were read."""
        paths = sorted(self.folder.glob("*.safetensors"), key=lambda path: int(path.stem))
        if len(paths) <= self.shards:
            return
        parts, sentences = [], []
        for path in paths:
            with safe_open(path, "pt") as shard:
                parts.append(shard.get_tensor("latents"))
                sentences += json.loads(shard.metadata()["sentences"])
        self.shards, self.latents = len(paths), torch.cat(parts).to(self.device)
        said = sorted(set(sentences))
        place = {sentence: index for index, sentence in enumerate(said)}
        self.states, self.mask = self.text.read(said)
        self.which = torch.tensor([place[sentence] for sentence in sentences], device=self.device)

    def batch(self, count: int, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
        """Random latents [B, Z, t, h, w] in float32, text states [B, TOKENS, C] and mask [B, TOKENS]."""
        pick = torch.randint(len(self.latents), (count,), generator=generator, device=generator.device)
        words = self.which[pick]
        return self.latents[pick].float(), self.states[words].float(), self.mask[words]


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


def fused_attention(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
    """For a GPU: the fused kernel, but spelled out over the text, whose 20 masked tokens fused kernels must pad."""
    return attention(q, k, v) if mask is None else plain_attention(q, k, v, mask)


def running_with(attend: Attend) -> Run:
    """The seam with another attention."""

    def run(site: Site, branch: Any, x: Tensor, cond: Conditioning) -> Tensor:
        if isinstance(branch, SelfAttention | CrossAttention):
            return branch.add(x, branch.mix(branch.pre(x, cond), cond, attend=attend), cond)
        return branch.compute(x, cond, run)

    return run


def sample_timesteps(count: int, frames: int, generator: torch.Generator) -> Tensor:
    """Stratified uniform timesteps through the sampler's own shift, [count] in (0, 1000)."""
    device = generator.device
    u = (torch.rand(1, generator=generator, device=device) + torch.arange(count, device=device) / count) % 1
    u = u.clamp(1e-3, 1.0)[torch.randperm(count, generator=generator, device=device)]
    ratio = 1.0 if frames == 1 else frames**0.5
    return 1000 * ratio * u / (1 + (ratio - 1) * u)


def frame_mask(count: int, frames: int, generator: torch.Generator) -> Tensor:
    """x_mask [count, frames]: all True, but for some samples False at the first, last or both ends."""
    device = generator.device
    if frames == 1:
        return torch.ones(count, frames, dtype=torch.bool, device=device)
    some = torch.rand(count, generator=generator, device=device) < GIVEN_SHARE
    which = torch.randint(len(GIVEN_ENDS), (count,), generator=generator, device=device)
    place = torch.arange(frames, device=device)
    given = torch.stack([(place < first) | (place >= frames - last) for first, last in GIVEN_ENDS])
    return ~(some[:, None] & given[which])


def is_matrix(name: str, parameter: Tensor) -> bool:
    """Tell what Muon trains: the blocks' matrices."""
    return "blocks" in name and parameter.ndim == 2 and "table" not in name


def keep_apart(embedder: nn.Module) -> None:
    """Keep the compiler out of a patch embedder, whose output is made contiguous.

    Inductor (torch 2.13) read it transposed, in bfloat16, and on a CPU with AMX made NaN of half of it.
    """
    forward = embedder.forward
    embedder.forward = torch.compiler.disable(lambda x: forward(x).contiguous())  # type: ignore[method-assign]


class Network(Trainer):
    """The transformer in bfloat16 where it runs, over float32 masters, which the optimizers move."""

    def __init__(self, args: argparse.Namespace, config: dict[str, Any] = TRANSFORMER_CONFIG) -> None:
        self.config = config
        torch.manual_seed(args.seed)
        self.model = STDiT3(**config)
        initialise(self.model)
        if args.init is not None:
            self.model.load_state_dict(STDiT3.from_pretrained(folder_of(args.init) / "transformer").state_dict())
        self.model.to(args.device)
        named = [(name, p) for name, p in self.model.named_parameters() if name != "rope.freqs"]
        masters = [(name, nn.Parameter(p.detach().clone())) for name, p in named]
        self.working = [p for _, p in named]
        for part in (self.model.spatial_blocks, self.model.temporal_blocks, self.model.y_embedder.y_proj):
            part.to(torch.bfloat16)
        self.model.x_embedder.to(torch.bfloat16)
        self.model.final_layer.to(torch.bfloat16)
        self.fps = {frames: torch.tensor([120.0 if frames == 1 else FPS], device=args.device) for frames in (1, FRAMES)}
        self.run = running_with(plain_attention if args.device == "cpu" else fused_attention)
        if args.device == "cpu":
            keep_apart(self.model.x_embedder)
        self.compiled = Compiled(self.model, compile=args.compile)
        super().__init__(masters, is_matrix, self.flow_loss, args, floor=0.05, forward=self.compiled)

    def clear(self) -> None:
        """Forget gradients, those of the working parameters too."""
        super().clear()
        for working in self.working:
            working.grad = None

    def gather(self) -> None:
        """Gradients of the working parameters, for the masters in float32."""
        for master, working in zip(self.parameters, self.working, strict=True):
            master.grad = None if working.grad is None else torch.empty_like(master)
        pairs = [(m.grad, w.grad) for m, w in zip(self.parameters, self.working, strict=True) if m.grad is not None]
        torch._foreach_copy_([m for m, _ in pairs], [w for _, w in pairs])
        for working in self.working:
            working.grad = None

    def publish(self) -> None:
        """Copy the masters into the working parameters."""
        with torch.no_grad():
            torch._foreach_copy_(self.working, self.parameters)

    def draw(self, data: Latents, generator: torch.Generator) -> tuple[Tensor, ...]:
        """Latents [B, Z, t, h, w], text states, mask, dropped prompts, timesteps, denoised frames, noise of a step."""
        clips, states, mask = data.batch(self.args.batch, generator)
        host = torch.Generator().manual_seed(generator.initial_seed() ^ (1 << 62))  # shapes are chosen by the host
        if torch.rand(1, generator=host) < IMAGE_SHARE:
            clips = clips[:, :, :1]
        count, frames = clips.shape[0], clips.shape[2]
        options = {"generator": generator, "device": generator.device}
        dropped = torch.rand(count, **options) < self.model.config.class_dropout_prob
        t, denoised = sample_timesteps(count, frames, generator), frame_mask(count, frames, generator)
        return clips, states, mask, dropped, t, denoised, torch.randn(clips.shape, **options)

    def rehearsals(self, data: Latents) -> tuple[tuple[Tensor, ...], ...]:
        """Made-up inputs of both shapes: clips and single frames."""
        states, mask = data.text.read(["a"] * self.args.batch)
        made = []
        for frames in (FRAMES, 1):
            g = torch.Generator(self.args.device).manual_seed(0)
            shape = (self.args.batch, self.config["in_channels"], frames, SIDE // 4, SIDE // 4)
            clips = torch.randn(shape, generator=g, device=g.device)
            t, denoised = sample_timesteps(len(clips), frames, g), frame_mask(len(clips), frames, g)
            made.append(
                (clips, states.float(), mask, torch.zeros_like(mask[:, 0], dtype=torch.bool), t, denoised, clips)
            )
        return tuple(made)

    def flow_loss(
        self, data: Tensor, states: Tensor, mask: Tensor, dropped: Tensor, t: Tensor, denoised: Tensor, noise: Tensor
    ) -> Tensor:
        """Rectified-flow loss on the frames being denoised, the last weighted; see :meth:`draw`."""
        frames = data.shape[2]
        y = torch.where(dropped[:, None, None], self.model.y_embedder.y_embedding[:TOKENS], states)
        context = self.model.prepare(
            y[:, None], fps=self.fps[frames], height=SIDE, width=SIDE, latent_size=data.shape[2:]
        )
        context = context._replace(text_mask=(mask != 0)[:, None, None])
        level = (t[:, None] / 1000 * denoised)[:, None, :, None, None]
        # Single frames are few: they are not worth a second compilation.
        forward = self.compiled if frames > 1 else self.model
        v = forward((1 - level) * data + level * noise, t, x_mask=denoised, context=context, run=self.run)
        error = (v[:, : data.shape[1]] - (data - noise)).square().mean((1, 3, 4))
        weight = denoised.float()
        if frames > 1:
            last = torch.arange(frames, device=weight.device) == frames - 1
            weight = torch.where(last, weight * self.args.last_weight, weight)
        return (error * weight).sum() / weight.sum()

    def export(self, weights: dict[str, Tensor]) -> None:
        """Save the averaged network as a part of a pipeline folder."""
        model = STDiT3(**self.config)
        model.load_state_dict(model.state_dict() | weights)
        model.y_embedder.y_embedding.copy_(self.model.y_embedder.y_embedding)
        model.save_pretrained(self.args.out / "final" / "transformer")


def folder_of(named: Path) -> Path:
    """A pipeline folder; the packaged one for ``demo``."""
    return PACKAGED if str(named) == "demo" else named


def train(args: argparse.Namespace, config: dict[str, Any] = TRANSFORMER_CONFIG) -> None:
    """Train until the budget is spent; clips that have been encoded meanwhile are read when weights are exported."""
    trainer, text = Network(args, config), FrozenText(folder_of(args.text), args.device)
    data = Latents(args.latents, text, args.device)

    def load() -> None:
        wait_for_shards(args.latents, args)
        data.load()

    def export(weights: dict[str, Tensor]) -> None:
        trainer.export(weights)
        text.save(args.out / "final")
        data.load()

    fit(trainer, partial(trainer.draw, data), export, args, rehearsals=trainer.rehearsals(data), load=load)


def main() -> None:
    """Parse the command line and train."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--latents", type=Path, default=Path("runs/demo/latents"))
    parser.add_argument("--out", type=Path, default=Path("runs/demo/transformer"))
    parser.add_argument(
        "--from", dest="init", type=Path, help="pipeline folder, or demo, whose weights to start from, no checkpoint"
    )
    parser.add_argument(
        "--text", type=Path, default=Path("runs/demo/text/final"), help="folder, or demo, whose T5 reads the sentences"
    )
    parser.add_argument("--last-weight", type=float, default=1.0, help="weight of the last latent frame in the loss")
    add_options(parser, steps=60000, batch=8, lr=1e-3, warmup=200, cooldown=6000)
    parser.set_defaults(compile=True)
    train(parser.parse_args())


if __name__ == "__main__":
    main()
