"""CLIP's vocabulary of byte pairs, from OpenAI's file, for CLIP and ViCLIP.

Shape legend: B texts, S words' places.
"""

import gzip
import html
import json
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import ftfy
import torch
from torch import Tensor
from transformers import CLIPTokenizer

from videoaccel.common.versions import at_least
from videoaccel.eval.backbones import Backbone, Backbones

CLIP_WORDS = Backbone(
    "ViCLIP/bpe_simple_vocab_16e6.txt.gz",
    "https://raw.githubusercontent.com/openai/CLIP/main/clip/bpe_simple_vocab_16e6.txt.gz",
)
WORDS = 49408
"""Size of the vocabulary; the last two begin and end a text."""


class Tokenizer:
    """Texts to words' numbers.

    Args:
        path: ``bpe_simple_vocab_16e6.txt.gz``.

    Raises:
        ValueError: It is another file.
    """

    def __init__(self, path: Path) -> None:
        merges = _read_merges(path)
        letters = list(_byte_letters())
        words = [*letters, *(f"{letter}</w>" for letter in letters), *("".join(pair) for pair in merges)]
        vocabulary = {word: i for i, word in enumerate([*words, "<|startoftext|>", "<|endoftext|>"])}
        self._tokenizer = _tokenizer(vocabulary, merges)

    def __call__(self, texts: Sequence[str], places: int) -> Tensor:
        """Words' numbers [B, S], zeros behind the end; longer texts are cut, and end all the same."""
        found = torch.zeros(len(texts), places, dtype=torch.long)
        for row, text in zip(found, texts, strict=True):
            numbers = self._tokenizer(_cleaned(text))["input_ids"]
            if len(numbers) > places:
                numbers = [*numbers[: places - 1], numbers[-1]]
            row[: len(numbers)] = torch.tensor(numbers)
        return found


def load_tokenizer(backbones: Backbones) -> Tokenizer:
    """The tokenizer.

    Raises:
        MissingBackbone: The file is not there.
        ValueError: It is another file.
    """
    return Tokenizer(backbones.find(CLIP_WORDS))


def _tokenizer(vocabulary: Mapping[str, int], merges: Sequence[tuple[str, str]]) -> CLIPTokenizer:
    if at_least("transformers", "5.0"):
        return CLIPTokenizer(vocab=dict(vocabulary), merges=list(merges))
    with tempfile.TemporaryDirectory() as folder:  # older ones take files alone
        files = Path(folder, "vocab.json"), Path(folder, "merges.txt")
        files[0].write_text(json.dumps(vocabulary), encoding="utf-8")
        files[1].write_text("\n".join(["#version: 0.2", *map(" ".join, merges)]), encoding="utf-8")
        return CLIPTokenizer(*map(str, files))


def _cleaned(text: str) -> str:
    """Mended and in lower case, as CLIP's own code does it; entities are resolved twice."""
    mended = html.unescape(html.unescape(ftfy.fix_text(text))).strip()
    return " ".join(mended.split()).lower()


def _read_merges(path: Path) -> list[tuple[str, str]]:
    count = WORDS - 2 * 256 - 2
    try:
        with gzip.open(path, "rt", encoding="utf-8") as file:
            lines = file.read().split("\n")[1 : count + 1]
    except (OSError, EOFError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not readable (damaged?): {error}") from None
    merges = [tuple(line.split()) for line in lines]
    if len(merges) != count or any(len(pair) != 2 for pair in merges):
        raise ValueError(f"{path} is not CLIP's vocabulary: {count} pairs are wanted")
    return [(pair[0], pair[1]) for pair in merges]


def _byte_letters() -> list[str]:
    """A letter for each of the 256 bytes, in the vocabulary's order: those that print, then stand-ins for the rest."""
    printing = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    return [chr(byte) for byte in printing] + [chr(256 + i) for i in range(256 - len(printing))]
