"""What makes a pipeline's networks faster on a device: kernels, compiled parts, 8-bit products, memory layout.

Kernels and layouts change results by rounding alone; they are tried on a small network first. 8-bit products change
them more and are asked for by name.
"""

import copy
import math
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any, Literal

import torch
from torch import Tensor, nn

from videoaccel.common.user_warning import warn_user
from videoaccel.generation.graphs import NO_CUDA, Asked
from videoaccel.models.compiled import compile_branches, compile_decoders
from videoaccel.models.packed import pack
from videoaccel.models.stdit import STDiT3
from videoaccel.session.columns import add, choose, kernels_of, score
from videoaccel.session.costs import Module, capture

Kernels = Literal["auto", "triton", "torch"]
Precision = Literal["full", "fp8"]

TOLERANCE = {torch.float32: 1e-4, torch.float16: 5e-3, torch.bfloat16: 4e-2}
"""Relative distance that a small network with kernels may have from the same without."""

FP8_CAPABILITY = (8, 9)


@dataclass(frozen=True)
class Tuned:
    """What runs.

    Attributes:
        kernels: ``triton``, ``torch``, or ``packed``: PyTorch's own, with places side by side along time.
        precision: ``full`` or ``fp8``.
        compiled: Whether parts are compiled.
        tf32: Whether float32 products and convolutions may round to TF32.
        graphs: Whether network calls are replayed as CUDA graphs: ``on``, ``off``, ``auto`` for small ones that gain.
    """

    kernels: str = "torch"
    precision: str = "full"
    compiled: bool = False
    tf32: bool = False
    graphs: Asked = "off"


def allow_tf32(allowed: bool) -> None:
    """Let products and convolutions of float32 tensors on CUDA round to TF32, ten bits of mantissa, or not.

    PyTorch lets convolutions unless told otherwise, and a float32 network is off by 2e-4 then.
    """
    torch.backends.cuda.matmul.allow_tf32 = allowed
    torch.backends.cudnn.allow_tf32 = allowed


def tune(
    transformer: nn.Module,
    vae: nn.Module,
    *,
    device: torch.device,
    dtype: torch.dtype,
    kernels: Kernels = "auto",
    precision: Precision = "full",
    compiled: bool = False,
    tf32: bool = False,
    graphs: Asked = "auto",
) -> Tuned:
    """Put networks into the forms that are asked for.

    Args:
        transformer: The transformer.
        vae: The video VAE.
        device: Where they will run.
        dtype: Of their weights.
        kernels: ``triton`` for those of :mod:`videoaccel.models.kernels`, ``torch`` for PyTorch's own, ``auto`` for
            the former where they run and agree; where they do not, attention along time is packed on CUDA.
        precision: ``fp8`` for 8-bit products in the transformer's blocks.
        compiled: Compile the parts of the transformer's modules, and the VAE's decoders.
        tf32: Let float32 products and convolutions round to TF32, in this process.
        graphs: Replay network calls as CUDA graphs.

    Raises:
        ValueError: What is asked for cannot be had here; says why.
    """
    if precision == "fp8":
        check_fp8(device, dtype, kernels=kernels)
        if not hasattr(transformer, "blocks"):
            raise ValueError(f"`precision=fp8` is for networks of blocks, which {type(transformer).__name__} is not")
    check_graphs(device, graphs)
    allow_tf32(tf32)
    reason = why_no_kernels(device) or _first_trial(device, dtype, asked=kernels)
    if kernels == "triton" and reason:
        raise ValueError(f"`kernels=triton` cannot run here: {reason}; `kernels=torch` always works")
    fused = kernels != "torch" and reason is None
    if fused:
        from videoaccel.models.fused import channels_last, fuse

        fuse(transformer)
        channels_last(vae)
        fuse(vae)
    packed = device.type == "cuda" and kernels == "auto" and not fused and pack(transformer) > 0
    if precision == "fp8":
        from videoaccel.models.fp8 import quantize_linears

        quantize_linears(transformer)
    if compiled:
        compile_branches(transformer)
        compile_decoders(vae)
    form = "triton" if fused else "packed" if packed else "torch"
    return Tuned(form, precision, compiled, tf32, graphs if device.type == "cuda" else "off")


def check_graphs(device: torch.device, asked: Asked, *, offload: bool = False) -> None:
    """Refuse CUDA graphs where they cannot be had.

    Raises:
        ValueError: They are asked for by name; says why.
    """
    if asked == "on" and (device.type != "cuda" or offload):
        reason = "weights are moved by `offload`" if offload else NO_CUDA
        raise ValueError(f"`graphs=on` cannot run here: {reason}; `graphs=auto` takes them where they run")


def why_no_kernels(device: torch.device) -> str | None:
    """Why our kernels cannot run on a device; None if they can."""
    if device.type != "cuda":
        return "they need a CUDA device"
    if find_spec("triton") is None:
        return "the package triton is not installed (it comes with PyTorch for CUDA)"
    return None


