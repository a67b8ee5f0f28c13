"""The device and the network as it is: ceilings, a dense step, released numbers, where the time goes."""

import copy
import re
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch
import torch.nn.functional as F

from benchmarks.gpu.bench import BACKENDS, BF16, SMALL, Bench, error, using
from tests import golden_values
from videoaccel.models.stdit import STDiT3
from videoaccel.session.policy import Session

KINDS = (
    ("products", r"gemm|nvjet|cutlass.*(tensorop|warpgroup)|sm90_xmma"),
    ("attention", r"flash|fmha|attention|sdpa|cudnn_generated|_attend"),
    ("norms", r"layer_norm|rms"),
    ("copies", r"copy|[Cc]at|[Mm]emcpy"),
    ("triton", r"triton"),
    ("elementwise", r"elementwise|vectorized|unrolled|gelu|Functor"),
)


def environment(bench: Bench) -> None:
    """Hardware and versions."""
    cudnn = torch.backends.cudnn.version() if bench.cuda else None
    bench.put("torch", [torch.__version__, torch.version.cuda, cudnn, sys.version.split()[0]])
    for name in ("triton", "diffusers", "transformers", "torchao"):
        try:
            bench.put(name, version(name))
        except PackageNotFoundError:
            bench.put(name, "absent")
    if not bench.cuda:
        return
    found = torch.cuda.get_device_properties(0)
    bench.put("gpu", [found.name, found.multi_processor_count, found.total_memory >> 20])
    fields = "name,driver_version,clocks.sm,clocks.mem,power.limit,temperature.gpu"
    query = ["nvidia-smi", f"--query-gpu={fields}", "--format=csv,noheader"]
    bench.attempt("nvidia-smi", lambda: subprocess.run(query, capture_output=True, text=True, timeout=10).stdout)
    bench.put("tf32 by default", [torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32])


def ceilings(bench: Bench) -> None:
    """What the device can do: copying, and the network's four matrix products in bfloat16 and fp8."""
    size = 2**20 if bench.tiny else 2**30
    a = torch.empty(size, dtype=torch.uint8, device=bench.device).random_()
    b = torch.empty_like(a)
    bench.put("copy TB/s", round(2 * size / bench.ms(lambda: b.copy_(a)) / 1e9, 3))
    side = 256 if bench.tiny else 8192
    x, w = (torch.randn(side, side, device=bench.device, dtype=BF16) for _ in range(2))
    bench.put(f"product of {side} TFLOP/s", round(2 * side**3 / bench.ms(lambda: x @ w) / 1e9, 1))
    c = bench.model.width
    frames, rows, columns = bench.model.token_grid(bench.latent)
    tokens = 2 * frames * rows * columns
    for name, wide, out in (("qkv", c, 3 * c), ("proj", c, c), ("fc1", c, 4 * c), ("fc2", 4 * c, c)):
        x, w = (torch.randn(n, wide, device=bench.device, dtype=BF16) for n in (tokens, out))
        bias, flops = torch.randn(out, device=bench.device, dtype=BF16), 2 * tokens * wide * out
        ms = bench.ms(lambda x=x, w=w, bias=bias: F.linear(x, w, bias))
        bench.put(f"{name} bf16 ms, TFLOP/s", [ms, round(flops / ms / 1e9, 1)])
        if bench.cuda:
            bench.attempt(f"{name} fp8 ms, TFLOP/s", lambda x=x, w=w, bias=bias: _fp8_product(bench, x, w, bias))


def _fp8_product(bench: Bench, x: torch.Tensor, w: torch.Tensor, bias: torch.Tensor) -> list[float]:
    q, qw = x.to(torch.float8_e4m3fn), w.to(torch.float8_e4m3fn)
    rows, columns = torch.ones(len(x), 1, device=x.device), torch.ones(1, len(w), device=x.device)

    def product() -> Any:
        scales = {"scale_a": rows, "scale_b": columns}
        return torch._scaled_mm(q, qw.t(), **scales, bias=bias, out_dtype=BF16, use_fast_accum=True)

    ms = bench.ms(product)
    return [ms, round(2 * x.numel() * len(w) / ms / 1e9, 1)]


