"""What SADA's criteria see on the demo model: how velocities change from step to step, and how well they are foretold.

    python -m benchmarks.sada_signals

For the steps of dense runs: ``rho``, the size of the last change of the guided velocity over that of the one before,
per unit of sigma; ``cosine`` between the two; ``error``, how far a line through the last two velocities misses the next
one, relative to it; and the share of clips that each criterion calls stable there. Averages over prompts.
"""

import argparse
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.measure import keep
from videoaccel.generation.pipeline import VideoPipeline
from videoaccel.policies._sada_stability import Node, extrapolate, sign_products, slopes
from videoaccel.policies.sada import Sada
from videoaccel.sampling.guidance import combine
from videoaccel.session.job import Call, Velocities
from videoaccel.session.policy import Session

PROMPTS = Path(__file__).parent / "prompts.txt"


class Listening(Session):
    """A dense run that keeps the guided velocity of every step."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.heard: list[Tensor] = []

    def predict(self, i: int, x: Tensor, call: Call) -> Velocities:
        """See :meth:`Session.predict`."""
        out = super().predict(i, x, call)
        self.heard.append(combine(out, self.job.guidance_scale)[0].float())
        return out


def signals(nodes: list[Node]) -> dict[str, float]:
    """Of the last three velocities, and of the one before them for the error."""
    late, early = slopes(nodes[-3:])
    foretold = extrapolate(nodes[-1].at, nodes[-3:-1])
    value = nodes[-1].value
    return {
        "rho": float(late.norm() / early.norm()),
        "cosine": float(torch.nn.functional.cosine_similarity(late.flatten(), early.flatten(), dim=0)),
        "error": float((foretold - value).norm() / value.norm()),
        "stable_paper": float(sign_products("paper", nodes[-3:]).sum() < 0),
        "stable_ab2": float(sign_products("ab2", nodes[-3:]).sum() < 0),
    }


@torch.inference_mode()
def main() -> None:
    """Run the clips and keep the averages."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=4)
    args = parser.parse_args()
    pipe = VideoPipeline.from_pretrained("demo")
    prompts = [line for line in PROMPTS.read_text().splitlines() if line and not line.startswith("#")][: args.count]
    found: list[list[dict[str, float]]] = []
    for prompt in prompts:
        run = pipe.denoising(pipe.request(prompt, seed=0))
        session = Listening(run.job())
        run.denoise(session)
        sigmas = run.sigmas[0].tolist()
        nodes = [Node(at, value) for at, value in zip(sigmas, session.heard, strict=False)]
        found.append([signals(nodes[: i + 1]) for i in range(2, len(nodes))])
    steps = [
        {"step": i, **{name: round(sum(clip[i - 2][name] for clip in found) / len(found), 4) for name in found[0][0]}}
        for i in range(2, len(found[0]) + 2)
    ]
    keep("sada_signals", {"clips": len(found), "default_threshold": Sada().threshold, "steps": steps})


if __name__ == "__main__":
    main()
