"""Our kernels in Triton's interpreter against the modules that they stand for, in float32 and float16.

On a GPU ``python -m benchmarks.gpu_check --only exactness`` does so with compiled kernels, in bfloat16, too, which
the interpreter gets wrong.
"""

import copy
from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from diffusers.models.resnet import ResnetBlock2D

from tests.models.guests import job
from tests.models.networks import stdit_inputs, tiny_stdit
from tests.tiny_pipeline import tiny_pipeline
from videoaccel.models.layers import Rotary
from videoaccel.models.seam import Site, attention, direct
from videoaccel.models.stdit_blocks import SelfAttention, _modulate
from videoaccel.models.temporal_vae import ResBlock
from videoaccel.parallel.layout import Layout
from videoaccel.session.action_session import ActionSession
from videoaccel.session.actions import Action, Compute, Place
from videoaccel.session.job import kernel_mix
from videoaccel.session.policy import Session

pytest.importorskip("triton", reason="kernels are Triton's, which is there on Linux alone")
from videoaccel.models import fused
from videoaccel.models.forms import in_plain_form
from videoaccel.models.fp8 import Fp8Linear, Rows, in_eight_bits, quantize_linears
from videoaccel.models.fused import channels_last, fuse
from videoaccel.models.kernels.group_norm import group_norm
from videoaccel.models.kernels.modulate import gated_add, modulate
from videoaccel.models.kernels.qk_norm import qk_norm_
from videoaccel.models.kernels.quantize import quantize, quantize_modulated
from videoaccel.models.kernels.temporal_attention import MAX_FRAMES, temporal_attention

TYPES = {torch.float32: 2e-6, torch.float16: 1e-3}


def off(found: torch.Tensor, wanted: torch.Tensor) -> float:
    return float((found.float() - wanted.float()).norm() / wanted.float().norm())


@pytest.fixture(autouse=True)
def _inference() -> Any:
    torch.manual_seed(0)
    with torch.inference_mode():
        yield


@pytest.mark.parametrize(("frames", "places", "size", "side_by_side"), [(15, 3, 72, 1), (5, 3, 18, 2), (1, 2, 32, 1)])
@pytest.mark.parametrize("kind", TYPES)
def test_attention_along_time(frames: int, places: int, size: int, side_by_side: int, kind: torch.dtype) -> None:
    heads = 2
    module = SelfAttention(heads * size, heads, axis="time", qk_norm=True)
    torch.nn.init.normal_(module.q_norm.weight)
    torch.nn.init.normal_(module.k_norm.weight)
    cos, sin = Rotary(size)(frames)
    h = torch.randn(2, frames, places, heads * size)
    turns = (cos[:, ::2].contiguous(), sin[:, ::2].contiguous())
    weights = (module.q_norm.weight, module.k_norm.weight)
    out = temporal_attention(module.qkv(h).to(kind), *weights, *turns, heads=heads, places=side_by_side)
    wanted = module.mix(h, SimpleNamespace(rotation=(cos, sin)))
    assert off(module.proj(out.float()), wanted) < TYPES[kind]


def test_too_many_frames_are_refused() -> None:
    qkv, weight, turns = torch.zeros(1, MAX_FRAMES + 1, 1, 24), torch.ones(8), torch.zeros(MAX_FRAMES + 1, 4)
    with pytest.raises(ValueError, match=f"up to {MAX_FRAMES} frames"):
        temporal_attention(qkv, weight, weight, turns, turns, heads=1)


@pytest.mark.parametrize("kind", TYPES)
def test_norm_of_queries_and_keys(kind: torch.dtype) -> None:
    heads, size = 3, 18
    qkv, q_weight, k_weight = torch.randn(2, 3, 5, 3 * heads * size), torch.randn(size), torch.randn(size)
    q, k, v = qkv.unflatten(-1, (3, heads, size)).unbind(-3)
    normed = [F.rms_norm(part, (size,), weight, 1e-6) for part, weight in ((q, q_weight), (k, k_weight))]
    wanted = torch.stack([*normed, v], dim=-3).flatten(-3)
    assert off(qk_norm_(qkv.to(kind), q_weight, k_weight, heads=heads), wanted) < TYPES[kind]


@pytest.mark.parametrize("by_frame", [False, True])
@pytest.mark.parametrize("kind", TYPES)
def test_modulation_and_gate(by_frame: bool, kind: torch.dtype) -> None:
    x, delta = torch.randn(2, 3, 5, 36), torch.randn(2, 3, 5, 36)
    table = torch.randn(2, 3 if by_frame else 1, 1, 6, 36)
    low = [part.to(kind) for part in (x, delta, table)]
    assert off(modulate(low[0], low[2], row=3), _modulate(x, table, 3)) < TYPES[kind]
    assert off(gated_add(*low, row=5), x + table[..., 5, :] * delta) < TYPES[kind]


