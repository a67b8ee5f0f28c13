"""Ranks on one GPU: NCCL in a group of one, and two processes that share a clip, exchanging through the host."""

import os
import subprocess
import sys
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from benchmarks.gpu.bench import GUIDANCE, Bench, error
from videoaccel.generation.prepared import Denoising
from videoaccel.parallel.comm import Comm, _gather
from videoaccel.parallel.degrees import Degrees
from videoaccel.parallel.layout import MeshLayout
from videoaccel.parallel.mesh import Mesh
from videoaccel.parallel.shards import Shards
from videoaccel.session.policy import Session

BRANCHES = ("cond", "uncond")


def ranks(bench: Bench) -> None:
    """Both, in processes of their own."""
    if bench.cuda:
        bench.attempt("NCCL, a group of one", lambda: _child(bench, "nccl", processes=1))
    bench.attempt("two ranks against one", lambda: _child(bench, "shared", processes=2))


def _child(bench: Bench, what: str, *, processes: int) -> Any:
    port = "29611" if what == "nccl" else "29612"
    launch = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", str(processes), "--master-port", port]
    command = [*launch, "-m", "benchmarks.gpu.ranks", what, bench.device.type, *(["tiny"] if bench.tiny else [])]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=90, env=environment)
    lines = [line.removeprefix("FOUND ") for line in done.stdout.splitlines() if line.startswith("FOUND ")]
    if not lines:
        raise RuntimeError(done.stderr[-400:])
    return lines


def nccl() -> None:
    """The collectives that layouts use, by NCCL."""
    torch.cuda.set_device(0)
    dist.init_process_group("cpu:gloo,cuda:nccl")
    x = torch.randn(1, 1 << 20, device="cuda", dtype=torch.bfloat16)
    swapped, gathered = torch.empty_like(x), torch.empty_like(x)
    dist.all_to_all_single(swapped, x)
    _gather(gathered.flatten(0, 1), x)
    torch.cuda.synchronize()
    print("FOUND", torch.cuda.nccl.version(), "all equal:", torch.equal(x, swapped) and torch.equal(x, gathered))
    dist.destroy_process_group()


def through_the_host(comm: type[Comm]) -> None:
    """Let collectives of CPU groups take tensors of the device: NCCL refuses two ranks on one GPU."""
    for name in ("all_to_all", "all_gather", "broadcast"):
        original = getattr(comm, name)

        def hop(self: Comm, x: Tensor, *args: Any, _original: Any = original, **options: Any) -> Tensor:
            return _original(self, x.cpu(), *args, **options).to(x.device)

        setattr(comm, name, hop)


def shared(device: str, *, tiny: bool) -> None:
    """Dynamic sequence parallelism on CUDA tensors: two ranks against one."""
    through_the_host(Comm)
    bench = Bench(torch.device(device), tiny=tiny, file=None, until=0)
    with Mesh.from_env(Degrees(1, 1, 2), device="cpu") as mesh, torch.inference_mode():
        model = bench.fresh(depth=2)
        step = bench.step(model=model)
        _, rows, columns = model.token_grid(bench.latent)
        layout = MeshLayout(mesh, Shards(rows * columns, 2), BRANCHES)
        denoising = Denoising(
            model, step["context"], BRANCHES, GUIDANCE, step["x"][:1], torch.full((1, 1), 500.0, device=device),
            torch.tensor([[1.0, 0.0]]), lambda i, x, out: x, None, lambda: step["x"][:1], 0, layout=layout,
        )  # fmt: skip
        session = Session(denoising.job(), mix=layout.mix)
        found = error(model(**step, run=layout.around(session.run)), model(**step))
        if mesh.first:
            print("FOUND relative error", found, "bytes sent", mesh.sequence.ledger.sent, flush=True)


if __name__ == "__main__":
    what, *rest = sys.argv[1:]
    nccl() if what == "nccl" else shared(rest[0], tiny="tiny" in rest)
