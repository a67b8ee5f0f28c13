"""One module at a time: what its eager parts cost, and what would replace them."""

import copy
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.gpu.bench import BACKENDS, Bench, error, using
from videoaccel.generation.tuning import distance
from videoaccel.models.fp8 import in_eight_bits
from videoaccel.models.fused import FusedFeedForward, fuse
from videoaccel.models.kernels.columns import add_columns, score_columns
from videoaccel.models.kernels.group_norm import group_norm
from videoaccel.models.kernels.modulate import gated_add, modulate
from videoaccel.models.kernels.qk_norm import qk_norm_
from videoaccel.models.kernels.quantize import quantize, quantize_modulated
from videoaccel.models.kernels.temporal_attention import temporal_attention
from videoaccel.models.layers import Rotary
from videoaccel.models.seam import attention
from videoaccel.models.stdit import STDiT3
from videoaccel.models.stdit_blocks import Block, Conditioning
from videoaccel.session.columns import Columns, choose, score


class Scene:
    """Both kinds of block with inputs, and what temporal attention sees."""

    def __init__(self, bench: Bench) -> None:
        model, step = bench.model, bench.step()
        frames, rows, columns = model.token_grid(bench.latent)
        self.frames, self.places, self.width = frames, rows * columns, model.width
        self.time: Block = model.blocks[1]
        self.space: Block = model.blocks[0]
        shape = (2, frames, self.places, model.width)
        self.x = torch.randn(shape, device=bench.device, dtype=model.dtype)
        cond = model._condition(step["timestep"], None, step["context"], self.x)
        self.in_time: Conditioning = self.time.localise(cond)
        self.in_space: Conditioning = self.space.localise(cond)
        self.h = self.time.attn.pre(self.x, self.in_time)
        self.qkv = self.time.attn.qkv(self.h)
        q, k, self.v = self.time.attn._heads(self.qkv, 3)
        self.q_strided, self.q, self.k = q, q.contiguous(), k.contiguous()


def kernels(bench: Bench) -> None:
    """The parts of a module, and alternatives for each."""
    scene = Scene(bench)
    _edges(bench, scene)
    _along_time(bench, scene)
    _along_space(bench, scene)
    _columns(bench, scene)
    _products(bench, scene)
    if bench.cuda:
        _triton(bench, scene)


def _edges(bench: Bench, s: Scene) -> None:
    attn, cross, mlp = s.time.attn, s.time.cross_attn, s.time.mlp
    parts: dict[str, Any] = {
        "norm and modulation": lambda: attn.pre(s.x, s.in_time),
        "gate and residual": lambda: attn.add(s.x, s.h, s.in_time),
        "mlp": lambda: mlp.mix(s.h, s.in_time),
        "attention along time": lambda: attn.mix(s.h, s.in_time),
        "attention along space": lambda: s.space.attn.mix(s.h, s.in_space),
        "cross-attention": lambda: cross.mix(s.h, s.in_time),
        "q norm, strided": lambda: attn.q_norm(s.q_strided),
        "q norm, contiguous": lambda: attn.q_norm(s.q),
        "rotation of q": lambda: Rotary.rotate(s.q, *s.in_time.rotation),
    }
    for name, work in parts.items():
        bench.put(name, bench.ms(work))