def dense(bench: Bench) -> None:
    """A guided step, eager: milliseconds by attention kernel, host time, memory."""
    model, step = bench.model, bench.step()
    bench.put("TFLOP a step", round(bench.tflop(), 4))
    for name in BACKENDS:

        def timed(name: str = name) -> list[float]:
            with using(name):
                return bench.rate(bench.ms(lambda: model(**step), runs=4, warm=1))

        bench.attempt(f"ms, TFLOP/s: {name}", timed)
    bench.put("host ms", bench.host_ms(lambda: model(**step)))
    run = Session(bench.denoising(steps=1).job()).run
    bench.put("ms through a session", bench.ms(lambda: model(**step, run=run), runs=4, warm=1))
    bench.put("peak GiB", bench.peak_gib(lambda: model(**step)))


def golden(bench: Bench) -> None:
    """The release's numbers on this device: float32 with and without TF32 in convolutions, and bfloat16."""
    from tests.models.test_stdit_golden import network_and_inputs

    wanted = golden_values.load_tensors("stdit3_tiny")
    names = [key.removesuffix(".out.y") for key in wanted if key.endswith(".out.y")]

    def on_device(inputs: dict[str, Any]) -> dict[str, Any]:
        return {name: v.to(bench.device) if torch.is_tensor(v) else v for name, v in inputs.items()}

    before = torch.backends.cudnn.allow_tf32
    for tf32 in (False, True):
        torch.backends.cudnn.allow_tf32 = tf32
        worst = 0.0
        for name in names:
            model, inputs = network_and_inputs(name)
            if name.endswith("_bf16"):
                continue
            out = copy.deepcopy(model).to(bench.device)(**on_device(inputs))
            worst = max(worst, error(out, wanted[f"{name}.out.y"]))
        bench.put(f"float32, worst relative error, TF32 in convolutions {'on' if tf32 else 'off'}", worst)
    torch.backends.cudnn.allow_tf32 = before
    for label, found, exact in _low_precision(bench, on_device):
        bench.put(f"bf16 against float32 on the CPU: {label}", round(error(found, exact), 5))


def _low_precision(bench: Bench, on_device: Any) -> list[tuple[str, torch.Tensor, torch.Tensor]]:
    torch.manual_seed(0)
    exact = STDiT3(**{**SMALL, "hidden_size": 144, "model_max_length": 20}).eval()
    low = copy.deepcopy(exact).to(bench.device, BF16)
    call = {"x": torch.randn(2, 4, 5, 9, 11), "timestep": torch.full((2,), 500.0), "y": torch.randn(2, 1, 20, 32)}
    call |= {"fps": torch.tensor([24.0]), "height": 72.0, "width": 88.0}
    lengths = (torch.arange(20)[None] < torch.tensor([[5], [17]])).long()
    given = torch.tensor([[False, True, True, True, True]] * 2)
    cases: dict[str, dict[str, Any]] = {"plain": {}, "texts of two lengths": {"mask": lengths}}
    cases["given frames"] = {"x_mask": given}
    return [(label, low(**on_device({**call, **more})), exact(**call, **more)) for label, more in cases.items()]


def by_kind(rows: list[tuple[str, int, float]]) -> dict[str, float]:
    """Milliseconds of a profile by kind of kernel."""
    found: dict[str, float] = {}
    for name, _, ms in rows:
        kind = next((kind for kind, pattern in KINDS if re.search(pattern, name)), "other")
        found[kind] = round(found.get(kind, 0.0) + ms, 2)
    return found


def profile(bench: Bench) -> None:
    """Where an eager step goes."""
    model, step = bench.model, bench.step()
    rows = bench.profile(lambda: model(**step))
    bench.put("ms by kind", by_kind(rows))
    bench.put("launches", sum(count for _, count, _ in rows))
    bench.put("longest", [[name[:110], count, round(ms, 3)] for name, count, ms in rows[:30]])
