"""A tiny random pipeline of diffusers' own classes with the arguments of a call: embeddings in, latents out."""

import inspect
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

NETWORKS = ("transformer", "transformer_2", "unet", "prior", "decoder", "controlnet")


@dataclass
class Run:
    """What a call of a pipeline gave, and what it left behind."""

    tensors: list[Tensor]
    generator: Tensor
    rng: Tensor

    def equals(self, other: "Run") -> bool:
        """To the last bit, with the same random numbers drawn."""
        return (
            len(self.tensors) == len(other.tensors)
            and all(torch.equal(one, two) for one, two in zip(self.tensors, other.tensors, strict=True))
            and self.same_draws(other)
        )

    def same_draws(self, other: "Run") -> bool:
        return torch.equal(self.generator, other.generator) and torch.equal(self.rng, other.rng)

    def finite(self) -> bool:
        return all(bool(tensor.isfinite().all()) for tensor in self.tensors)

    def away_from(self, other: "Run") -> float:
        """Greatest relative difference."""
        pairs = zip(self.tensors, other.tensors, strict=True)
        return max(float((one - two).norm() / two.norm()) for one, two in pairs)


@dataclass
class Tiny:
    """A pipeline with the arguments of a call.

    Attributes:
        pipe: The pipeline.
        options: Arguments of a call.
        fixed: Seed of what the pipeline draws from the global generator.
        calls: How often each network ran.
    """

    pipe: Any
    options: dict[str, Any]
    fixed: int = 7
    calls: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        if hasattr(self.pipe, "set_progress_bar_config"):
            self.pipe.set_progress_bar_config(disable=True)
        for name in NETWORKS:
            if isinstance(network := getattr(self.pipe, name, None), torch.nn.Module):
                network.register_forward_hook(lambda *_, name=name: self.calls.update([name]))

    def __call__(self, *, steps: int = 12, seed: int = 0, **options: Any) -> Run:
        """Call it; counts calls anew."""
        self.calls.clear()
        generator = torch.Generator().manual_seed(seed)
        torch.manual_seed(self.fixed)
        out = self.pipe(num_inference_steps=steps, generator=generator, **{**self.options, **options})
        values = [out] if isinstance(out, Tensor) else out.values()
        tensors = [torch.as_tensor(value).float() for value in values if not isinstance(value, list | type(None))]
        return Run(tensors, generator.get_state(), torch.get_rng_state())


def numbers(*shape: int, seed: int = 3) -> Tensor:
    """Normal random numbers."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def pair(*shape: int) -> tuple[Tensor, Tensor]:
    """Embeddings of a prompt and of no prompt."""
    both = numbers(2, *shape)
    return both[0], both[1]


def made(pipeline: type, **parts: Any) -> Any:
    """A pipeline whose other components are None."""
    names = inspect.signature(pipeline.__init__).parameters
    nothing = {n: None for n, p in names.items() if n != "self" and p.default is inspect.Parameter.empty}
    return pipeline(**{**nothing, **parts})
