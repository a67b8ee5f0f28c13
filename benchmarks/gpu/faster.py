"""Ways to make a step faster: compiled parts, kernels, fp8, the network compiled as a whole."""

import copy
import time
from typing import Any

from torch import nn

from benchmarks.gpu.bench import Bench, error, using
from benchmarks.gpu.network import by_kind
from videoaccel.models.compiled import compile_branches
from videoaccel.models.fp8 import quantize_linears
from videoaccel.models.fused import fuse
from videoaccel.models.stdit import STDiT3


def _timed(bench: Bench, model: STDiT3, *, backends: tuple[str, ...] = ("default",)) -> None:
    """First call, error against eager, milliseconds, host time, memory, and where the time goes."""
    step, wanted = bench.step(), bench.model(**bench.step())
    start = time.time()
    out = model(**step)
    bench.wait()
    bench.put("seconds of the first call", round(time.time() - start, 1))
    bench.put("error against eager", round(error(out, wanted), 6))
    for name in backends:

        def work(name: str = name) -> list[float]:
            with using(name):
                return bench.rate(bench.ms(lambda: model(**step), runs=6, warm=2))

        bench.attempt(f"ms, TFLOP/s: {name}", work)
    bench.put("host ms", bench.host_ms(lambda: model(**step)))
    bench.put("peak GiB", bench.peak_gib(lambda: model(**step)))
    rows = bench.profile(lambda: model(**step))
    bench.put("ms by kind", by_kind(rows))
    bench.put("longest", [[name[:110], count, round(ms, 3)] for name, count, ms in rows[:22]])


def share(model: nn.Module) -> Any:
    """A copy of the modules with the very same tensors."""
    memo = {id(tensor): tensor for tensor in [*model.parameters(), *model.buffers()]}
    return copy.deepcopy(model, memo)


def compiled_parts(bench: Bench) -> None:
    """The parts of all modules compiled."""
    from torch._dynamo.utils import counters

    model = share(bench.model)
    compile_branches(model)
    before = counters["stats"]["unique_graphs"]
    _timed(bench, model, backends=("default", "flash", "cudnn"))
    bench.put("graphs", counters["stats"]["unique_graphs"] - before)


def kernels_in(bench: Bench) -> None:
    """Our Triton kernels in all modules, nothing compiled."""
    model = share(bench.model)
    bench.put("modules", fuse(model))
    _timed(bench, model)


def kernels_and_compiled(bench: Bench) -> None:
    """Kernels in the modules, and the parts compiled around them."""
    model = share(bench.model)
    fuse(model)
    compile_branches(model)
    _timed(bench, model)


def fp8(bench: Bench) -> None:
    """Kernels, and linears of all blocks but the first and last in fp8, a scale a row."""
    model = copy.deepcopy(bench.model)
    fuse(model)
    bench.put("linears", quantize_linears(model))
    _timed(bench, model)


def whole_compile(bench: Bench) -> None:
    """The network as one graph, for comparison: only methods that decide about whole steps can use it."""
    model = share(bench.model)
    model.compile(fullgraph=True, dynamic=False)
    _timed(bench, model)


def memory_720p(bench: Bench) -> None:
    """102 frames at 720p: time and memory of a step."""
    if bench.tiny:
        return
    latent = (30, 90, 160)
    step, model = bench.step(latent), bench.model
    bench.put("ms, TFLOP/s", bench.rate(bench.ms(lambda: model(**step), runs=1, warm=1), latent))
    bench.put("peak GiB", bench.peak_gib(lambda: model(**step)))