def _along_time(bench: Bench, s: Scene) -> None:
    """A dozen frames at tens of thousands of places."""
    exact = attention(s.q, s.k, s.v)
    for name in BACKENDS:

        def plain(name: str = name) -> float:
            with using(name):
                return bench.ms(lambda: attention(s.q, s.k, s.v))

        bench.attempt(f"sdpa along time: {name}", plain)
    rows = len(s.q)
    for count in (4, 6, 10):
        if rows % count:
            continue
        side = torch.arange(count * s.frames, device=bench.device) // s.frames
        mask = (side[:, None] == side)[None, None]

        def packed(count: int = count, mask: Tensor = mask) -> Tensor:
            parts = (z.reshape(rows // count, count * s.frames, *z.shape[2:]) for z in (s.q, s.k, s.v))
            return attention(*parts, mask).reshape(exact.shape)

        for name in ("default", "efficient", "cudnn"):

            def timed(name: str = name, packed: Any = packed) -> list[float]:
                with using(name):
                    return [bench.ms(packed), round(error(packed(), exact), 5)]

            bench.attempt(f"sdpa along time, {count} places a sequence: {name}: ms, error", timed)

    def products() -> Tensor:
        q, k, v = (z.transpose(1, 2) for z in (s.q, s.k, s.v))
        return (q @ k.transpose(-1, -2) * s.q.shape[-1] ** -0.5).softmax(-1) @ v

    bench.attempt("two batched products along time", lambda: bench.ms(products))


def _along_space(bench: Bench, s: Scene) -> None:
    attn = s.space.attn
    q, k, v = attn._heads(attn.qkv(s.h), 3)
    q, k = attn.q_norm(q), attn.k_norm(k)
    flops = 4 * 2 * s.frames * s.places**2 * s.width
    for name in BACKENDS:

        def timed(name: str = name) -> list[float]:
            with using(name):
                ms = bench.ms(lambda: attention(q, k, v))
            return [ms, round(flops / ms / 1e9, 1)]

        bench.attempt(f"sdpa along space: {name}: ms, TFLOP/s", timed)
    for size in (96, 128):
        pad = (0, size - q.shape[-1])
        if pad[1] > 0:
            wide = [F.pad(z, pad) for z in (q, k, v)]
            bench.attempt(
                f"sdpa along space, heads padded to {size}", lambda wide=wide: bench.ms(lambda: attention(*wide))
            )


def _columns(bench: Bench, s: Scene) -> None:
    scores = score(s.x, "signed")
    bench.put("columns: score", bench.ms(lambda: score(s.x, "signed")))
    for keep in (0.25, 0.5):

        def chosen(keep: float = keep) -> Any:
            return choose(scores, keep, frames=s.frames, groups=8)

        columns = chosen()
        part = columns.take(s.x)
        bench.put(f"columns {keep}: choose, on the host", [bench.ms(chosen), bench.host_ms(chosen)])
        times = [bench.ms(lambda c=columns: c.take(s.x)), bench.ms(lambda c=columns, p=part: c.put(s.x, p))]
        bench.put(f"columns {keep}: take, put", times)


def _products(bench: Bench, s: Scene) -> None:
    fc1, flat = s.time.mlp.fc1, s.h.flatten(0, 2)

    def plain() -> Tensor:
        return F.gelu(fc1(flat), approximate="tanh")

    def epilogue() -> Tensor:
        return torch._addmm_activation(fc1.bias, flat, fc1.weight.t(), use_gelu=True)

    bench.put("fc1 and gelu", bench.ms(plain))
    bench.attempt("fc1 with gelu in its epilogue: ms, error", lambda: [bench.ms(epilogue), error(epilogue(), plain())])
    out = torch.randn(2, s.places, s.frames, s.width, device=bench.device, dtype=s.x.dtype)
    proj = s.time.attn.proj
    bench.put("proj of a transposed stream", bench.ms(lambda: proj(out.transpose(1, 2))))
    bench.put("proj, then transposed", bench.ms(lambda: proj(out).transpose(1, 2)))


def _triton(bench: Bench, s: Scene) -> None:
    attn, table = s.time.attn, s.in_time.table
    assert table is not None
    weights = (attn.q_norm.weight, attn.k_norm.weight)
    turns = tuple(part[:, ::2].float().contiguous() for part in s.in_time.rotation)

    def attend(**tile: int) -> Tensor:
        return temporal_attention(s.qkv, *weights, *turns, heads=attn.num_heads, **tile)

    bench.attempt("triton along time: error", lambda: error(attn.proj(attend()), attn.mix(s.h, s.in_time)))
    for places in (1, 2, 4):
        for warps in (1, 2, 4, 8):
            bench.attempt(
                f"triton along time: {places} places, {warps} warps",
                lambda places=places, warps=warps: bench.ms(lambda: attend(places=places, warps=warps)),
            )
    for rows in (8, 16, 32):

        def normed(rows: int = rows) -> float:
            return bench.ms(lambda: qk_norm_(s.qkv, *weights, heads=attn.num_heads, rows=rows))

        bench.attempt(f"triton q/k norm: {rows} rows", normed)
    for warps in (1, 2, 4, 8):

        def edges(warps: int = warps) -> list[float]:
            first = bench.ms(lambda: modulate(s.x, table, row=0, warps=warps))
            return [first, bench.ms(lambda: gated_add(s.x, s.h, table, row=2, warps=warps))]

        bench.attempt(f"triton modulation, gate and residual: {warps} warps", edges)
    bench.attempt("triton modulation: error", lambda: error(modulate(s.x, table, row=0), s.h))
    for warps in (1, 2, 4, 8):
        bench.attempt(
            f"triton modulation into 8-bit rows: {warps} warps: ms, apart, same bits",
            lambda warps=warps: _modulated_rows(bench, s, table, warps),
        )
    _triton_columns(bench, s, table)
    for silu in (False, True):
        name = "triton group norm and SiLU" if silu else "triton group norm"
        bench.attempt(f"{name}: ms, TB/s", lambda silu=silu: _group_norm(bench, silu=silu))


def _group_norm(bench: Bench, *, silu: bool) -> list[float]:
    """At the VAE's largest activation, four frames: read twice, written once."""
    x = torch.randn(4, 128, 480, 848, device=bench.device, dtype=torch.bfloat16).to(memory_format=torch.channels_last)
    weight, bias = torch.randn(2, 128, device=bench.device)
    ms = bench.ms(lambda: group_norm(x, weight, bias, groups=32, eps=1e-6, silu=silu))
    return [ms, round(3 * x.numel() * 2 / ms / 1e9, 3)]


def _modulated_rows(bench: Bench, s: Scene, table: Tensor, warps: int) -> list[Any]:
    def at_once() -> tuple[Tensor, Tensor]:
        return quantize_modulated(s.x, table, row=0, warps=warps)

    def apart() -> tuple[Tensor, Tensor]:
        return quantize(modulate(s.x, table, row=0, warps=warps).flatten(0, 2))

    (rows, scales), (wanted, its) = at_once(), apart()
    same = torch.equal(rows.view(torch.uint8), wanted.view(torch.uint8)) and torch.equal(scales, its)
    return [bench.ms(at_once), bench.ms(apart), same]


def _triton_columns(bench: Bench, s: Scene, table: Tensor) -> None:
    """Columns scored, chosen and added in a kernel each."""
    ours = cast(Any, FusedFeedForward)

    def scored() -> Tensor:
        return score_columns(s.x, absolute=False)

    bench.attempt("triton columns: score, error", lambda: [bench.ms(scored), error(scored(), score(s.x, "signed"))])
    scores = score(s.x, "signed")
    for keep in (0.25, 0.5):

        def chosen(kernels: Any = ours, keep: float = keep) -> Columns:
            return choose(scores, keep, frames=s.frames, groups=8, kernels=kernels)

        bench.attempt(
            f"triton columns {keep}: choose, on the host, same as PyTorch's",
            lambda c=chosen: [bench.ms(c), bench.host_ms(c), torch.equal(c().flat, c(None).flat)],
        )
        for warps in (2, 4, 8):
            bench.attempt(
                f"triton columns {keep}: put, gate and residual: {warps} warps: ms, apart, same bits",
                lambda c=chosen, warps=warps: _sum_of_columns(bench, s, c(), table, warps),
            )


def _sum_of_columns(bench: Bench, s: Scene, columns: Columns, table: Tensor, warps: int) -> list[Any]:
    served, part = torch.randn_like(s.x), columns.take(s.x)

    def added() -> Tensor:
        return add_columns(s.x, part, served, columns.numbers, table, row=2, keep=True, warps=warps)

    def apart() -> Tensor:
        return gated_add(s.x, columns.put(served, part), table, row=2)

    return [bench.ms(added), bench.ms(apart), torch.equal(added(), apart())]


def exactness(bench: Bench) -> None:
    """Every kernel against PyTorch on this device, at odd sizes and in three types."""
    if not bench.cuda:
        return
    for kind in (torch.float32, torch.float16, torch.bfloat16):
        for frames, places, heads, size in (
            (15, 53, 4, 72),
            (1, 7, 2, 32),
            (5, 9, 4, 18),
            (17, 130, 2, 64),
            (64, 3, 2, 128),
        ):
            shape = f"{kind}, T {frames}, S {places}, N {heads}, D {size}".removeprefix("torch.")
            bench.attempt(
                shape, lambda k=kind, f=frames, p=places, n=heads, d=size: _network_error(bench, k, f, p, n, d)
            )
        bench.attempt(
            f"{kind}, some columns".removeprefix("torch."), lambda k=kind: round(distance(bench.device, k), 7)
        )
    bench.attempt("8-bit rows against PyTorch's", lambda: _quantized(bench))
    for shape in ((4, 128, 37, 53), (1, 96, 3, 31, 17)):
        for silu in (False, True):
            name = f"group norm{' and SiLU' if silu else ''} {shape}"
            bench.attempt(name, lambda shape=shape, silu=silu: _group_norm_error(bench, shape, silu=silu))


def _network_error(bench: Bench, kind: torch.dtype, frames: int, places: int, heads: int, size: int) -> list[float]:
    """Relative error of a network with kernels and of the same without, against float64 on the CPU."""
    torch.manual_seed(0)
    fields = {
        "hidden_size": heads * size,
        "num_heads": heads,
        "depth": 2,
        "caption_channels": 16,
        "model_max_length": 9,
    }
    model = STDiT3(**fields).eval()
    latent = (frames, 2, 2 * places)
    x, y = torch.randn(2, 4, *latent), torch.randn(2, 1, 9, 16)
    size_ = {"fps": torch.tensor([24.0]), "height": 64.0, "width": 64.0}

    def out(network: STDiT3, device: torch.device, dtype: torch.dtype) -> Tensor:
        network = network.to(device, dtype)
        given = {"timestep": torch.full((2,), 500.0, device=device), "y": y.to(device, dtype)}
        return network(
            x.to(device), **given, **{n: v.to(device) if torch.is_tensor(v) else v for n, v in size_.items()}
        )

    exact = out(copy.deepcopy(model), torch.device("cpu"), torch.float64)
    plain = out(copy.deepcopy(model), bench.device, kind)
    fuse(model)
    return [round(error(found, exact), 7) for found in (out(model, bench.device, kind), plain)]


def _quantized(bench: Bench) -> list[float]:
    x = torch.randn(1000, 1152, device=bench.device, dtype=torch.bfloat16)
    rows, scales = quantize(x)
    wanted, _ = in_eight_bits(x.cpu(), gelu=False)
    return [float((rows.float().cpu() != wanted.float()).float().mean()), error(rows.float() * scales, x)]


def _group_norm_error(bench: Bench, shape: tuple[int, ...], *, silu: bool) -> float:
    layout = torch.channels_last if len(shape) == 4 else torch.channels_last_3d
    x = (torch.randn(shape, device=bench.device) + 1).to(memory_format=layout)
    weight, bias = torch.randn(shape[1], device=bench.device), torch.randn(shape[1], device=bench.device)
    exact = F.group_norm(x.double(), 32, weight.double(), bias.double(), 1e-6)
    exact = F.silu(exact) if silu else exact
    return error(group_norm(x, weight, bias, groups=32, eps=1e-6, silu=silu), exact)
