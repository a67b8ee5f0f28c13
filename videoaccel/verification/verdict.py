"""What ranks made against what one made, for either kind of model: stage by stage, and decision by decision."""

import hashlib
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import yaml
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from videoaccel.common.tensor_files import tensors_of
from videoaccel.common.wording import counted
from videoaccel.parallel.comm import RankError
from videoaccel.parallel.degrees import Degrees
from videoaccel.parallel.launch import start_ranks
from videoaccel.parallel.mesh import Mesh
from videoaccel.session.registry import named_method, policy_class
from videoaccel.settings.generate import GenerateSettings
from videoaccel.settings.method_fields import SIGN

EXACT, OFF = "exact", "off"
"""No method at all, and the machinery with nothing changed: these two must agree bit for bit."""

TOLERANCES: Mapping[str, float] = {"text": 0.0, "noise": 0.0, "pass": 1e-5, "latents": 1e-4, "frames": 1.0}
"""By stage the largest difference that counts as equal, in float32: states, noise, one network pass relative to its
largest value, latents after all steps, decoded frames in grey levels. Zero means bit for bit."""


class RanksEndedError(RankError):
    """Ranks that were started have failed, and said why; the second argument is their exit code."""


@dataclass(frozen=True)
class Verdict:
    """One way of making a clip against the first.

    Attributes:
        method: Acceleration, or ``exact``.
        degrees: Of the ranks.
        differences: By stage, the largest.
        decisions: Whether all decisions are those of one rank.
        bits: Whether everything is that of ``exact`` bit for bit, of ``off``; None of other methods.
    """

    method: str
    degrees: Degrees
    differences: Mapping[str, float]
    decisions: bool
    bits: bool | None = None

    @property
    def holds(self) -> bool:
        """Whether everything is within its tolerance; not-a-number is not."""
        close = all(found <= TOLERANCES[stage] for stage, found in self.differences.items())
        return close and self.decisions and self.bits is not False


@dataclass(frozen=True)
class Made:
    """What some ranks made of one method: tensors by stage, and a hash of all decisions."""

    stages: Mapping[str, Tensor]
    decisions: str


def fields_of(method: str) -> set[str]:
    """What a method can be told; of two methods, their names."""
    if method == EXACT:
        return set()
    name, _ = named_method(method)
    return set(name.split(SIGN)) if SIGN in name else set(policy_class(name).model_fields)


def made_by_ranks(
    settings: GenerateSettings, degrees: Degrees, methods: Sequence[str], *, device: str, folder: Path
) -> dict[str, Made]:
    """Have ranks make a clip with every method.

    Raises:
        RanksEndedError: They failed; what they say stands on stderr.
    """
    name = "-".join(map(str, degrees))
    told = {"settings": settings.model_dump(mode="json"), "degrees": list(degrees), "methods": list(methods)}
    (folder / f"{name}.yaml").write_text(yaml.safe_dump(told), encoding="utf-8")
    command = [sys.executable, "-m", "videoaccel.cli.verify_rank", str(folder / name)]
    if code := start_ranks(command, ranks=degrees.ranks, device=device):
        ranks = counted(degrees.ranks, "rank")
        raise RanksEndedError(f"{ranks} ({degrees}) ended with exit code {code}; what was said stands above", code)
    with safe_open(str(folder / f"{name}.safetensors"), "pt") as file:
        tensors = tensors_of(file)
        decisions = file.metadata()
    return {
        method: Made(
            {key.partition("/")[2]: value for key, value in tensors.items() if key.startswith(f"{method}/")},
            decisions[method],
        )
        for method in methods
    }


def compared(method: str, degrees: Degrees, made: Made, one: Made, exact: Made | None) -> Verdict:
    """What some ranks made against one rank, and ``off`` against ``exact`` of the same ranks."""
    differences = {
        stage: _difference(stage, made.stages[stage], one.stages[stage]) for stage in TOLERANCES if stage in made.stages
    }
    same = made.decisions == one.decisions
    bits = None
    if method == OFF and exact is not None:
        bits = all(torch.equal(value, exact.stages[stage]) for stage, value in made.stages.items())
    return Verdict(method, degrees, differences, same, bits)


def _difference(stage: str, a: Tensor, b: Tensor) -> float:
    if a.shape != b.shape:
        return float("inf")
    largest = float((a.float() - b.float()).abs().max())
    return largest / max(1.0, float(b.abs().max())) if stage == "pass" else largest


def written(name: str, made: Mapping[str, Made]) -> None:
    """What the first rank made with every method, into ``NAME.safetensors``."""
    tensors = {
        f"{method}/{stage}": value.cpu().contiguous()
        for method, one in made.items()
        for stage, value in one.stages.items()
    }
    save_file(tensors, f"{name}.safetensors", metadata={method: one.decisions for method, one in made.items()})


def require_one_latent(latents: Tensor, mesh: Mesh) -> None:
    """Make sure that all ranks came to the same.

    Raises:
        RankError: One did not.
    """
    digest = hashlib.sha256(latents.cpu().numpy().tobytes()).hexdigest()
    found = mesh.calm.each(digest)
    if other := [rank for rank, one in enumerate(found) if one != found[0]]:
        raise RankError(f"rank {other[0]} came to other latents than rank 0")
