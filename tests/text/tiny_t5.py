"""A tiny T5 encoder and its tokenizer."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from torch import Tensor
from transformers import PreTrainedTokenizerFast, T5Config, T5EncoderModel

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


def build_t5() -> T5EncoderModel:
    torch.manual_seed(0)
    return T5EncoderModel(T5Config(**CONFIG)).eval()


def save_t5(folder: Path) -> Path:
    """A folder with weights and tokenizer side by side."""
    build_t5().save_pretrained(folder)
    build_tokenizer().save_pretrained(folder)
    return folder


Change = Callable[[dict[str, Tensor]], Any]


def change_weights(folder: Path, change: Change) -> None:
    state = load_file(folder / "model.safetensors")
    change(state)
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
