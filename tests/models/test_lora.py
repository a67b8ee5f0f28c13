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
from videoaccel.models.fingerprint import fingerprint
from videoaccel.models.lora import Adapters, Change, read_lora
from videoaccel.settings.early import parse_lora

NETWORKS = {"stdit": lambda: tiny_stdit(depth=1), "latte": tiny_latte}
WRITERS = {
    "diffusers": ("transformer.{}.lora_A.weight", "transformer.{}.lora_B.weight"),
    "peft": ("base_model.model.{}.lora_A.default.weight", "base_model.model.{}.lora_B.default.weight"),
    "kohya": ("{}.lora_down.weight", "{}.lora_up.weight"),
    "kohya_flat": ("lora_unet_{}.lora_down.weight", "lora_unet_{}.lora_up.weight"),
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
        state[f"{next(iter(state)).rpartition('.lora_')[0]}.alpha"] = torch.tensor(alpha)
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
    first, second = (text.format(name.replace(".", "_") if "flat" in writer else name) for text in WRITERS[writer])
    path = tmp_path / "pytorch_lora_weights.safetensors"
    tell_alpha(path, how, 8.0, {first: down, second: up}, name)
    before = weights(network)
    for place in (path, tmp_path):
        network.load_state_dict(before)
        Adapters(network).add("a", read_lora(place), weight=0.5, source=place)
        scale = 1.0 if how == "nobody" else 8.0 / 2
        expected = before | {f"{name}.weight": before[f"{name}.weight"] + 0.5 * scale * up @ down}
        for key, value in network.state_dict().items():
            assert torch.allclose(value, expected[key], atol=1e-5), key


def saved(path: Path, network: nn.Module, factor: float = 1.0) -> Path:
    name, down, up = sides(network)
    save_file({f"{name}.lora_A.weight": down, f"{name}.lora_B.weight": factor * up}, path)
    return path


def test_loras_are_switched_weighted_and_taken_off_to_the_bit(tmp_path: Path, pipeline_folder: Path) -> None:
    pipe = VideoPipeline.from_pretrained(pipeline_folder)
    name, down, up = sides(pipe.transformer)
    before, change = weights(pipe.transformer), up @ down
    own = before[f"{name}.weight"]
    paths = [saved(tmp_path / f"{name}.safetensors", pipe.transformer, factor) for name, factor in (("a", 1), ("b", 3))]

    def on() -> Tensor:
        return weights(pipe.transformer)[f"{name}.weight"]

    def plain() -> bool:
        return all(torch.equal(value, before[key]) for key, value in pipe.transformer.state_dict().items())

    pipe.load_lora_weights(paths[0], weight=0.7)
    pipe.load_lora_weights(paths[1], adapter_name="style")
    pipe.load_lora_weights(paths[1])
    assert pipe.get_list_adapters() == {"a": 0.7, "style": 1.0, "b": 1.0}
    assert torch.allclose(on(), own + 6.7 * change, atol=1e-4)
    pipe.set_adapters("style")
    assert torch.allclose(on(), own + 3 * change, atol=1e-4) and pipe.get_active_adapters() == ["style"]
    pipe.set_adapters(["a", "style"], [0.5, 0.0])
    assert torch.allclose(on(), own + 0.5 * change, atol=1e-4)
    pipe.set_adapters([])
    assert plain()
    pipe.set_adapters(["a", "b"], 2.0)
    pipe.delete_adapters("a")
    assert torch.allclose(on(), own + 6 * change, atol=1e-4)
    pipe.unload_lora_weights()
    assert plain() and pipe.get_list_adapters() == {}
    pipe.load_lora_weights(paths[0])
    with pytest.raises(ValueError, match="a is on already"):
        pipe.load_lora_weights(paths[0], adapter_name="a")
    with pytest.raises(ValueError, match="no LoRA is called c; there are a"):
        pipe.set_adapters("c")
    with pytest.raises(ValueError, match="2 weights for 1 LoRAs"):
        pipe.set_adapters("a", [1.0, 2.0])
    pipe.fuse_lora()
    pipe.unload_lora_weights()
    assert torch.allclose(on(), own + change, atol=1e-5)


def test_a_prior_of_the_model_is_none_of_it_with_a_lora(tmp_path: Path, pipeline_folder: Path) -> None:
    """Priors are found by a sample of all weights: even a little of a small LoRA makes another model of it."""
    pipe = VideoPipeline.from_pretrained(pipeline_folder)
    own = fingerprint(pipe.transformer)
    pipe.load_lora_weights(saved(tmp_path / "a.safetensors", pipe.transformer, 0.01), weight=0.05)
    assert fingerprint(pipe.transformer) != own
    pipe.set_adapters([])
    assert fingerprint(pipe.transformer) == own


def test_a_network_that_runs_on_copies_of_its_weights_takes_none() -> None:
    """In 8 bits a changed weight would change nothing."""
    network = nn.ModuleDict({"a": nn.Linear(2, 2)})
    adapters, change = Adapters(network), {"a": Change(torch.ones(1, 2), torch.ones(2, 1), 1.0)}
    adapters.add("before", change, weight=1.0, source="x")
    network["a"].register_buffer("weight8", torch.zeros(2, 2), persistent=False)
    for act in (
        lambda: adapters.add("after", change, weight=1.0, source="x"),
        lambda: adapters.set({}),
        lambda: adapters.remove(["before"]),
    ):
        with pytest.raises(ValueError, match="a runs on a copy of its weights in 8 bits"):
            act()
    assert adapters.weights == {"before": 1.0}


def test_names_that_are_written_flat_are_found_or_refused() -> None:
    network = nn.ModuleDict(
        {"a_b": nn.ModuleDict({"c": nn.Linear(2, 2)}), "a": nn.ModuleDict({"b_c": nn.Linear(2, 2)})}
    )
    change = {"a_b_c": Change(torch.ones(1, 2), torch.ones(2, 1), 1.0)}
    with pytest.raises(ValueError, match="changes a_b_c, which is no linear module"):  # it may be either
        Adapters(network).add("a", change, weight=1.0, source="x")
    twice = {"0": Change(*change["a_b_c"]), "x.1": Change(*change["a_b_c"]), "x_1": Change(*change["a_b_c"])}
    other = nn.ModuleDict({"0": nn.Linear(2, 2), "x": nn.ModuleDict({"1": nn.Linear(2, 2)})})
    with pytest.raises(ValueError, match=r"changes x\.1 twice, once as x_1"):
        Adapters(other).add("a", twice, weight=1.0, source="x")


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
        Adapters(network).add("a", read_lora(path), weight=1.0, source=path)
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