@pytest.mark.parametrize(
    ("shape", "layout"),
    [
        ((2, 64, 5, 9), torch.channels_last),
        ((1, 96, 3, 5, 7), torch.channels_last_3d),
        ((2, 32, 19, 31), torch.channels_last),
    ],
)
@pytest.mark.parametrize("silu", [False, True])
@pytest.mark.parametrize("kind", TYPES)
def test_group_norm_keeps_channels_last(
    shape: tuple[int, ...], layout: torch.memory_format, silu: bool, kind: torch.dtype
) -> None:
    x = (torch.randn(shape) + 2).to(memory_format=layout)
    weight, bias = torch.randn(shape[1]), torch.randn(shape[1])
    out = group_norm(x.to(kind), weight, bias, groups=32, eps=1e-6, silu=silu)
    assert out.is_contiguous(memory_format=layout)
    wanted = F.group_norm(x, 32, weight, bias, 1e-6)
    assert off(out, F.silu(wanted) if silu else wanted) < TYPES[kind]


PICTURES, TIMED = {"in_channels": 6, "out_channels": 10, "groups": 2}, torch.linspace(-1, 1, 4)[None]
VAE_PARTS: dict[str, tuple[Callable[[], Any], tuple[int, ...], dict[str, Any], bool]] = {
    "in time": (lambda: ResBlock(6, 10, 2), (1, 6, 3, 5, 7), {}, True),
    "in pictures": (lambda: ResnetBlock2D(**PICTURES, temb_channels=None), (2, 6, 5, 7), {"temb": None}, True),
    "with a time": (lambda: ResnetBlock2D(**PICTURES, temb_channels=4), (1, 6, 5, 7), {"temb": TIMED}, False),
}
"""A part of a VAE, what it is given, and whether its norms do the SiLU behind them."""


