"""Weights load in every form that savers and trainers leave, and what is missing or no weights is named."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from tests.models.networks import tiny_stdit
from videoaccel.generation.pipeline import VideoPipeline
from videoaccel.models.stdit import STDiT3
from videoaccel.models.weights import read_state

WEIGHTS = "diffusion_pytorch_model.safetensors"


def network() -> STDiT3:
    torch.manual_seed(0)  # the null text is drawn from it
    return tiny_stdit(depth=1)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    network().save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def same(folder: Path, **how: Any) -> bool:
    wanted = network().state_dict()
    found = STDiT3.from_pretrained(folder, **how).state_dict()
    return found.keys() == wanted.keys() and all(torch.equal(found[key], wanted[key]) for key in wanted)


def instead(folder: Path, content: Any, name: str = "model.pt") -> None:
    (folder / WEIGHTS).unlink(missing_ok=True)
    torch.save(content, folder / name)


def state(folder: Path, prefix: str = "") -> dict[str, Tensor]:
    return {f"{prefix}{key}": value for key, value in load_file(folder / WEIGHTS).items()}


def test_what_our_own_save_pretrained_writes_in_shards_loads(tmp_path: Path) -> None:
    network().save_pretrained(tmp_path, max_shard_size="20KB")
    assert len(list(tmp_path.glob("*-of-*.safetensors"))) > 2 and same(tmp_path)


def test_a_pipeline_saved_in_shards_loads(tmp_path: Path, pipeline_folder: Path) -> None:
    pipe = VideoPipeline.from_pretrained(pipeline_folder)
    pipe.save_pretrained(tmp_path, max_shard_size="50KB")
    assert (tmp_path / "transformer" / f"{WEIGHTS}.index.json").is_file()
    again = VideoPipeline.from_pretrained(tmp_path)
    for name, value in pipe.transformer.state_dict().items():
        assert torch.equal(again.transformer.state_dict()[name], value)


@pytest.mark.parametrize("index", ["pytorch_model.bin.index.json", "diffusion_pytorch_model.bin.index.json"])
def test_shards_of_colossalai_and_transformers_load(folder: Path, index: str) -> None:
    whole = state(folder)
    (folder / WEIGHTS).unlink()
    names = sorted(whole)
    parts = {"pytorch_model-00001.bin": names[::2], "pytorch_model-00002.bin": names[1::2]}
    for file, keys in parts.items():
        torch.save({key: whole[key] for key in keys}, folder / file)
    where = {key: file for file, keys in parts.items() for key in keys}
    (folder / index).write_text(json.dumps({"metadata": {"total_size": 1}, "weight_map": where}))
    assert same(folder)
    (folder / "pytorch_model-00002.bin").unlink()
    with pytest.raises(ValueError, match=r"pytorch_model-00002\.bin is missing, shard 2 of the 2 of .*\.index\.json$"):
        STDiT3.from_pretrained(folder)
    torch.save({}, folder / "pytorch_model-00002.bin")
    with pytest.raises(ValueError, match=rf"00002\.bin should hold {names[1]}, as {index} says, and does not"):
        STDiT3.from_pretrained(folder)
    for wrong in ('{"weight_map": 3}', "no", '{"weight_map": {"a": "../x.bin"}}'):
        (folder / index).write_text(wrong)
        with pytest.raises(ValueError, match=r"is no index of shards|names '\.\./x\.bin', which is no file beside it"):
            STDiT3.from_pretrained(folder)


@pytest.mark.parametrize("sharded", [False, True])
def test_variants_are_found_by_name(tmp_path: Path, sharded: bool) -> None:
    model = network()
    size = {"max_shard_size": "20KB"} if sharded else {}
    model.save_pretrained(tmp_path, variant="fp16", **size)
    assert same(tmp_path) and same(tmp_path, variant="fp16")
    with pytest.raises(FileNotFoundError, match="has no weights of the variant bf16"):
        STDiT3.from_pretrained(tmp_path, variant="bf16")
    model.save_pretrained(tmp_path, variant="ema", **size)
    with pytest.raises(ValueError, match=r"weights in the variants ema, fp16; say which, as `variant`"):
        STDiT3.from_pretrained(tmp_path)
    assert same(tmp_path, variant="ema")


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "ema.", "model.", "module._orig_mod."])
def test_a_common_prefix_is_taken_off_and_told(folder: Path, prefix: str) -> None:
    instead(folder, state(folder, prefix), "pytorch_model.bin")
    with pytest.warns(UserWarning, match=rf"pytorch_model\.bin: the prefix '{prefix}' was taken off the names"):
        assert same(folder)


def test_a_prefix_that_is_not_common_or_does_not_help_stays(folder: Path) -> None:
    whole = state(folder, "module.")
    key = sorted(whole)[0]
    for wrong in ({**whole, "other": torch.zeros(1)}, {name: whole[name] for name in whole if name != key}):
        save_file(wrong, folder / WEIGHTS)
        with pytest.raises(ValueError, match=r"unexpected module\."):
            STDiT3.from_pretrained(folder)


def test_averaged_weights_are_taken_before_others(folder: Path) -> None:
    whole = state(folder)
    zeros = {name: torch.zeros_like(value) for name, value in whole.items()}
    names = [("ema", "module"), ("ema", "model"), ("ema", "state_dict"), ("model_ema", "model"), ("ema_model", "model")]
    for averaged, other in names:
        instead(folder, {other: zeros, averaged: whole, "step": 3}, "ema.pt")
        told = rf"ema\.pt holds {averaged} and {other}; the averaged weights, {averaged}, are taken"
        with pytest.warns(UserWarning, match=told):
            assert same(folder)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for content in (whole, {"ema": whole}, {"module": whole, "optimizer": {}}, {"ema": {}, "model": whole}):
            instead(folder, content, "ema.pt")
            assert same(folder)


@pytest.mark.parametrize("name", [WEIGHTS, "config.json", "pytorch_model.bin"])
def test_a_pointer_of_git_lfs_is_called_one(folder: Path, name: str) -> None:
    if name == "pytorch_model.bin":
        (folder / WEIGHTS).unlink()
    (folder / name).write_text("version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n")
    with pytest.raises(ValueError, match=rf"{name} is a Git LFS pointer, not the file itself; `git lfs pull`"):
        STDiT3.from_pretrained(folder)


def test_a_shard_on_the_hub_is_fetched_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    network().save_pretrained(tmp_path / "hub", max_shard_size="20KB")
    (tmp_path / "here").mkdir()
    asked: list[str] = []

    def fetch(_: str, *, allow_patterns: list[str], **__: Any) -> str:
        for path in (tmp_path / "hub").iterdir():
            if any(path.match(pattern) for pattern in allow_patterns):
                asked.append(path.name)
                (tmp_path / "here" / path.name).write_bytes(path.read_bytes())
        return str(tmp_path / "here")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fetch)
    assert same("a/b")  # type: ignore[arg-type]
    assert len(asked) == len(set(asked)) == len(list((tmp_path / "hub").iterdir()))


def test_an_index_reads_like_a_file(tmp_path: Path) -> None:
    network().save_pretrained(tmp_path, max_shard_size="20KB")
    assert read_state(tmp_path / f"{WEIGHTS}.index.json").keys() == network().state_dict().keys()
