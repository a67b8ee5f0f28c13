"""Loading is strict: every misfit is a ValueError that names the file, the key and both shapes."""

import json
import sys
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import torch
from huggingface_hub.errors import (
    GatedRepoError,
    HFValidationError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
)
from safetensors.torch import load_file, save_file

from tests.models.networks import stdit_inputs, tiny_stdit
from videoaccel.models.checkpoint import read_state
from videoaccel.models.dit import DiT
from videoaccel.models.latte import Latte
from videoaccel.models.pixart import PixArt
from videoaccel.models.stdit import STDiT3

WEIGHTS = "diffusion_pytorch_model.safetensors"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    tiny_stdit(depth=1).save_pretrained(tmp_path / "model")
    return tmp_path / "model"


@torch.inference_mode()
def test_round_trip_is_exact(folder: Path) -> None:
    inputs = stdit_inputs()
    assert torch.equal(STDiT3.from_pretrained(folder)(**inputs), tiny_stdit(depth=1)(**inputs))
    assert STDiT3.from_pretrained(folder, dtype=torch.bfloat16).dtype == torch.bfloat16


@pytest.mark.parametrize(
    "kind, offline, reason",
    [
        (LocalEntryNotFoundError, False, "there is no connection, and it was not downloaded before"),
        (LocalEntryNotFoundError, True, "HF_HUB_OFFLINE forbids it, and it was not downloaded before"),
        (RepositoryNotFoundError, False, "there is no such repository, or it is private"),
        (GatedRepoError, False, "its owners want to be asked first"),
        (HFValidationError, True, "that is no name of a repository either"),
    ],
)
def test_what_the_hub_does_not_give(
    monkeypatch: pytest.MonkeyPatch, kind: type[Exception], offline: bool, reason: str
) -> None:
    def refused(*_: object, **__: object) -> None:
        raise kind.__new__(kind)  # some want a response of the server

    monkeypatch.setattr(huggingface_hub, "snapshot_download", refused)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", offline)
    with pytest.raises(FileNotFoundError, match=rf"^a/b is no folder here and could not be had .* hub: {reason}"):
        STDiT3.from_pretrained("a/b")


def test_released_layout_loads(folder: Path) -> None:
    """transformers' file name and bookkeeping fields, and training flags that change nothing."""
    (folder / WEIGHTS).rename(folder / "model.safetensors")
    config = json.loads((folder / "config.json").read_text())
    config |= {"model_type": "STDiT3", "architectures": ["STDiT3"], "torch_dtype": "bfloat16"}
    config |= {"enable_flash_attn": True, "input_size": [None, None, None], "freeze_y_embedder": False}
    (folder / "config.json").write_text(json.dumps(config))
    STDiT3.from_pretrained(folder)


def change(folder: Path, edit: object) -> None:
    state = load_file(folder / WEIGHTS)
    edit(state)  # type: ignore[operator]
    save_file(state, folder / WEIGHTS)


def test_missing_key(folder: Path) -> None:
    change(folder, lambda state: state.pop("rope.freqs"))
    with pytest.raises(ValueError, match=rf"{WEIGHTS}.*missing rope\.freqs \[6\]"):
        STDiT3.from_pretrained(folder)


def test_extra_key(folder: Path) -> None:
    change(folder, lambda state: state.update(surplus=torch.zeros(2, 3)))
    with pytest.raises(ValueError, match=rf"{WEIGHTS}.*unexpected surplus \[2, 3\]"):
        STDiT3.from_pretrained(folder)


def test_misshapen_key(folder: Path) -> None:
    change(folder, lambda state: state.update({"rope.freqs": torch.zeros(5)}))
    with pytest.raises(ValueError, match=rf"{WEIGHTS}.*rope\.freqs is \[5\], the model has \[6\]"):
        STDiT3.from_pretrained(folder)


def test_truncated_file(folder: Path) -> None:
    data = (folder / WEIGHTS).read_bytes()
    (folder / WEIGHTS).write_bytes(data[: len(data) // 2])
    with pytest.raises(ValueError, match=rf"{WEIGHTS}.*truncated"):
        STDiT3.from_pretrained(folder)


@pytest.mark.parametrize(
    "field, value, message",
    [
        ("hidden_sise", 48, "unknown field 'hidden_sise'"),
        ("num_heads", 7, "hidden_size 48 over num_heads 7"),
        ("depth", "two", "cannot be built"),
        ("num_heads", 0, "cannot be built"),
    ],
)
def test_wrong_field(folder: Path, field: str, value: object, message: str) -> None:
    config = json.loads((folder / "config.json").read_text()) | {field: value}
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match=rf"config\.json.*{message}"):
        STDiT3.from_pretrained(folder)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("depth", 10**7, "depth = 10,000,000; at most 1,000 makes sense"),
        ("depth", 10**4000, "depth = a number of 4001 digits; at most 1,000 makes sense"),
        ("hidden_size", 2**40, "hidden_size = 1,099,511,627,776; at most 1,000,000,000 makes sense"),
        ("patch_size", [1] * 1_000_001, "patch_size has 1,000,001 entries; at most 1,000,000 make sense"),
        ("depth", 200, r"makes a network of [0-9,]+ numbers, and .*safetensors has [0-9,]+ bytes"),
        ("caption_channels", 10**6, r"makes a network of [0-9,]+ numbers, and .*safetensors has [0-9,]+ bytes"),
    ],
)
def test_a_network_without_an_end_is_not_begun(folder: Path, field: str, value: object, message: str) -> None:
    """Nor one of more weights than its file has bytes: both are said before memory is asked for."""
    sys.set_int_max_str_digits(0)
    config = json.loads((folder / "config.json").read_text()) | {field: value}
    (folder / "config.json").write_text(json.dumps(config))
    sys.set_int_max_str_digits(sys.int_info.default_max_str_digits)
    with pytest.raises(ValueError, match=rf"config\.json:? {message}"):
        STDiT3.from_pretrained(folder)


@pytest.mark.parametrize("kind", [DiT, PixArt, Latte, STDiT3])
def test_every_network_has_an_end(kind: Any) -> None:
    name = "depth" if kind is STDiT3 else "num_layers"
    with pytest.raises(ValueError, match=rf"x: {name} = 10,000,000; at most 1,000 makes sense"):
        kind.build({name: 10**7}, source="x")


def test_unreadable_config(folder: Path) -> None:
    (folder / "config.json").write_text("{")
    with pytest.raises(ValueError, match=r"config\.json is not valid JSON"):
        STDiT3.from_pretrained(folder)


def test_missing_files(folder: Path) -> None:
    (folder / WEIGHTS).unlink()
    with pytest.raises(FileNotFoundError, match="no weights; looked for"):
        STDiT3.from_pretrained(folder)


def test_pickled_checkpoints_hold_tensors_only(tmp_path: Path) -> None:
    torch.save({"state_dict": {"a": torch.ones(2)}}, tmp_path / "good.pth")
    assert torch.equal(read_state(tmp_path / "good.pth")["a"], torch.ones(2))
    torch.save({"a": torch.nn.Linear(1, 1)}, tmp_path / "code.pth")
    with pytest.raises(ValueError, match=r"code\.pth is not a readable checkpoint"):
        read_state(tmp_path / "code.pth")
    torch.save({"a": 3}, tmp_path / "number.pth")
    with pytest.raises(ValueError, match="holds no state dict"):
        read_state(tmp_path / "number.pth")