def check_fp8(device: torch.device, dtype: torch.dtype, *, kernels: Kernels) -> None:
    """Refuse 8-bit products where they cannot be had.

    Raises:
        ValueError: Says why.
    """
    reason = None
    if device.type != "cuda":
        reason = "it needs a CUDA device"
    elif torch.cuda.get_device_capability(device) < FP8_CAPABILITY:
        reason = f"{torch.cuda.get_device_name(device)} has no 8-bit products (Ada, Hopper and later have)"
    elif dtype != torch.bfloat16:
        reason = f"the network is in {str(dtype).removeprefix('torch.')}; give `dtype=bfloat16`"
    elif kernels == "torch":
        reason = "its rows are made by one of our kernels; leave out `kernels=torch`"
    if reason:
        raise ValueError(f"`precision=fp8` cannot run here: {reason}")


def _first_trial(device: torch.device, dtype: torch.dtype, *, asked: Kernels) -> str | None:
    """Why kernels are not to be trusted here, from a small network run with and without them; None if they are."""
    if asked == "torch" or device.type != "cuda":
        return None
    try:
        found = distance(device, dtype)
    except Exception as failure:
        reason = f"they fail: {' '.join(str(failure).split())[:200]}"
    else:
        if found <= TOLERANCE.get(dtype, 0.0):
            return None
        reason = f"a small network is off by {found:.2g} with them"
    if asked == "auto":
        warn_user(f"our kernels are not used: {reason}")
    return reason


@torch.inference_mode()
def distance(device: torch.device, dtype: torch.dtype) -> float:
    """Relative L2 distance of a small network with our kernels from the same network without.

    The largest of the whole network's, of its modules' with some columns computed and the others served, and of a VAE's
    norms.
    """
    return max(_network_off(device, dtype), _norms_off(device, dtype))


def _network_off(device: torch.device, dtype: torch.dtype) -> float:
    """Of a transformer, whole and by columns."""
    from videoaccel.models.fused import fuse

    fields = {"hidden_size": 144, "num_heads": 2, "depth": 1, "caption_channels": 16, "model_max_length": 8}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        plain = STDiT3(**fields).eval()
        x, y = torch.randn(2, 4, 3, 6, 10), torch.randn(2, 1, 8, 16)
    plain = plain.to(device, dtype)
    fused = copy.deepcopy(plain)
    fuse(fused)
    given: dict[str, Any] = {"timestep": torch.full((2,), 500.0, device=device), "height": 48.0, "width": 80.0}
    out: list[Tensor] = []

    def modules(network: STDiT3) -> list[Module]:
        return capture(lambda run: out.append(network(x.to(device), y=y.to(device, dtype), run=run, **given)))

    by_columns = [_columns_off(a.branch, b) for a, b in zip(modules(fused), modules(plain), strict=True)]
    return max(_off(*out), *by_columns)


def _norms_off(device: torch.device, dtype: torch.dtype) -> float:
    """Of group norms with channels last, of pictures and clips, by themselves and with the SiLU behind them.

    Not of a VAE: its convolutions may change with the layout, by more than norms do.
    """
    from videoaccel.models.fused import FusedGroupNorm, FusedGroupNormSilu

    found = []
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        for form in (FusedGroupNorm, FusedGroupNormSilu):
            for shape, layout in (((2, 24, 6, 10), torch.channels_last), ((2, 24, 3, 6, 10), torch.channels_last_3d)):
                norm = form(3, shape[1])
                nn.init.normal_(norm.weight)
                nn.init.normal_(norm.bias)
                norm, x = norm.to(device, dtype), (2 * torch.randn(shape) + 1).to(device, dtype)
                wanted = nn.functional.group_norm(x, norm.num_groups, norm.weight, norm.bias, norm.eps)
                wanted = nn.functional.silu(wanted) if form.silu else wanted
                found.append(_off(norm(x.to(memory_format=layout)), wanted))
    return max(found)


def _off(found: Tensor, wanted: Tensor) -> float:
    """Relative L2 distance; infinite where it is no number, which the largest of several would hide."""
    off = float((found.float() - wanted.float()).norm() / wanted.float().norm())
    return off if math.isfinite(off) else math.inf


def _columns_off(branch: Any, plain: Module) -> float:
    """The same of a branch with kernels, where some columns are computed; infinite where it keeps others."""
    x, kernels = plain.x, kernels_of(branch, plain.x)
    scores = score(x, "signed")
    ours, theirs = (
        choose(scores, 0.4, frames=x.shape[1], groups=2, kernels=chosen_by) for chosen_by in (kernels, None)
    )
    if not torch.equal(ours.flat, theirs.flat):
        return math.inf
    part, served = theirs.take(x), [x.flip(2).contiguous() for _ in range(2)]
    out = add(branch, x, part, served[0], ours, plain.cond, keep=True)
    wanted = add(plain.branch, x, part, served[1], theirs, plain.cond, keep=True)
    return max(_off(score(x, "signed", kernels=kernels), scores), _off(served[0], served[1]), _off(out, wanted))
