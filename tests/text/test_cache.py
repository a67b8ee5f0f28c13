import errno
import os
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from transformers import PreTrainedTokenizerBase, T5EncoderModel

from tests.text.tiny_t5 import LENGTH, QUERY, build_t5, build_tokenizer, change_weights, save_t5
from videoaccel.text import cache as text_cache
from videoaccel.text.cache import CacheEntry, TextCache, TextKey, default_folder, encode_cached, encoder_identity
from videoaccel.text.encoder import PromptStates, encode

KEY = TextKey("some encoder", 3, torch.float32)


@pytest.fixture
def cache(tmp_path: Path) -> TextCache:
    return TextCache(tmp_path / "cache" / "text")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("prompt", ["a cat", "", 'ein "größerer"\n\tHund | 猫 🐈'])
def test_what_is_put_is_got(cache: TextCache, prompt: str, dtype: torch.dtype) -> None:
    key = TextKey("some encoder", 3, dtype)
    assert cache.get(prompt, key=key) is None
    states = numbered(8).rows([5]).to(dtype=dtype)
    cache.put(prompt, states, key=key)
    found = cache.get(prompt, key=key)
    assert found is not None
    assert torch.equal(found.states, states.states) and found.states.dtype == dtype
    assert torch.equal(found.mask, states.mask)
    assert found.cut == (5,)


def test_everything_that_matters_is_in_the_key(cache: TextCache) -> None:
    cache.put("a cat", numbered(1), key=KEY)
    others = [
        ("a cat ", KEY),
        ("a cat", TextKey("other", 3, torch.float32)),
        ("a cat", TextKey("some encoder", 4, torch.float32)),
        ("a cat", TextKey("some encoder", 3, torch.bfloat16)),
    ]
    for prompt, key in others:
        assert cache.get(prompt, key=key) is None


def test_damaged_entries_are_missing_and_replaced(cache: TextCache) -> None:
    cache.put("a cat", numbered(1), key=KEY)
    (path,) = cache.folder.iterdir()
    data = path.read_bytes()
    other = cache.folder / "other.safetensors"
    save_file({"states": torch.zeros(1)}, other)
    for damaged in (b"", data[:5], data[:-4], b"\xff" * len(data), other.read_bytes()):
        path.write_bytes(damaged)
        assert cache.get("a cat", key=KEY) is None
        cache.put("a cat", numbered(1), key=KEY)
        assert cache.get("a cat", key=KEY) is not None
    assert len(cache.entries()) == 2


def test_states_that_do_not_belong_are_refused(cache: TextCache) -> None:
    for wrong in (numbered(2), numbered(1, tokens=4), numbered(1).to(dtype=torch.float16)):
        with pytest.raises(ValueError, match=r"states of \[1, 3\] tokens in torch\.float32 belong here; got"):
            cache.put("a cat", wrong, key=KEY)
    assert cache.entries() == []


def test_entries_and_clear(cache: TextCache) -> None:
    assert cache.entries() == [] and cache.clear() == 0  # the folder is not there yet
    cache.put("old", numbered(1), key=KEY)
    (old,) = cache.folder.iterdir()
    os.utime(old, (time.time() - 3600,) * 2)
    cache.put("new", numbered(1), key=KEY)
    (cache.folder / "broken.safetensors").write_bytes(b"broken")
    os.utime(cache.folder / "broken.safetensors", (time.time() - 7200,) * 2)
    (cache.folder / f".{old.name}.1-ab.part").touch()
    (cache.folder / "notes.txt").touch()
    entries = cache.entries()
    assert [entry.prompt for entry in entries] == ["new", "old", None]
    assert entries[1] == CacheEntry("old", old.stat().st_size, entries[1].age)
    assert entries[1].age == pytest.approx(3600, abs=60)
    assert cache.clear() == 3
    assert [path.name for path in cache.folder.iterdir()] == ["notes.txt"]


