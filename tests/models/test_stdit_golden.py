"""STDiT3 against the original's outputs, float32 and bfloat16, and its traces on the way."""

import copy
from functools import lru_cache
from typing import Any

import pytest
import torch
from torch import Tensor

from tests import golden_values
from tests.golden_values import Case
from videoaccel.models.checkpoint import load_strictly
from videoaccel.models.seam import Site, Work
from videoaccel.models.stdit import STDiT3
from videoaccel.models.video_vae import VideoAutoencoder

NAME = "stdit3_tiny"
pytestmark = pytest.mark.golden
FLOAT32 = {"atol": 1e-4, "rtol": 1e-4}
BFLOAT16_RELATIVE = 0.025


@lru_cache(maxsize=1)
def network() -> STDiT3:
    model = STDiT3.build(golden_values.load_json(NAME)["config"], source=NAME).eval()
    load_strictly(model, golden_values.select(golden_values.load_tensors(NAME), "weights"), source=NAME)
    return model


def network_and_inputs(name: str) -> tuple[STDiT3, dict[str, Tensor]]:
    """A bfloat16 case is the float32 one's inputs in a cast network."""
    base = name.removesuffix("_bf16")
    inputs = golden_values.select(golden_values.load_tensors(NAME), f"{base}.in")
    model = network()
    return (model if base == name else copy.deepcopy(model).to(torch.bfloat16)), inputs


def check(actual: Tensor, expected: Tensor, name: str, what: str) -> None:
    assert actual.shape == expected.shape, what
    if name.endswith("_bf16"):
        difference = (actual.float() - expected.float()).norm() / expected.float().norm()
        assert difference < BFLOAT16_RELATIVE, f"{what}: relative L2 error {difference:.4f}"
    else:
        torch.testing.assert_close(actual, expected, **FLOAT32, msg=lambda text: f"{what}: {text}")


@pytest.mark.parametrize("golden", golden_values.cases(NAME, "cases"))
@torch.inference_mode()
def test_output(golden: Case) -> None:
    name, _ = golden.get()
    model, inputs = network_and_inputs(name)
    out = model(**inputs)
    assert out.dtype == torch.float32
    check(out, golden_values.load_tensors(NAME)[f"{name}.out.y"], name, "output")


def traced(model: STDiT3, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    """Outputs of submodules, named and shaped as in the golden file."""
    trace: dict[str, Tensor] = {}
    calls: dict[str, list[Tensor]] = {name: [] for name in ("t_embedder", "t_block")}
    hooks = [
        model.get_submodule(name).register_forward_hook(lambda _, __, out, name=name: calls[name].append(out))
        for name in calls
    ]
    for name in ("x_embedder", "pos_embed", "fps_embedder", "y_embedder", "final_layer"):
        module = model.get_submodule(name)
        hooks.append(module.register_forward_hook(lambda _, __, out, name=name: trace.__setitem__(name, out)))

    def run(site: Site, branch: Any, x: Tensor, cond: Any) -> Tensor:
        stack = "temporal_blocks" if site.axis == "time" else "spatial_blocks"
        if site.kind == "block":
            out = branch.compute(x, cond, run)
            trace[f"{stack}.{site.layer}"] = out.flatten(1, 2)
            return out
        if site.kind == "attn":
            mixed = branch.mix(branch.pre(x, cond), cond)
            rows = mixed.transpose(1, 2) if site.axis == "time" else mixed
            trace[f"{stack}.{site.layer}.attn"] = rows.flatten(0, 1)
            return branch.add(x, mixed, cond)
        if site.kind == "cross":
            trace[f"{stack}.{site.layer}.cross_attn"] = branch.mix(x, cond).flatten(1, 2)
        work: Work = branch
        return work.compute(x, cond, run)

    model(**inputs, run=run)
    for hook in hooks:
        hook.remove()
    for name, outputs in calls.items():
        trace[f"{name}_t0"], trace[name] = outputs
    for name in ("x_embedder", "final_layer"):
        trace[name] = trace[name].flatten(1, 2)
    return trace


@pytest.mark.parametrize("golden", golden_values.cases(NAME, "cases"))
@torch.inference_mode()
def test_trace(golden: Case) -> None:
    name, _ = golden.get()
    expected = golden_values.select(golden_values.load_tensors(NAME), f"{name}.trace")
    if not expected:
        pytest.skip(f"{name} has no trace")
    model, inputs = network_and_inputs(name)
    trace = traced(model, inputs)
    assert not expected.keys() - trace.keys()
    for what, value in expected.items():
        check(trace[what], value, name, what)


def test_bfloat16_tables_are_the_originals() -> None:
    expected = golden_values.select(golden_values.load_tensors(NAME), "bf16")
    model = copy.deepcopy(network()).to(torch.bfloat16)
    assert torch.equal(model.pos_embed.inv_freq, expected["pos_inv_freq"])
    assert torch.equal(model.rope.freqs, expected["rope_freqs"])
    cos, sin = model.rope(len(expected["rope_angles"]))
    assert torch.equal(cos, expected["rope_angles"].cos())
    assert torch.equal(sin, expected["rope_angles"].sin())


RELEASED = {
    "stdit3_xl2": lambda: STDiT3(),
    "vae_v1_2": lambda: VideoAutoencoder.build({"vae_2d": {"type": "released"}, "vae_temporal": {"type": "released"}}),
    "sdxl_vae_2d": lambda: RELEASED["vae_v1_2"]().spatial_vae.module,
}


@pytest.mark.parametrize("golden", golden_values.cases("checkpoint_keys"))
def test_released_keys_and_shapes(golden: Case) -> None:
    name, expected = golden.get()
    if name == "t5_v1_1_xxl_encoder":
        pytest.skip("the text encoder is tested in tests/text/test_encoder.py")
    with torch.device("meta"):
        state = RELEASED[name]().state_dict()
    shapes = {key: list(value.shape) for key, value in state.items()}
    assert shapes == expected["tensors"]
    assert sum(value.numel() for value in state.values()) == expected["total"]
