"""How much of a second rank arrives: N ranks against one, of one thread each, on the same clip, in turn.

    python -m benchmarks.ranks --ranks 2                        # the demo model's network and a larger one
    python -m benchmarks.ranks --ranks 2 --rounds 10 --case large

Ranks live through the whole run. In every round one rank alone makes a denoising run while the others wait, then all
make the same run together: the two times of a round are a pair, taken within seconds of each other. Efficiency is the
time alone over N times the time together; the slowest rank counts. What the machine itself allows is measured in the
same round: all ranks make a run each, with nothing to tell each other. Cores that share a memory bus, or are two
threads of one, are slower together than one is alone, whatever the ranks do; ``efficiency_of_what_is_there`` is against
that.
"""

import argparse
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from benchmarks.measure import Ratio, keep
from videoaccel.generation.prepared import Denoising, plain
from videoaccel.models.stdit import STDiT3
from videoaccel.parallel.degrees import Degrees
from videoaccel.parallel.launch import start_ranks
from videoaccel.parallel.layout import Layout, MeshLayout
from videoaccel.parallel.mesh import Mesh, ranks_here
from videoaccel.parallel.shards import Shards
from videoaccel.sampling.rectified_flow import euler
from videoaccel.session.policy import Session

NAMES = ("cond", "uncond")
CASES: dict[str, dict[str, Any]] = {
    # The demo model's network, and one of about Open-Sora's proportions in small; latents are t, h, w.
    "demo": {
        "network": {"hidden_size": 256, "depth": 6, "num_heads": 4, "caption_channels": 128, "model_max_length": 40},
        "latent": (5, 16, 16),
        "steps": 4,
    },
    "large": {
        "network": {"hidden_size": 512, "depth": 4, "num_heads": 8, "caption_channels": 128, "model_max_length": 40},
        "latent": (8, 32, 32),
        "steps": 2,
    },
}


def denoising_of(case: dict[str, Any], mesh: Mesh, names: tuple[str, ...]) -> Denoising:
    """A run with guidance of a random network; over the ranks of a mesh, or alone."""
    torch.manual_seed(0)
    model = STDiT3(**case["network"], input_sq_size=64).eval()
    size, steps = case["latent"], case["steps"]
    _, rows, columns = model.token_grid(size)
    layout: Layout = Layout()
    if mesh.clip.size > 1:
        layout = MeshLayout(mesh, Shards(rows * columns, mesh.sequence.size), NAMES)
    generator = torch.Generator().manual_seed(1)
    text = torch.randn(2, 1, 40, 128, generator=generator)
    told = {"fps": torch.tensor([8.0]), "height": 64.0, "width": 64.0, "latent_size": size}
    context = model.prepare(text, mask=(torch.arange(40) < 12).long()[None], **told)
    sigmas = torch.linspace(1, 0, steps + 1)[None]
    timesteps = 1000 * sigmas[:, :-1].T
    return Denoising(
        model=model,
        context=context.rows([NAMES.index(name) for name in names]),
        branches=names,
        guidance_scale=4.0,
        z=torch.randn(1, 4, *size, generator=generator),
        timesteps=timesteps,
        sigmas=sigmas,
        update=euler(timesteps),
        mask=None,
        draw=lambda: torch.zeros(()),
        seed=0,
        layout=layout,
    )


def seconds(work: Callable[[], Any]) -> float:
    """How long it takes."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


@torch.inference_mode()
def rank_main(case: str, degrees: Degrees, rounds: int) -> dict[str, Any]:
    """One rank's part."""
    torch.set_num_threads(1)
    with Mesh.from_env(degrees, patience=3600) as mesh:
        names = NAMES if degrees.guidance == 1 else (NAMES[mesh.guidance.rank],)
        shared, alone = denoising_of(CASES[case], mesh, names), denoising_of(CASES[case], Mesh(), NAMES)

        def together() -> torch.Tensor:
            return shared.denoise(Session(shared.job(), mix=shared.layout.mix))

        difference = float((together() - plain(alone)).abs().max())
        one, many, apart = [], [], []
        for _ in range(rounds):
            mesh.calm.each(None)
            one.append(seconds(lambda: plain(alone)) if mesh.first else 0.0)
            mesh.calm.each(None)
            many.append(max(mesh.calm.each(seconds(together))))
            mesh.calm.each(None)
            apart.append(max(mesh.calm.each(seconds(lambda: plain(alone)))))
        count = degrees.ranks
        ratio, there = Ratio.of(one, many), Ratio.of(apart, many)
        return {
            "largest_difference": difference,
            "seconds_alone": sorted(one)[rounds // 2],
            "seconds_together": sorted(many)[rounds // 2],
            "speedup": str(ratio),
            "efficiency": str(ratio.over(count)),
            "efficiency_of_what_is_there": str(there.over(count)),
            "machine_alone": str(Ratio.of(one, apart)),
            "bytes_sent_by_first": dict(mesh.sequence.ledger.sent),
        }


def main() -> None:
    """Start the ranks, case by case and split by split, and keep the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--case", choices=CASES, action="append")
    parser.add_argument("--part", nargs=4, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.part:
        import json

        case, guidance, rounds, file = given.part
        degrees = Degrees(1, int(guidance), ranks_here() // int(guidance))
        found = rank_main(case, degrees, int(rounds))
        if found["seconds_alone"]:
            Path(file).write_text(json.dumps(found))
        return
    result: dict[str, Any] = {"ranks": given.ranks, "threads_per_rank": 1, "rounds": given.rounds, "cases": {}}
    for case in given.case or CASES:
        for guidance in (1, 2) if given.ranks % 2 == 0 else (1,):
            result["cases"][f"{case}, guidance {guidance} x sequence {given.ranks // guidance}"] = _started(
                given, case, guidance
            )
    keep("ranks", result)


def _started(given: argparse.Namespace, case: str, guidance: int) -> Any:
    import json
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "found.json"
        part = [sys.executable, "-m", "benchmarks.ranks", "--part", case, str(guidance), str(given.rounds), str(file)]
        if code := start_ranks(part, ranks=given.ranks):
            raise subprocess.CalledProcessError(code, part)
        return json.loads(file.read_text())


if __name__ == "__main__":
    main()
