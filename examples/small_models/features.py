"""Train a small classifier of stills, whose features serve a Fréchet distance in the way of FID's Inception network.

    python -m examples.small_models.features --out runs/small/features

Shape legend: B stills, H, W pixels, C features.

Source of the distance: Heusel et al., "GANs trained by a two time-scale update rule converge to a local Nash
equilibrium" (2017). Its numbers are not FIDs, which need Inception's features.
"""

import argparse
from itertools import pairwise

import torch
import torch.nn.functional as F
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor, nn

from examples.small_models.recipe import seeded_stills, trainer_of, training_arguments
from examples.training import fit
from videoaccel.eval.world import BACKGROUNDS, COLOURS, SHAPES, Scene

QUESTIONS = (tuple(COLOURS), tuple(SHAPES), tuple(BACKGROUNDS))  # the first actor's, and the ground's


class StillClassifier(ModelMixin, ConfigMixin):
    """Five convolutions that halve the picture, a mean over places, a linear answer to each question."""

    @register_to_config
    def __init__(self, *, width: int = 64) -> None:
        super().__init__()
        channels = (3, width // 2, width, width, width, width)
        self.convolutions = nn.ModuleList(nn.Conv2d(i, o, 3, stride=2, padding=1) for i, o in pairwise(channels))
        self.answers = nn.ModuleList(nn.Linear(width, len(words)) for words in QUESTIONS)

    def features(self, x: Tensor) -> Tensor:
        """Features [B, C] of stills [B, 3, H, W] in [-1, 1]."""
        for convolution in self.convolutions:
            x = F.silu(convolution(x))
        return x.mean((2, 3))

    def forward(self, x: Tensor) -> list[Tensor]:
        """Logits for each question, [B, words]."""
        features = self.features(x)
        return [answer(features) for answer in self.answers]


def truth(scenes: list[Scene]) -> list[Tensor]:
    """The right word's place for each question, [B]; of two actors, the first's."""
    said = [(s.actors[0].colour, s.actors[0].shape, s.background) for s in scenes]
    columns = zip(*said, strict=True)
    return [torch.tensor([words.index(w) for w in column]) for words, column in zip(QUESTIONS, columns, strict=True)]


@torch.inference_mode()
def evaluate(network: StillClassifier, *, count: int = 512) -> list[float]:
    """Share of right answers to each question on stills that training never saw."""
    scenes, x = next(seeded_stills(10**6, count))
    return [float((a.argmax(1) == t).float().mean()) for a, t in zip(network(x), truth(scenes), strict=True)]


def frechet_distance(a: Tensor, b: Tensor) -> float:
    """Distance between the normal distributions fitted to two sets of features, [N, C] and [M, C].

    Raises:
        ValueError: A set has fewer than two members.
    """
    if min(len(a), len(b)) < 2:
        raise ValueError(f"a covariance needs two stills or more, there are {len(a)} and {len(b)}")
    a, b = a.double(), b.double()
    one, other = torch.cov(a.T), torch.cov(b.T)
    values, vectors = torch.linalg.eigh(one)
    root = vectors * values.clamp_min(0).sqrt() @ vectors.T
    shared = torch.linalg.eigvalsh(root @ other @ root).clamp_min(0).sqrt().sum()
    return float((a.mean(0) - b.mean(0)).square().sum() + one.trace() + other.trace() - 2 * shared)


def train(args: argparse.Namespace) -> None:
    """Train on stills drawn as they come; slight noise, so that a decoder's faint errors do not decide."""
    torch.manual_seed(args.seed)
    network = StillClassifier().to(args.device)

    def draw(generator: torch.Generator) -> tuple[Tensor, ...]:
        seed = int(torch.randint(2**40, (1,), generator=generator, device=generator.device))
        scenes, x = next(seeded_stills(seed, args.batch))
        x = x.to(args.device)
        x = x + 0.05 * torch.randn(x.shape, generator=generator, device=generator.device)
        return x, *(t.to(args.device) for t in truth(scenes))

    def loss(x: Tensor, *truths: Tensor) -> Tensor:
        answers = zip(network(x), truths, strict=True)
        return sum((F.cross_entropy(a, t) for a, t in answers), torch.zeros((), device=x.device))

    def export(weights: dict[str, Tensor]) -> None:
        copy = StillClassifier()
        copy.load_state_dict(weights)
        copy.save_pretrained(args.out / "final")
        print(f"right answers: {evaluate(copy)}", flush=True)

    fit(trainer_of(network, loss, args), draw, export, args)


def main() -> None:
    """Parse the command line and train."""
    parser = training_arguments("runs/small/features", steps=1500, batch=32, lr=2e-3, warmup=50, cooldown=1000)
    train(parser.parse_args())


if __name__ == "__main__":
    main()
