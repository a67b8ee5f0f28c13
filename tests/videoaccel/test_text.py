import errno
import json
import os
import pickle
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tests import golden_values
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from torch import Tensor
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast, T5Config, T5EncoderModel

from videoaccel import text_cache
from videoaccel.text import PromptStates, encode, encode_tokens, load_text_encoder
from videoaccel.text_cache import CacheEntry, TextCache, TextKey, default_folder, encode_cached, encoder_identity

CONFIG = {
    "d_model": 16,
    "d_kv": 8,
    "d_ff": 24,
    "num_layers": 2,
    "num_heads": 2,
    "vocab_size": 40,
    "feed_forward_proj": "gated-gelu",
    "is_encoder_decoder": False,
}
QUERY = "encoder.block.0.layer.0.SelfAttention.q.weight"
LENGTH = 12


def build_tokenizer() -> PreTrainedTokenizerFast:
    """Letters in T5's layout: padding 0, end 1, unknown 2."""
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", -9.0), ("\u2581", -2.0)]
    inner = Tokenizer(models.Unigram([*pieces, *((letter, -3.0) for letter in "abcdefghijklmnopqrstuvwxyz")], unk_id=2))
    inner.normalizer = normalizers.Lowercase()
    inner.pre_tokenizer = pre_tokenizers.Metaspace()
    inner.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    return PreTrainedTokenizerFast(tokenizer_object=inner, pad_token="<pad>", eos_token="</s>", unk_token="<unk>")


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    return build_tokenizer()


@pytest.fixture(scope="module")
def t5() -> T5EncoderModel:
    torch.manual_seed(0)
    return T5EncoderModel(T5Config(**CONFIG)).eval()


@pytest.fixture
def folder(tmp_path: Path, tokenizer: PreTrainedTokenizerFast, t5: T5EncoderModel) -> Path:
    """A folder with weights and tokenizer side by side."""
    t5.save_pretrained(tmp_path / "t5")
    tokenizer.save_pretrained(tmp_path / "t5")
    return tmp_path / "t5"


Change = Callable[[dict[str, Tensor]], Any]


def change_weights(folder: Path, change: Change) -> None:
    state = load_file(folder / "model.safetensors")
    change(state)
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})


# Golden values


@pytest.mark.golden
@pytest.mark.parametrize("embedding", ["shared", "both", "embed_tokens"])
def test_t5_gives_the_golden_states(tmp_path: Path, tokenizer: PreTrainedTokenizerFast, embedding: str) -> None:
    tensors = golden_values.load_tensors("t5_tiny")
    weights = golden_values.select(tensors, "weights")
    if embedding != "shared":
        weights["encoder.embed_tokens.weight"] = weights["shared.weight"].clone()
    if embedding == "embed_tokens":
        del weights["shared.weight"]
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    config = {"model_type": "t5", **golden_values.load_json("t5_tiny")["config"]}
    (tmp_path / "config.json").write_text(json.dumps(config))
    tokenizer.save_pretrained(tmp_path)
    _, model = load_text_encoder(tmp_path, dtype=torch.float32)
    cases = [name.removesuffix(".in.input_ids") for name in tensors if name.endswith(".in.input_ids")]
    assert cases, f"{golden_values.folder()} has no case of t5_tiny"
    for case in cases:
        given, wanted = golden_values.select(tensors, f"{case}.in"), tensors[f"{case}.out.last_hidden_state"]
        ids, mask = given["input_ids"], given["attention_mask"]
        states = encode_tokens(ids, mask, text_encoder=model)
        assert torch.allclose(states, wanted, atol=1e-4, rtol=1e-4), case
        alone = torch.cat([encode_tokens(ids[[i]], mask[[i]], text_encoder=model) for i in range(len(ids))])
        assert torch.allclose(alone, wanted, atol=1e-4, rtol=1e-4), case


# Encoding


