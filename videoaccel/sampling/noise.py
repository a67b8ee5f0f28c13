"""Random numbers that belong to a sample: its clip does not depend on the batch that it was made in.

Shape legend: B samples.
"""

import hashlib
from collections.abc import Iterable, Sequence
from numbers import Integral

import torch
from torch import Tensor

from videoaccel.common.wording import counted
from videoaccel.models.protocols import StepNoise
from videoaccel.models.video_vae import Noise

MAX_SEED = 2**63 - 1


def sample_seeds(seed: int | Sequence[int], *, prompts: int, samples: int) -> list[int]:
    """Seeds of all samples, prompt by prompt: sample k of every prompt has ``seed + k``; or a list is taken as it is.

    Raises:
        ValueError: A list of another length, or a seed that is no whole number, below 0 or beyond 2^63 - 1.

    >>> sample_seeds(7, prompts=2, samples=2)
    [7, 8, 7, 8]
    """
    if isinstance(seed, Integral):
        seeds = [int(seed) + k for _ in range(prompts) for k in range(samples)]
    else:
        seeds = list(seed) if isinstance(seed, Iterable) else [seed]
    for value in seeds:
        if not isinstance(value, Integral):
            raise ValueError(f"a seed must be a whole number, got {value!r}")
        if not 0 <= int(value) <= MAX_SEED:
            raise ValueError(f"a seed must be between 0 and {MAX_SEED}, got {value}")
    if len(seeds) != prompts * samples:
        raise ValueError(
            f"{counted(len(seeds), 'seed')} for {counted(prompts, 'prompt')} with {counted(samples, 'sample')} each"
        )
    return [int(value) for value in seeds]


class SampleNoise:
    """One CPU generator a sample; whatever the device, the numbers are drawn there in float32.

    Args:
        generators: One a sample.
        device: Where the numbers are wanted.
    """

    def __init__(self, generators: Sequence[torch.Generator], *, device: torch.device | str = "cpu") -> None:
        self.generators, self.device = list(generators), torch.device(device)

    @classmethod
    def from_seeds(cls, seeds: Sequence[int], *, device: torch.device | str = "cpu") -> "SampleNoise":
        """Generators with these seeds."""
        return cls([torch.Generator().manual_seed(seed) for seed in seeds], device=device)

    def __len__(self) -> int:
        return len(self.generators)

    def draw(self, shape: Sequence[int]) -> Tensor:
        """Normal numbers [B, *shape], each sample's from its own generator."""
        parts = [torch.randn(tuple(shape), generator=g, device=g.device).cpu() for g in self.generators]
        return torch.stack(parts).to(self.device)

    def of_steps(self) -> StepNoise:
        """What the steps of a run draw from, beginning here: each step has a generator of its own for every sample.

        The samples' own generators are left as they are.
        """
        bases = [hashlib.sha256(g.get_state().numpy().tobytes()).digest() for g in self.generators]

        def generators(step: int) -> list[torch.Generator]:
            digests = [hashlib.sha256(base + step.to_bytes(8, "big")).digest() for base in bases]
            return [torch.Generator().manual_seed(int.from_bytes(digest[:7], "big")) for digest in digests]

        return generators

    def of(self, sample: int) -> Noise:
        """The source of one sample, as the VAE wants it."""
        generator = self.generators[sample]

        def noise(shape: torch.Size, dtype: torch.dtype) -> Tensor:
            return torch.randn(shape, generator=generator, device=generator.device).to(dtype)

        return noise
