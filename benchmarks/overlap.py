"""Does it pay to send a switch in two halves, one on its way while the other is computed? Two ranks, in turn.

    python -m benchmarks.overlap

The rows of a call (its guidance branches) are cut in half: the second half's message travels while the first half's
attention is computed, and the first half's answer while the second's is. The same numbers come out. It would be a
layout of its own, kept only where it is faster; docs/decisions.md says what came of it.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from benchmarks.measure import Ratio, keep
from benchmarks.ranks import CASES, NAMES, denoising_of, seconds
from videoaccel.models.seam import Branch, Site
from videoaccel.parallel.degrees import Degrees
from videoaccel.parallel.launch import start_ranks
from videoaccel.parallel.layout import Layout, MeshLayout, cut, joined, padded
from videoaccel.parallel.mesh import Mesh
from videoaccel.session.policy import Session

Waited = Callable[[], Tensor]
"""Waits for a message, and returns what came."""


class Overlapping(MeshLayout):
    """Spatial attention in two halves of the rows, each of whose messages travels while the other is computed."""

    def spread(
        self, site: Site, branch: Branch, h: Tensor, cond: Any, *, counts: Sequence[int], **options: Any
    ) -> Tensor:
        """See :meth:`MeshLayout.spread`; of all columns."""
        options = {name: value for name, value in options.items() if value is not None}
        if len(h) < 2 or options.keys() - {"attend"}:
            return super().spread(site, branch, h, cond, counts=counts, columns=None, **options)
        size, each, frames = self.comm.size, counts[0], h.shape[1]
        halves = [self._sent(cut(padded(half, each, dim=2), size, -(-frames // size), dim=1)) for half in h.chunk(2)]
        answers: list[Waited] = []
        for half in halves:
            whole = joined(half(), dim=2, length=self.shards.places)
            out = Layout.mix(self, site, branch, whole, cond, **options)
            answers.append(self._sent(cut(out, size, each, dim=2)))
        outs = [joined(answer(), dim=1, length=frames) for answer in answers]
        return torch.cat(outs).narrow(2, 0, h.shape[2])

    def _sent(self, x: Tensor) -> Waited:
        x = x.contiguous()
        out = torch.empty_like(x)
        work = dist.all_to_all_single(out, x, group=self.comm.group, async_op=True)

        def wait() -> Tensor:
            work.wait()
            return out

        return wait


@torch.inference_mode()
def rank_main(case: str, rounds: int) -> dict[str, Any]:
    """One rank's part."""
    torch.set_num_threads(1)
    with Mesh.from_env(Degrees(1, 1, 2), patience=3600) as mesh:
        plainly = denoising_of(CASES[case], mesh, NAMES)
        assert isinstance(plainly.layout, MeshLayout)
        halved = replace(plainly, layout=Overlapping(mesh, plainly.layout.shards, NAMES))
        runs = [lambda run=run: run.denoise(Session(run.job(), mix=run.layout.mix)) for run in (plainly, halved)]
        difference = float((runs[0]() - runs[1]()).abs().max())
        times: list[list[float]] = [[], []]
        for _ in range(rounds):
            for number, run in enumerate(runs):
                mesh.calm.each(None)
                times[number].append(max(mesh.calm.each(seconds(run))))
        return {
            "largest_difference": difference,
            "seconds_whole": sorted(times[0])[rounds // 2],
            "seconds_in_halves": sorted(times[1])[rounds // 2],
            "whole_over_halves": str(Ratio.of(*times)),
            "first": mesh.first,
        }


def main() -> None:
    """Start two ranks for each case, and keep the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--part", nargs=2, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.part:
        case, file = given.part
        found = rank_main(case, given.rounds)
        if found.pop("first"):
            Path(file).write_text(json.dumps(found))
        return
    cases: dict[str, Any] = {}
    for case in CASES:
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "found.json"
            part = [
                sys.executable,
                "-m",
                "benchmarks.overlap",
                "--rounds",
                str(given.rounds),
                "--part",
                case,
                str(file),
            ]
            if code := start_ranks(part, ranks=2):
                raise subprocess.CalledProcessError(code, part)
            cases[case] = json.loads(file.read_text())
    keep("overlap", {"ranks": 2, "threads_per_rank": 1, "rounds": given.rounds, "cases": cases})


if __name__ == "__main__":
    main()