def test_prompts_are_padded_and_masked(tokenizer: PreTrainedTokenizerFast, t5: T5EncoderModel) -> None:
    found = encode(["a cat", "", "dog"], tokenizer=tokenizer, text_encoder=t5, max_length=LENGTH)
    assert found.states.shape == (3, 1, LENGTH, 16)
    assert found.mask.dtype == torch.int64
    assert found.lengths == [len(tokenizer("a cat").input_ids), 2 if len(tokenizer("").input_ids) == 2 else 1, 5]
    assert found.mask[0].tolist() == [1] * found.lengths[0] + [0] * (LENGTH - found.lengths[0])
    assert found.cut == (0, 0, 0)


def test_padding_is_not_seen(tokenizer: PreTrainedTokenizerFast, t5: T5EncoderModel) -> None:
    short, long = (encode(["a cat"], tokenizer=tokenizer, text_encoder=t5, max_length=n) for n in (LENGTH, 30))
    tokens = short.lengths[0]
    assert torch.allclose(short.states[:, :, :tokens], long.states[:, :, :tokens], atol=1e-5)


def test_states_do_not_depend_on_the_batch(tokenizer: PreTrainedTokenizerFast, t5: T5EncoderModel) -> None:
    prompts = ["a cat", "a dog runs", "a cat"]
    batch = encode(prompts, tokenizer=tokenizer, text_encoder=t5, max_length=LENGTH)
    for row, prompt in enumerate(prompts):
        alone = encode([prompt], tokenizer=tokenizer, text_encoder=t5, max_length=LENGTH)
        assert torch.equal(batch.states[row], alone.states[0])


def test_encoding_keeps_no_graph_and_follows_the_encoders_type(
    tokenizer: PreTrainedTokenizerFast, folder: Path
) -> None:
    _, half = load_text_encoder(folder, dtype=torch.bfloat16)
    found = encode(["a cat"], tokenizer=tokenizer, text_encoder=half, max_length=LENGTH)
    assert found.states.dtype == torch.bfloat16
    assert found.mask.dtype == torch.int64
    assert not found.states.requires_grad


def test_a_long_prompt_is_cut_with_a_warning(tokenizer: PreTrainedTokenizerFast, t5: T5EncoderModel) -> None:
    prompt = "abcdefghijklmnop"
    whole = len(tokenizer(prompt).input_ids)
    with pytest.warns(UserWarning, match=rf"has {whole} tokens, {whole - LENGTH} more than .*: 'abcdefghijklmnop'"):
        found = encode([prompt, "a"], tokenizer=tokenizer, text_encoder=t5, max_length=LENGTH)
    assert found.cut == (whole - LENGTH, 0)
    assert found.lengths[0] == LENGTH


def test_a_prompt_that_just_fits_is_not_cut(tokenizer: PreTrainedTokenizerFast, t5: T5EncoderModel) -> None:
    whole = len(tokenizer("abcdef").input_ids)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = encode(["abcdef"], tokenizer=tokenizer, text_encoder=t5, max_length=whole)
    assert found.cut == (0,)


def test_encoding_refuses_nonsense(tokenizer: PreTrainedTokenizerFast, t5: T5EncoderModel) -> None:
    with pytest.raises(ValueError, match="no prompt"):
        encode([], tokenizer=tokenizer, text_encoder=t5, max_length=LENGTH)
    with pytest.raises(ValueError, match="max_length must be at least 2.*got 1"):
        encode(["a"], tokenizer=tokenizer, text_encoder=t5, max_length=1)
    small = T5EncoderModel(T5Config(**{**CONFIG, "vocab_size": 8}))
    with pytest.raises(ValueError, match="the tokenizer gave token 29, the text encoder has 8"):
        encode(["z"], tokenizer=tokenizer, text_encoder=small, max_length=LENGTH)


def test_states_that_are_not_finite_are_refused(tokenizer: PreTrainedTokenizerFast) -> None:
    model = T5EncoderModel(T5Config(**CONFIG))
    torch.nn.init.constant_(model.encoder.final_layer_norm.weight, torch.inf)
    with pytest.raises(ValueError, match=r"not finite in torch\.float32; load the text encoder in bfloat16"):
        encode(["a"], tokenizer=tokenizer, text_encoder=model, max_length=LENGTH)


# Prompt states


def numbered(rows: int, *, tokens: int = 3) -> PromptStates:
    states = torch.arange(rows * tokens * 2.0).view(rows, 1, tokens, 2)
    return PromptStates(states, torch.ones(rows, tokens, dtype=torch.int64), tuple(range(rows)))


