"""Prompts to text states with a T5 encoder, loading that encoder strictly, and keeping states on disk.

Shape legend: B prompts, L tokens (padded to the model's length), C width of the text encoder.

Every prompt is encoded alone: its states then do not depend, to the last bit, on what else is in the batch.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor
from transformers import AutoTokenizer, PreTrainedTokenizerBase, T5Config, T5EncoderModel

from videoaccel.common.home import expand
from videoaccel.common.plain_files import check_plain
from videoaccel.common.user_warning import warn_user
from videoaccel.common.versions import dtype_argument
from videoaccel.common.wording import first_line
from videoaccel.models.checkpoint import read_config

# A full T5 checkpoint brings its decoder along, which nobody needs here.
_NOT_NEEDED = ("decoder.", "lm_head.")
_SHOWN = 5


@dataclass(frozen=True, eq=False)
class PromptStates:
    """Encoded prompts.

    Attributes:
        states: [B, 1, L, C], all positions as the encoder gave them, padding included.
        mask: int64 [B, L], 1 for a token, 0 for padding.
        cut: For each prompt, how many tokens were cut off because it is longer than L.
    """

    states: Tensor
    mask: Tensor
    cut: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        rows, tokens = self.mask.shape
        if self.states.dim() != 4 or self.states.shape[:3] != (rows, 1, tokens):
            raise ValueError(f"states {list(self.states.shape)} do not fit the mask's [B, L] = {[rows, tokens]}")
        if not self.cut:
            object.__setattr__(self, "cut", (0,) * rows)

    def __len__(self) -> int:
        return len(self.mask)

    @property
    def lengths(self) -> list[int]:
        """Tokens of each prompt, padding not counted."""
        return [int(length) for length in self.mask.sum(dim=1)]

    def rows(self, indices: Sequence[int]) -> PromptStates:
        """These prompts, in this order; one may come several times."""
        chosen = list(indices)
        return PromptStates(self.states[chosen], self.mask[chosen], tuple(self.cut[row] for row in chosen))

    def repeat(self, samples: int) -> PromptStates:
        """Every prompt ``samples`` times in a row: a, b becomes a, a, b, b."""
        return self.rows([row for row in range(len(self)) for _ in range(samples)])

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> PromptStates:
        """Move to a device, and cast the states (not the mask) to a type."""
        return PromptStates(self.states.to(device=device, dtype=dtype), self.mask.to(device=device), self.cut)

    @staticmethod
    def cat(parts: Sequence[PromptStates]) -> PromptStates:
        """All prompts of several states, one after the other.

        Raises:
            ValueError: There are none, or they differ in L or C.
        """
        if not parts:
            raise ValueError("there are no prompt states to put together")
        shapes = {tuple(part.states.shape[2:]) for part in parts}
        if len(shapes) > 1:
            raise ValueError(f"prompt states of different tokens x width: {', '.join(map(str, sorted(shapes)))}")
        cut = tuple(tokens for part in parts for tokens in part.cut)
        return PromptStates(torch.cat([part.states for part in parts]), torch.cat([part.mask for part in parts]), cut)


@runtime_checkable
class PromptReader(Protocol):
    """What stands where a text encoder does and needs no tokenizer, such as names of classes."""

    def read(self, prompts: Sequence[str]) -> PromptStates:
        """States of prompts."""
        ...


def encode(
    prompts: Sequence[str],
    *,
    tokenizer: PreTrainedTokenizerBase | None,
    text_encoder: T5EncoderModel | PromptReader,
    max_length: int,
) -> PromptStates:
    """Encode prompts, on the encoder's device and in its type. Warns about a prompt that does not fit in L tokens.

    Args:
        prompts: Texts ready for the tokenizer (see `videoaccel.text.prompts`). An empty one is a single end token.
        tokenizer: Of the encoder.
        text_encoder: A T5 encoder, or what reads prompts in its place.
        max_length: L; shorter prompts are padded, longer ones cut, the end token kept.

    Raises:
        ValueError: There are no prompts, L is below 2, the tokenizer has tokens that the encoder does not know, or the
            states are not finite (a large T5 in float16).
    """
    if not prompts:
        raise ValueError("there is no prompt to encode")
    if isinstance(text_encoder, PromptReader):
        return text_encoder.read(prompts)
    assert tokenizer is not None
    if max_length < 2:
        raise ValueError(f"max_length must be at least 2, one token and the end; got {max_length}")
    known = {prompt: _encode_one(prompt, tokenizer, text_encoder, max_length) for prompt in dict.fromkeys(prompts)}
    return PromptStates.cat([known[prompt] for prompt in prompts])


@torch.no_grad()
def encode_tokens(input_ids: Tensor, mask: Tensor, *, text_encoder: T5EncoderModel) -> Tensor:
    """States [B, L, C], after the final norm, of tokens int64 [B, L] and their mask int64 [B, L].

    Raises:
        ValueError: A token is none of the encoder's, or the states are not finite.
    """
    vocabulary = text_encoder.config.vocab_size
    if int(input_ids.max()) >= vocabulary:
        raise ValueError(f"the tokenizer gave token {int(input_ids.max())}, the text encoder has {vocabulary}")
    device = text_encoder.device
    states: Tensor = text_encoder(input_ids.to(device), attention_mask=mask.to(device)).last_hidden_state
    if not bool(states.isfinite().all()):
        raise ValueError(
            f"the text states are not finite in {states.dtype}; load the text encoder in bfloat16 or float32"
        )
    return states


def load_text_encoder(
    path_or_hub_id: str | Path,
    *,
    dtype: torch.dtype,
    subfolder: str | None = None,
    tokenizer_subfolder: str | None = None,
) -> tuple[PreTrainedTokenizerBase, T5EncoderModel]:
    """Load a T5 encoder and its tokenizer; every weight must be there and fit.

    A full T5 will do, its decoder is left alone. Pickled weights are read with torch's ``weights_only=True``.

    Args:
        path_or_hub_id: A folder with ``config.json``, weights and tokenizer, or a repository on the Hugging Face hub.
        dtype: Type of the weights. The release runs T5 in float32.
        subfolder: Where in it the encoder is.
        tokenizer_subfolder: Where the tokenizer is. Not given, it is beside the weights, or in ``tokenizer`` if these
            are in ``text_encoder``, as in a folder that a pipeline saved.

    Raises:
        FileNotFoundError: There is no such folder, or the hub has no such repository or cannot be reached.
        ValueError: The files are damaged, are no T5, have no tokenizer; or weights are missing, unexpected or misshapen
            (names the keys and shapes).
    """
    if tokenizer_subfolder is None:
        tokenizer_subfolder = "tokenizer" if subfolder == "text_encoder" else subfolder
    source = _source(path_or_hub_id)
    tokenizer = _pretrained(AutoTokenizer, source, tokenizer_subfolder)
    # transformers makes up what it does not find: a T5 tokenizer without words, a T5 of the default size.
    if tokenizer("a cat").input_ids == tokenizer("a dog").input_ids:
        raise ValueError(f"{_where(source, tokenizer_subfolder)} has no tokenizer: no tokenizer.json or spiece.model")
    where = _where(source, subfolder)
    if Path(source).is_dir() and not Path(where, "config.json").is_file():
        raise ValueError(f"{where} has no config.json")
    if Path(where).is_dir():
        _check_size(Path(where))
    strictness = {"output_loading_info": True, "ignore_mismatched_sizes": True}  # reported, and refused below
    model, report = _pretrained(
        T5EncoderModel, source, subfolder, **dtype_argument("transformers", dtype), **strictness
    )
    _check_loaded(model, report, where=where)
    return tokenizer, model.eval()


def _check_size(folder: Path) -> None:
    """Refuse a configuration of more weights than the files have bytes, which transformers would make up.

    Raises:
        ValueError: Names both numbers.
    """
    config = read_config(folder / "config.json")
    weights = [path for path in folder.glob("*") if path.suffix in (".safetensors", ".bin")]
    for path in weights:
        check_plain(path)
    size = sum(path.stat().st_size for path in weights)
    try:
        with torch.device("meta"):
            shapes = T5EncoderModel(T5Config(**config)).state_dict().values()
    except Exception as error:  # whatever a value stumbles over
        raise ValueError(f"{folder / 'config.json'}: no T5 can be made of it: {first_line(error)}") from error
    wanted = sum(value.numel() for value in shapes)
    if 0 < 2 * size < wanted:  # two names of the embedding are one tensor; that there is no file transformers says
        raise ValueError(
            f"{folder / 'config.json'} makes a T5 of {wanted:,} numbers, and the weights have {size:,} bytes"
        )


def _encode_one(
    prompt: str, tokenizer: PreTrainedTokenizerBase, text_encoder: T5EncoderModel, max_length: int
) -> PromptStates:
    whole = len(tokenizer(prompt, verbose=False).input_ids)
    tokens = tokenizer(prompt, padding="max_length", truncation=True, max_length=max_length, return_tensors="pt")
    states = encode_tokens(tokens.input_ids, tokens.attention_mask, text_encoder=text_encoder)
    cut = max(0, whole - max_length)
    if cut:
        warn_user(
            f"the prompt has {whole} tokens, {cut} more than the model reads; its end is ignored: {_short(prompt)}"
        )
    return PromptStates(states[:, None], tokens.attention_mask.to(states.device), (cut,))


def _short(prompt: str) -> str:
    return repr(prompt if len(prompt) <= 60 else f"{prompt[:57]}...")


def _source(path_or_hub_id: str | Path) -> str:
    """The folder, or the hub id if it can be one.

    Raises:
        FileNotFoundError: It is a path by its looks, and not there.
    """
    name = str(path_or_hub_id)
    folder = expand(name)
    if folder.is_dir():
        return str(folder)
    path_like = isinstance(path_or_hub_id, Path) or name.startswith((".", "/", "~")) or name.count("/") != 1
    if path_like or "\\" in name or folder.exists():
        raise FileNotFoundError(f"{name} is not a folder with a T5 encoder, nor a hub id such as DeepFloyd/t5-v1_1-xxl")
    return name


def _where(source: str, subfolder: str | None) -> str:
    return f"{source}/{subfolder}" if subfolder else source


def _pretrained(kind: Any, source: str, subfolder: str | None, **options: Any) -> Any:
    """``kind.from_pretrained`` with errors of one sentence."""
    where = _where(source, subfolder)
    if subfolder:
        options["subfolder"] = subfolder
    if Path(source).is_dir() and not Path(where).is_dir():
        raise FileNotFoundError(f"the folder {where} does not exist")
    try:
        return kind.from_pretrained(source, **options)
    except OSError as error:
        if Path(source).is_dir():
            raise ValueError(f"{where} does not hold a T5 encoder and its tokenizer: {first_line(error)}") from error
        raise FileNotFoundError(
            f"{where} is no folder here and could not be had from the Hugging Face hub ({first_line(error)}); "
            f"without a network give the path of a folder with config.json, weights and tokenizer"
        ) from error
    except Exception as error:  # safetensors, pickle, zip and tokenizers raise their own kinds
        hint = _tokenizer_hint() if kind is AutoTokenizer else ""
        raise ValueError(
            f"{where} cannot be loaded as {kind.__name__} (damaged?): {first_line(error)}{hint}"
        ) from error


def _tokenizer_hint() -> str:
    # Without them transformers asks for tiktoken, which does not help.
    packages = {"sentencepiece": "sentencepiece", "protobuf": "google.protobuf"}
    absent = [package for package, module in packages.items() if not _importable(module)]
    return f"; a tokenizer that is a spiece.model takes `pip install {' '.join(absent)}`" if absent else ""


def _importable(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:  # not even its parent is there
        return False


def _check_loaded(model: T5EncoderModel, report: Any, *, where: str) -> None:
    """Raise ValueError unless all weights of the model came from its files."""
    own = model.state_dict()
    extra = [key for key in report["unexpected_keys"] if not key.startswith(_NOT_NEEDED)]
    problems = {
        "missing": [f"{key} {list(own[key].shape)}" for key in sorted(report["missing_keys"])],
        "unexpected": sorted(extra),
        "misshapen": sorted(_misshapen(entry, own) for entry in report["mismatched_keys"]),
    }
    told = [f"{kind} {_some(keys)}" for kind, keys in problems.items() if keys]
    if not torch.equal(model.shared.weight, model.encoder.embed_tokens.weight):
        told.append("shared.weight and encoder.embed_tokens.weight, two names of one tensor, differ")
    if told:
        raise ValueError(f"the weights in {where} do not fit its config.json: {'; '.join(told)}")


def _misshapen(entry: Any, own: Mapping[str, Tensor]) -> str:
    # Before version 5 transformers tells the key and keeps the shape to itself.
    key, found = (entry, "otherwise") if isinstance(entry, str) else (entry[0], list(entry[1]))
    return f"{key} is {found}, the model has {list(own[key].shape)}"


def _some(items: list[str]) -> str:
    rest = len(items) - _SHOWN
    return ", ".join(items[:_SHOWN]) + (f" and {rest} more" if rest > 0 else "")