@pytest.mark.parametrize("name", VAE_PARTS)
@pytest.mark.parametrize("kind", TYPES)
def test_norms_of_vaes_take_the_silu_behind_them(name: str, kind: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    make, shape, given, taken = VAE_PARTS[name]
    part, x = make().eval(), torch.randn(shape)
    for norm in (part.norm1, part.norm2):
        torch.nn.init.normal_(norm.weight)
        torch.nn.init.normal_(norm.bias)
    exact = part(x, **given)
    asked: list[bool] = []

    def kernel(*args: Any, silu: bool, **options: Any) -> torch.Tensor:
        asked.append(silu)
        return group_norm(*args, silu=silu, **options)

    monkeypatch.setattr(fused, "group_norm", kernel)
    layout = torch.channels_last if len(shape) == 4 else torch.channels_last_3d
    channels_last(part)
    hook = part.conv1.register_forward_hook(lambda conv, inputs, out: out.contiguous(memory_format=layout))  # as cuDNN
    assert (fuse(part), fuse(part)) == (2, 0)
    low = {key: value if value is None else value.to(kind) for key, value in given.items()}
    assert off(part.to(kind)(x.to(kind, memory_format=layout), **low), exact) < TYPES[kind]
    assert asked == [taken] * 2
    hook.remove()
    if kind == torch.float32:
        part.to(memory_format=torch.contiguous_format)
        assert torch.equal(part(x, **given), exact), "laid out otherwise, PyTorch's norms and SiLU"
        with in_plain_form(part):
            assert torch.equal(part(x, **given), exact)
            assert type(part.norm1) is torch.nn.GroupNorm
        assert len(asked) == 2


def test_a_vae_with_kernels() -> None:
    """All of its norms that a SiLU follows do it, in both halves; what comes out is what came out."""
    vae = tiny_pipeline().vae
    norms = sum(isinstance(module, torch.nn.GroupNorm) for module in vae.modules())
    z = torch.randn(1, 4, 1, 2, 2)
    exact = vae.decode(z, 1)
    fuse(vae)
    kinds = [type(module) for module in vae.modules() if isinstance(module, torch.nn.GroupNorm)]
    assert (len(kinds), set(kinds)) == (norms, {fused.FusedGroupNorm, fused.FusedGroupNormSilu})
    attentions = sum("group_norm" in name for name, _ in vae.named_modules())
    assert kinds.count(fused.FusedGroupNorm) == attentions > 0, "attention has no SiLU behind its norm"
    with in_plain_form(vae):
        assert torch.equal(vae.decode(z, 1), exact)
    channels_last(vae)
    assert 0 < off(vae.decode(z, 1), exact) < 1e-5


@pytest.mark.parametrize("gelu", [False, True])
def test_rows_in_eight_bits(gelu: bool) -> None:
    x = torch.randn(4, 100) * torch.tensor([[1.0], [100.0], [1e-3], [0.0]])
    rows, scales = quantize(x, gelu=gelu)
    wanted = F.gelu(x, approximate="tanh") if gelu else x
    plain, plain_scales = in_eight_bits(x, gelu=gelu)
    torch.testing.assert_close(scales, plain_scales)
    assert ((plain.float() * plain_scales - wanted).abs() <= wanted.abs() / 16 + scales / 1024).all()
    # The interpreter loses a carry where it rounds up to a power of two; on a GPU the check compares every number.
    near = (rows.float() * scales - wanted).abs() <= wanted.abs() / 8 + scales / 512
    assert near.float().mean() > 0.9
    assert torch.isfinite(rows.float()).all()


@pytest.mark.parametrize("shape", [(2, 3, 2, 36), (1, 1, 3, 130), (1, 2, 1, 7)])
@pytest.mark.parametrize("by_frame", [False, True])
@pytest.mark.parametrize("kind", TYPES)
def test_modulated_rows_have_the_bits_of_modulating_and_rounding(
    shape: tuple[int, ...], by_frame: bool, kind: torch.dtype
) -> None:
    x = (torch.randn(shape) * 3 + 1).to(kind)
    x[0, 0, 0] = 0.0
    table = torch.randn(shape[0], shape[1] if by_frame else 1, 1, 6, shape[3]).to(kind)
    rows, scales = quantize_modulated(x, table, row=3)
    wanted, wanted_scales = quantize(modulate(x, table, row=3).flatten(0, 2))
    assert torch.equal(rows.view(torch.uint8), wanted.view(torch.uint8)) and torch.equal(scales, wanted_scales)


@pytest.mark.parametrize("given", [False, True])
def test_a_network_with_kernels(given: bool) -> None:
    model = tiny_stdit(depth=1)
    inputs = stdit_inputs((2, 4, 6), batch=1, given=given, lengths=None, seed=1)
    exact = model(**inputs)
    fused = copy.deepcopy(model)
    assert fuse(fused) == 3 * len(model.blocks)
    assert off(fused(**inputs), exact) < 1e-4
    assert not torch.equal(fused(**inputs), exact), "kernels ran"
    with in_plain_form(fused):
        assert torch.equal(fused(**inputs), exact)


def test_eight_bit_products_leave_the_ends_alone() -> None:
    model = tiny_stdit(depth=3, hidden_size=64, num_heads=2)
    inputs = stdit_inputs((2, 6, 6), batch=1, given=False, lengths=None, seed=1)
    exact = model(**inputs)
    fuse(model)
    assert quantize_linears(model) == 12
    kinds = [any(isinstance(m, Fp8Linear) for m in block.modules()) for block in model.blocks]
    assert kinds == [False, False, True, True, False, False]
    assert not any(isinstance(block.cross_attn.kv_linear, Fp8Linear) for block in model.blocks)
    assert 0 < off(model(**inputs), exact) < 0.1
    assert not [name for name in model.state_dict() if name.endswith("8")], "files stay as they are"


class Looks(Session):
    """Looks at what enters the modules."""

    def mixed(self, site: Site, branch: Any, h: torch.Tensor, cond: Any, **options: Any) -> torch.Tensor:
        assert isinstance(h, torch.Tensor)
        return super().mixed(site, branch, h, cond, **options)


class Half(ActionSession):
    """Half of the neurons of MLPs."""

    def decide(self, place: Place, seen: Any) -> Action:
        return Compute(0.5) if isinstance(place, Site) and place.kind == "mlp" else Compute()


def unmarked(site: Site, branch: Any, h: torch.Tensor, cond: Any, **options: Any) -> torch.Tensor:
    assert isinstance(h, torch.Tensor)
    return branch.mix(h, cond, **options)


def other(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
    return attention(q, k, v, mask)


def test_modules_get_their_tokens_in_eight_bits_where_nobody_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_stdit(depth=3, hidden_size=64, num_heads=2)
    inputs = stdit_inputs((1, 2, 4), batch=1, given=False, lengths=None, seed=1)
    quantize_linears(model)
    assert sum(fuse(block) for block in model.blocks[2:4]) == 6, "of those in 8 bits alone, for time's sake"
    task, ready, plain = replace(job(model, inputs), blocks=model.sites), [], Fp8Linear.forward

    def forward(self: Fp8Linear, x: Any) -> torch.Tensor:
        ready.append(isinstance(x, Rows))
        return plain(self, x)

    def call(session: Session | None) -> tuple[torch.Tensor, int]:
        ready.clear()
        if session is not None:
            session.begin(0)
        return model(**inputs, run=direct if session is None else session.run), sum(ready)

    monkeypatch.setattr(Fp8Linear, "forward", forward)
    exact, count = call(None)
    assert count == 4, "attention and MLP of two blocks"
    sessions: list[tuple[Session, int]] = [
        (Session(task), 4),
        (ActionSession(task, mix=Layout().mix), 4),
        (Session(task, mix=unmarked), 0),
        (Looks(task), 0),
    ]
    for session, ready_ones in sessions:
        found, count = call(session)
        assert torch.equal(found, exact) and count == ready_ones
    found, count = call(Session(task, mix=kernel_mix(other)))
    assert count == 4 and off(found, exact) < 1e-2, "a kernel by name takes PyTorch's way from the same rows"
    assert call(Half(task))[1] == 2, "some neurons of an MLP are taken of the weights as they are"