def test_rows_and_repeat() -> None:
    states = numbered(3)
    chosen = states.rows([2, 0, 2])
    assert torch.equal(chosen.states, states.states[[2, 0, 2]])
    assert chosen.cut == (2, 0, 2)
    assert states.repeat(2).cut == (0, 0, 1, 1, 2, 2)
    assert len(states.repeat(4)) == 12


def test_cat_puts_rows_one_after_the_other() -> None:
    states = numbered(3)
    joined = PromptStates.cat([states.rows([0]), states.rows([1, 2])])
    assert torch.equal(joined.states, states.states) and torch.equal(joined.mask, states.mask)
    assert joined.cut == states.cut
    with pytest.raises(ValueError, match=r"different tokens x width: \(3, 2\), \(4, 2\)"):
        PromptStates.cat([states, numbered(1, tokens=4)])
    with pytest.raises(ValueError, match="no prompt states"):
        PromptStates.cat([])


def test_to_casts_states_only() -> None:
    half = numbered(2).to("cpu", torch.bfloat16)
    assert (half.states.dtype, half.mask.dtype, half.cut) == (torch.bfloat16, torch.int64, (0, 1))


def test_states_and_mask_must_fit() -> None:
    assert PromptStates(torch.zeros(2, 1, 3, 4), torch.ones(2, 3, dtype=torch.int64)).cut == (0, 0)
    with pytest.raises(ValueError, match=r"states \[2, 3, 4\] do not fit the mask's \[B, L\] = \[2, 3\]"):
        PromptStates(torch.zeros(2, 3, 4), torch.ones(2, 3, dtype=torch.int64))


# Loading


def test_loading_gives_the_same_encoder(folder: Path, t5: T5EncoderModel, tokenizer: PreTrainedTokenizerFast) -> None:
    loaded_tokenizer, model = load_text_encoder(folder, dtype=torch.float32)
    assert not model.training
    loaded, wanted = (
        encode(["a cat"], tokenizer=words, text_encoder=encoder, max_length=LENGTH)
        for words, encoder in ((loaded_tokenizer, model), (tokenizer, t5))
    )
    assert torch.equal(loaded.states, wanted.states)
    assert torch.equal(loaded.mask, wanted.mask)


def test_loading_from_a_folder_that_a_pipeline_saved(
    tmp_path: Path, tokenizer: PreTrainedTokenizerFast, t5: T5EncoderModel
) -> None:
    t5.save_pretrained(tmp_path / "text_encoder")
    tokenizer.save_pretrained(tmp_path / "tokenizer")
    load_text_encoder(tmp_path, dtype=torch.float32, subfolder="text_encoder")
    (tmp_path / "tokenizer").rename(tmp_path / "words")
    with pytest.raises(FileNotFoundError, match="the folder .*/tokenizer does not exist"):
        load_text_encoder(tmp_path, dtype=torch.float32, subfolder="text_encoder")
    load_text_encoder(tmp_path, dtype=torch.float32, subfolder="text_encoder", tokenizer_subfolder="words")


def test_a_full_t5_will_do(folder: Path) -> None:
    def add_decoder(state: dict[str, Tensor]) -> None:
        state["lm_head.weight"] = torch.zeros(40, 16)
        state["decoder.block.0.layer.0.SelfAttention.q.weight"] = torch.zeros(16, 16)
        state["decoder.embed_tokens.weight"] = state["shared.weight"].clone()

    change_weights(folder, add_decoder)
    load_text_encoder(folder, dtype=torch.float32)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda state: state.pop(QUERY), rf"missing {QUERY} \[16, 16\]"),
        (lambda state: state.pop("shared.weight"), r"missing .*shared\.weight \[40, 16\]"),
        (lambda state: state.update({"extra.weight": torch.zeros(2)}), r"unexpected extra\.weight"),
        (
            lambda state: state.update({QUERY: torch.zeros(3, 5)}),
            rf"misshapen {QUERY} is \[3, 5\], the model has \[16, 16\]",
        ),
        (
            lambda state: state.update({"encoder.embed_tokens.weight": torch.zeros(40, 16)}),
            r"two names of one tensor, differ",
        ),
    ],
)
def test_weights_that_do_not_fit(folder: Path, change: Change, message: str) -> None:
    change_weights(folder, change)
    with pytest.raises(ValueError, match=rf"^the weights in {folder} do not fit its config\.json: .*{message}"):
        load_text_encoder(folder, dtype=torch.float32)


