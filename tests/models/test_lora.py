"""LoRA weights of every writer change the network as their formula says, and nothing else does."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from tests.models.latte_networks import tiny_latte
from tests.models.networks import tiny_stdit
from tests.workshop import Workshop
from videoaccel.generation.pipeline import VideoPipeline
from videoaccel.jobs.resolve import resolve
from videoaccel.models.lora import add_lora, parse_lora, read_lora

NETWORKS = {"stdit": lambda: tiny_stdit(depth=1), "latte": tiny_latte}
WRITERS = {
    "diffusers": ("transformer.{}.lora_A.weight", "transformer.{}.lora_B.weight"),
    "peft": ("base_model.model.{}.lora_A.default.weight", "base_model.model.{}.lora_B.default.weight"),
    "kohya": ("{}.lora_down.weight", "{}.lora_up.weight"),
}


def linear(network: nn.Module) -> str:
    return next(name for name, module in network.named_modules() if isinstance(module, nn.Linear) and "block" in name)


def sides(network: nn.Module, rank: int = 2) -> tuple[str, Tensor, Tensor]:
    name = linear(network)
    out, into = network.get_submodule(name).weight.shape  # type: ignore[misc, union-attr]
    draw = torch.Generator().manual_seed(1)
    return name, torch.randn(rank, int(into), generator=draw), torch.randn(int(out), rank, generator=draw)


def weights(network: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in network.state_dict().items()}


def tell_alpha(path: Path, how: str, alpha: float, state: dict[str, Tensor], name: str) -> None:
    metadata = None
    if how == "tensor":
        state[f"{name}.alpha"] = torch.tensor(alpha)
    if how == "metadata":
        metadata = {"lora_adapter_metadata": json.dumps({"transformer.r": 2, "transformer.lora_alpha": alpha})}
    if how == "beside":
        path.with_name("adapter_config.json").write_text(json.dumps({"r": 2, "lora_alpha": alpha}))
    save_file({key: value.contiguous() for key, value in state.items()}, path, metadata=metadata)


@pytest.mark.parametrize("kind", NETWORKS)
@pytest.mark.parametrize("writer", WRITERS)
@pytest.mark.parametrize("how", ["nobody", "tensor", "metadata", "beside"])
def test_the_weight_becomes_what_the_formula_says(tmp_path: Path, kind: str, writer: str, how: str) -> None:
    network = NETWORKS[kind]()
    name, down, up = sides(network)
    first, second = (text.format(name) for text in WRITERS[writer])
    path = tmp_path / "pytorch_lora_weights.safetensors"
    tell_alpha(path, how, 8.0, {first: down, second: up}, name)
    before = weights(network)
    for place in (path, tmp_path):
        network.load_state_dict(before)
        add_lora(network, read_lora(place), weight=0.5, source=place)
        scale = 1.0 if how == "nobody" else 8.0 / 2
        expected = before | {f"{name}.weight": before[f"{name}.weight"] + 0.5 * scale * up @ down}
        for key, value in network.state_dict().items():
            assert torch.allclose(value, expected[key], atol=1e-5), key


def test_a_lora_comes_off_again(tmp_path: Path) -> None:
    network = tiny_stdit(depth=1)
    name, down, up = sides(network)
    save_file({f"{name}.lora_A.weight": down, f"{name}.lora_B.weight": up}, tmp_path / "a.safetensors")
    before = weights(network)
    for weight in (0.7, -0.7):
        add_lora(network, read_lora(tmp_path / "a.safetensors"), weight=weight, source="a")
    assert all(torch.allclose(value, before[key], atol=1e-5) for key, value in network.state_dict().items())


@pytest.mark.parametrize(
    ("state", "said"),
    [
        ({"a.weight": (2, 2)}, r"is no LoRA, or of a kind that is not known here: it holds a\.weight"),
        ({"a.lora_A.weight": (2, 8)}, r"a has only A of A and B"),
        ({"a.lora_A.weight": (2, 8), "a.lora_B.weight": (8, 3)}, r"A \[2, 8\] and B \[8, 3\] of a do not fit"),
        ({"a.lora_A.weight": (2, 8), "a.lora_B.weight": (8, 2)}, r"changes a, which is no linear module of STDiT3"),
        ({"NAME.lora_A.weight": (2, 7), "NAME.lora_B.weight": (9, 2)}, r"as \[9, 7\], the model has \["),
        ({}, "it holds nothing"),
    ],
)
def test_what_does_not_fit_is_refused_and_changes_nothing(tmp_path: Path, state: dict[str, Any], said: str) -> None:
    network = tiny_stdit(depth=1)
    before, name = weights(network), linear(network)
    path = tmp_path / "a.safetensors"
    save_file({key.replace("NAME", name): torch.ones(shape) for key, shape in state.items()}, path)
    with pytest.raises(ValueError, match=said):
        add_lora(network, read_lora(path), weight=1.0, source=path)
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())
    with pytest.raises(FileNotFoundError, match="has no LoRA weights; looked for"):
        read_lora(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"none\.safetensors does not exist"):
        read_lora(tmp_path / "none.safetensors")


def test_files_and_weights_are_told_apart() -> None:
    assert parse_lora("a.safetensors") == ("a.safetensors", 1.0)
    assert parse_lora("C:style:-.5") == ("C:style", -0.5)
    with pytest.raises(ValueError, match="a LoRA needs a file"):
        parse_lora("")


def test_generate_takes_it_and_its_sidecar_makes_the_clip_again(make: Workshop, pipeline_folder: Path) -> None:
    transformer = VideoPipeline.from_pretrained(pipeline_folder).transformer
    name, down, up = sides(transformer)
    path = make.folder / "style.safetensors"
    save_file({f"transformer.{name}.lora_A.weight": down, f"transformer.{name}.lora_B.weight": up}, path)
    make("plain.gif", steps=2, frames=5)
    make("styled.gif", steps=2, frames=5, lora=[f"{path}:0.5"])
    plain, styled = ((make.folder / f"{name}.gif").read_bytes() for name in ("plain", "styled"))
    assert plain != styled
    record = make.record("styled.json")
    assert record["settings"]["lora"] == [f"{path}:0.5"] and str(path) in record["inputs"]
    assert make.again("styled.json", "again.gif") == styled
    save_file({f"transformer.{name}.lora_A.weight": down, f"transformer.{name}.lora_B.weight": -up}, path)
    with pytest.raises(ValueError, match=r"was made with other inputs: .*style\.safetensors has changed"):
        make.again("styled.json", "other.gif")
    with pytest.raises(FileNotFoundError, match=r"none\.safetensors does not exist"):
        resolve(make.settings(lora=[str(make.folder / "none.safetensors")]))