def test_the_default_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert TextCache().folder == default_folder() == tmp_path / "videoaccel" / "text"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert default_folder() == tmp_path / ".cache" / "videoaccel" / "text"


class Loader:
    """Gives an encoder and counts how often it is asked."""

    def __init__(self) -> None:
        self.parts = build_tokenizer(), build_t5()
        self.calls = 0

    def __call__(self) -> tuple[PreTrainedTokenizerBase, T5EncoderModel]:
        self.calls += 1
        return self.parts


@pytest.fixture
def loader() -> Loader:
    return Loader()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return save_t5(tmp_path / "t5")


def numbered(rows: int, *, tokens: int = 3) -> PromptStates:
    states = torch.arange(rows * tokens * 2.0).view(rows, 1, tokens, 2)
    return PromptStates(states, torch.ones(rows, tokens, dtype=torch.int64), tuple(range(rows)))


def test_a_known_prompt_needs_no_encoder(cache: TextCache, loader: Loader) -> None:
    key = TextKey("t5", LENGTH, torch.float32)
    prompts = ["a cat", "a dog", "a cat"]
    first = encode_cached(prompts, cache=cache, key=key, load=loader)
    assert loader.calls == 1
    assert len(cache.entries()) == 2
    again = encode_cached(prompts, cache=cache, key=key, load=loader)
    assert loader.calls == 1
    direct = encode(prompts, tokenizer=loader.parts[0], text_encoder=loader.parts[1], max_length=LENGTH)
    for found in (first, again):
        assert torch.equal(found.states, direct.states) and torch.equal(found.mask, direct.mask)
    encode_cached(["a dog", "a bird"], cache=cache, key=key, load=loader)
    assert loader.calls == 2
    with pytest.raises(ValueError, match="no prompt"):
        encode_cached([], cache=cache, key=key, load=loader)


def test_a_full_disk_costs_only_the_cache(cache: TextCache, loader: Loader, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "full")

    monkeypatch.setattr(text_cache, "atomic_write_bytes", full)
    with pytest.warns(UserWarning, match="text states are not kept for next time: .*full"):
        found = encode_cached(["a cat"], cache=cache, key=TextKey("t5", LENGTH, torch.float32), load=loader)
    assert len(found) == 1


def test_an_encoder_is_known_by_what_is_in_its_folder(folder: Path, tmp_path: Path) -> None:
    identity = encoder_identity(folder)
    moved = folder.rename(tmp_path / "elsewhere")
    assert encoder_identity(str(moved)) == identity
    change_weights(moved, lambda state: state[QUERY].mul_(1.001))
    assert encoder_identity(moved) != identity
    assert encoder_identity("DeepFloyd/t5-v1_1-xxl") == "DeepFloyd/t5-v1_1-xxl"
    assert encoder_identity("some/pipeline", subfolder="text_encoder") == "some/pipeline/text_encoder"


def test_the_tokenizer_of_a_pipeline_is_part_of_the_encoder(tmp_path: Path, folder: Path) -> None:
    folder.rename(tmp_path / "text_encoder")
    (tmp_path / "tokenizer").mkdir()
    (tmp_path / "tokenizer" / "tokenizer.json").write_text("{}")
    before = encoder_identity(tmp_path, subfolder="text_encoder")
    (tmp_path / "tokenizer" / "tokenizer.json").write_text("{ }")
    assert encoder_identity(tmp_path, subfolder="text_encoder") != before


def test_large_files_are_sampled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text_cache, "_WHOLE", 1000)
    monkeypatch.setattr(text_cache, "_SAMPLE", 100)
    data = bytearray(100_000)
    found = set()
    for place in (None, 0, 50_000, 99_999):
        if place is not None:
            data[place] ^= 1
        (tmp_path / "model.safetensors").write_bytes(data)
        found.add(encoder_identity(tmp_path))
    assert len(found) >= 3  # both ends are always seen, the rest by samples