def test_weights_cut_short(folder: Path) -> None:
    data = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(data[: len(data) // 2])
    with pytest.raises(ValueError, match=r"cannot be loaded as T5EncoderModel \(damaged\?\)"):
        load_text_encoder(folder, dtype=torch.float32)


@pytest.mark.parametrize("name", ["model.safetensors", "config.json"])
def test_a_file_that_is_missing(folder: Path, name: str) -> None:
    (folder / name).unlink()
    with pytest.raises(ValueError, match=rf"^{folder} .*") as caught:
        load_text_encoder(folder, dtype=torch.float32)
    assert "\n" not in str(caught.value)


def test_a_tokenizer_that_is_missing(folder: Path) -> None:
    """transformers makes up one without words, which encodes every prompt alike."""
    for path in folder.glob("tokenizer*"):
        path.unlink()
    with pytest.raises(ValueError, match=rf"{folder} has no tokenizer: no tokenizer\.json or spiece\.model"):
        load_text_encoder(folder, dtype=torch.float32)


class Payload:
    """What a hostile checkpoint does."""

    def __init__(self, proof: Path) -> None:
        self.proof = proof

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.proof),)


def test_pickled_weights_load_and_hostile_ones_do_not(folder: Path, tmp_path: Path) -> None:
    state = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    torch.save(state, folder / "pytorch_model.bin")
    load_text_encoder(folder, dtype=torch.float32)
    for protocol in ("zip", "legacy"):
        hostile = {**state, QUERY: Payload(tmp_path / "proof")}
        torch.save(hostile, folder / "pytorch_model.bin", _use_new_zipfile_serialization=protocol == "zip")
        with pytest.raises(ValueError, match="cannot be loaded as T5EncoderModel"):
            load_text_encoder(folder, dtype=torch.float32)
        assert not (tmp_path / "proof").exists()
    pickle.loads(pickle.dumps(Payload(tmp_path / "proof")))
    assert (tmp_path / "proof").exists()  # it would have


@pytest.mark.parametrize("name", ["/none/t5", "./none", "none", "a/b/c", "~/none/t5"])
def test_a_folder_that_is_missing(name: str) -> None:
    """A path, by its looks, is not looked for on the hub."""
    with pytest.raises(FileNotFoundError, match=rf"^{name} is not a folder with a T5 encoder, nor a hub id such as"):
        load_text_encoder(name, dtype=torch.float32)
    with pytest.raises(FileNotFoundError):
        load_text_encoder(Path("none/t5"), dtype=torch.float32)


def test_a_hub_that_cannot_be_reached(monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(*_: object, **__: object) -> None:
        raise OSError("We couldn't connect to the hub\nand so on")

    monkeypatch.setattr("transformers.AutoTokenizer.from_pretrained", offline)
    with pytest.raises(FileNotFoundError) as caught:
        load_text_encoder("somebody/t5", dtype=torch.float32)
    assert str(caught.value) == (
        "somebody/t5 is no folder here and could not be had from the Hugging Face hub (We couldn't connect to the hub); "
        "without a network give the path of a folder with config.json, weights and tokenizer"
    )


# Cache

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
    assert path.read_bytes() == data


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
    assert entries[1] == CacheEntry("old", old.stat().st_size, pytest.approx(3600, abs=60))
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

    def __init__(self, tokenizer: PreTrainedTokenizerBase, model: T5EncoderModel) -> None:
        self.parts = tokenizer, model
        self.calls = 0

    def __call__(self) -> tuple[PreTrainedTokenizerBase, T5EncoderModel]:
        self.calls += 1
        return self.parts


@pytest.fixture
def loader(tokenizer: PreTrainedTokenizerFast, t5: T5EncoderModel) -> Iterator[Loader]:
    yield Loader(tokenizer, t5)


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
