import json
import os
import pickle
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import PreTrainedTokenizerFast, T5Config, T5EncoderModel

from tests import golden_values
from tests.text.tiny_t5 import CONFIG, LENGTH, QUERY, Change, build_t5, build_tokenizer, change_weights, save_t5
from videoaccel.text.encoder import PromptStates, encode, encode_tokens, load_text_encoder


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    return build_tokenizer()


@pytest.fixture(scope="module")
def t5() -> T5EncoderModel:
    return build_t5()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return save_t5(tmp_path / "t5")


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
    with pytest.raises(ValueError, match=r"max_length must be at least 2.*got 1"):
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
    with pytest.raises(FileNotFoundError, match=r"the folder .*/tokenizer does not exist"):
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
            rf"misshapen {QUERY} is (\[3, 5\]|otherwise), the model has \[16, 16\]",
        ),
        pytest.param(
            lambda state: state.update({"encoder.embed_tokens.weight": torch.zeros(40, 16)}),
            r"two names of one tensor, differ",
            marks=pytest.mark.skipif(transformers.__version__ < "5", reason="takes shared.weight without a word"),
        ),
    ],
)
def test_weights_that_do_not_fit(folder: Path, change: Change, message: str) -> None:
    change_weights(folder, change)
    with pytest.raises(ValueError, match=rf"^the weights in {folder} do not fit its config\.json: .*{message}"):
        load_text_encoder(folder, dtype=torch.float32)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("num_layers", 10**7, "num_layers = 10,000,000; at most 1,000 makes sense"),
        ("vocab_size", 10**8, r"makes a T5 of [0-9,]+ numbers, and the weights have [0-9,]+ bytes"),
    ],
)
def test_an_encoder_without_an_end_is_not_begun(folder: Path, field: str, value: int, message: str) -> None:
    config = json.loads((folder / "config.json").read_text()) | {field: value}
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match=rf"config\.json:? {message}"):
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
    with pytest.raises(
        ValueError, match=rf"{folder} (has no tokenizer: no tokenizer\.json or spiece\.model|cannot be)"
    ):
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
        with pytest.raises(ValueError, match=r"cannot be loaded as T5EncoderModel|does not hold a T5 encoder"):
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
        load_text_encoder("some/t5", dtype=torch.float32)
    assert str(caught.value) == (
        "some/t5 is no folder here and could not be had from the Hugging Face hub (We couldn't connect to the hub); "
        "without a network give the path of a folder with config.json, weights and tokenizer"
    )
