"""What the seam costs when nothing is attached.

    python -m benchmarks.seam

Two measurements of the demo model's geometry. The call: microseconds of a seam call around a branch that does nothing,
times the calls of a step, over the time of a step; it must stay below 1 %. The whole: a forward pass through the seam
against the same pass with direct calls, in turn, as a ratio with its interval.
"""

import argparse
import time
from typing import Any

import torch
from torch import Tensor

from benchmarks.measure import Ratio, interleaved, keep
from tests.models.straight import straight_step
from videoaccel.models.seam import Site, Work, direct
from videoaccel.models.stdit import STDiT3

GEOMETRY = {"hidden_size": 256, "depth": 6, "num_heads": 4, "caption_channels": 128, "model_max_length": 40}


class NullBranch:
    """A branch that does nothing, called as the others are."""

    def compute(self, x: Tensor, cond: Any, run: Any) -> Tensor:
        """Return x."""
        return x


def microseconds_per_call(calls: int = 200_000) -> float:
    """A seam call around a null branch, the loop's own cost taken off."""
    site, branch, x = Site("mlp", "space", 3), NullBranch(), torch.zeros(1)
    best = []
    for _ in range(5):
        start = time.perf_counter()
        for _ in range(calls):
            pass
        middle = time.perf_counter()
        for _ in range(calls):
            direct(site, branch, x, None)
        best.append((time.perf_counter() - middle) - (middle - start))
    return sorted(best)[2] / calls * 1e6


def calls_per_step(model: STDiT3, inputs: dict[str, Any]) -> int:
    """Seam calls of one forward pass."""
    count = 0

    def run(site: Site, branch: Work, x: Tensor, cond: Any) -> Tensor:
        nonlocal count
        count += 1
        return branch.compute(x, cond, run)

    model(**inputs, run=run)
    return count


@torch.inference_mode()
def main() -> None:
    """Measure and keep the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=40)
    rounds = parser.parse_args().rounds
    torch.manual_seed(0)
    model = STDiT3(**GEOMETRY, input_sq_size=64).eval()
    x, mask = torch.randn(2, 4, 5, 16, 16), (torch.arange(40) < 12).long()[None]
    size = {"fps": torch.tensor([8.0]), "height": 64.0, "width": 64.0, "latent_size": x.shape[2:]}
    context = model.prepare(torch.randn(2, 1, 40, 128), mask=mask, **size)
    inputs = {"x": x, "timestep": torch.tensor([500.0, 500.0]), "x_mask": None, "context": context}
    assert torch.equal(model(**inputs), straight_step(model, **inputs))
    seam, straight = interleaved([lambda: model(**inputs), lambda: straight_step(model, **inputs)], rounds=rounds)
    call, calls, step = microseconds_per_call(), calls_per_step(model, inputs), sorted(seam)[len(seam) // 2]
    result = {
        "microseconds_per_seam_call": round(call, 3),
        "seam_calls_per_step": calls,
        "step_milliseconds_median": round(step * 1e3, 2),
        "seam_share_of_step_percent": round(call * calls / (step * 1e6) * 100, 4),
        "forward_seam_over_direct_calls": str(Ratio.of(seam, straight)),
        "rounds": rounds,
    }
    keep("seam", result)


if __name__ == "__main__":
    main()
