"""Text states on disk: a prompt that was encoded once needs no text encoder again, which may be most of a model's size.

One safetensors file a prompt, named by a hash of what the states depend on, the prompt itself in its metadata.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from transformers import PreTrainedTokenizerBase, T5EncoderModel

from videoaccel.common.files import PART_SUFFIX, atomic_write_bytes, told
from videoaccel.common.home import cache_folder, expand, kept_nowhere
from videoaccel.common.plain_files import check_plain
from videoaccel.common.tensor_files import tensors_of
from videoaccel.common.user_warning import warn_user
from videoaccel.text.encoder import PromptStates, encode

_SUFFIX = ".safetensors"
_WHOLE = 64 << 20  # bytes; larger files are sampled
_SAMPLES, _SAMPLE = 64, 64 << 10


@dataclass(frozen=True)
class TextKey:
    """What the states of a prompt depend on besides the prompt.

    Attributes:
        encoder: Which encoder and tokenizer, see `encoder_identity`.
        max_length: Tokens that prompts are padded to.
        dtype: Type in which the encoder runs.
    """

    encoder: str
    max_length: int
    dtype: torch.dtype


class CacheEntry(NamedTuple):
    """One file of the cache."""

    prompt: str | None
    """None if the file cannot be read."""
    size: int
    """Bytes."""
    age: float
    """Seconds since it was written."""


class TextCache:
    """Text states in a folder, which is made when the first are put there.

    Several processes may use one folder: files are written whole or not at all, and equal names have equal contents.

    Args:
        folder: Default ``videoaccel/text`` in ``XDG_CACHE_HOME``, or in ``~/.cache``.
    """

    def __init__(self, folder: str | Path | None = None) -> None:
        self.folder = Path(folder) if folder is not None else default_folder()

    def has(self, prompt: str, *, key: TextKey) -> bool:
        """Whether there is a file of this prompt's states; whether it is damaged `get` finds out."""
        return self._path(prompt, key).is_file()

    def get(self, prompt: str, *, key: TextKey) -> PromptStates | None:
        """The states of a prompt, one row on the CPU; None if they are not there or the file is damaged."""
        path, wanted = self._path(prompt, key), _metadata(prompt, key)
        try:
            check_plain(path)
            with safe_open(path, framework="pt") as file:
                metadata = file.metadata() or {}
                if not wanted.items() <= metadata.items():
                    return None
                found = tensors_of(file)
            states = PromptStates(found["states"], found["mask"], (int(metadata["cut"]),))
        except (OSError, SafetensorError, KeyError, ValueError):
            return None
        fits = states.mask.shape == (1, key.max_length) and states.states.dtype == key.dtype
        return states if fits else None

    def put(self, prompt: str, states: PromptStates, *, key: TextKey) -> None:
        """Keep the states of a prompt, one row, over what may be there.

        Raises:
            ValueError: The states have several rows, or other tokens or another type than ``key`` says.
            OSError: The folder cannot be written, or the disk is full.
        """
        if states.mask.shape != (1, key.max_length) or states.states.dtype != key.dtype:
            found = f"{list(states.mask.shape)} in {states.states.dtype}"
            raise ValueError(f"states of [1, {key.max_length}] tokens in {key.dtype} belong here; got {found}")
        tensors = {"states": states.states.cpu().contiguous(), "mask": states.mask.cpu().contiguous()}
        metadata = _metadata(prompt, key) | {"cut": str(states.cut[0])}
        self._write(self._path(prompt, key).name, save(tensors, metadata=metadata))

    def _write(self, name: str, data: bytes) -> None:
        with told(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
        atomic_write_bytes(self.folder / name, data)

    def entries(self) -> list[CacheEntry]:
        """What is kept, the newest first."""
        now = time.time()
        found = []
        for path in self._files():
            try:
                stat = path.stat()
            except FileNotFoundError:  # another process clears the cache
                continue
            found.append(CacheEntry(_prompt_of(path), stat.st_size, max(0.0, now - stat.st_mtime)))
        return sorted(found, key=lambda entry: entry.age)

    def clear(self) -> int:
        """Remove everything that is kept, and what killed processes left half written; returns the number of entries.

        Raises:
            OSError: The folder cannot be written.
        """
        files = list(self._files())
        with told(self.folder / "*"):
            for path in [*files, *self.folder.glob(f".*{_SUFFIX}.*{PART_SUFFIX}")]:
                path.unlink(missing_ok=True)
        return len(files)

    def _files(self) -> Iterator[Path]:
        return (path for path in self.folder.glob(f"*{_SUFFIX}") if not path.name.startswith("."))

    def _path(self, prompt: str, key: TextKey) -> Path:
        text = json.dumps(_metadata(prompt, key), sort_keys=True)
        return self.folder / f"{hashlib.sha256(text.encode()).hexdigest()[:40]}{_SUFFIX}"


def encode_cached(
    prompts: Sequence[str],
    *,
    cache: TextCache,
    key: TextKey,
    load: Callable[[], tuple[PreTrainedTokenizerBase, T5EncoderModel]],
) -> PromptStates:
    """As `videoaccel.text.encoder.encode`, from the cache where it can be; states on the CPU.

    Args:
        prompts: Texts ready for the tokenizer.
        cache: Looked in first, added to afterwards. If it cannot be written, a warning says so and that is all.
        key: What the states depend on.
        load: Called once if some prompt is not in the cache, and otherwise not at all.

    Raises:
        ValueError: As `videoaccel.text.encoder.encode`; or the encoder that ``load`` gives has another type than
            ``key`` says.
    """
    if not prompts:
        raise ValueError("there is no prompt to encode")
    known = {prompt: cache.get(prompt, key=key) for prompt in dict.fromkeys(prompts)}
    missing = [prompt for prompt, states in known.items() if states is None]
    if missing:
        tokenizer, text_encoder = load()
        fresh = encode(missing, tokenizer=tokenizer, text_encoder=text_encoder, max_length=key.max_length).to("cpu")
        for row, prompt in enumerate(missing):
            known[prompt] = fresh.rows([row])
            if kept_nowhere(cache.folder):
                continue
            try:
                cache.put(prompt, fresh.rows([row]), key=key)
            except OSError as error:
                warn_user(f"text states are not kept for next time: {error}")
    return PromptStates.cat([states for prompt in prompts if (states := known[prompt]) is not None])


def encoder_identity(path_or_hub_id: str | Path, *, subfolder: str | None = None) -> str:
    """Which encoder this is, for `TextKey`: a folder by what is in its files, a hub id by name.

    Large files are known by their size and samples all over them, so this takes a moment, not minutes. The tokenizer of
    a folder that a pipeline saved (``tokenizer`` beside ``text_encoder``) is taken in.
    """
    folder = expand(path_or_hub_id)
    if not folder.is_dir():
        return f"{path_or_hub_id}/{subfolder}" if subfolder else str(path_or_hub_id)
    folders = [folder / (subfolder or "")] + ([folder / "tokenizer"] if subfolder == "text_encoder" else [])
    digest = hashlib.sha256()
    for place in folders:
        for path in sorted(path for path in place.glob("*") if path.is_file() and not path.name.startswith(".")):
            digest.update(f"{path.name} {path.stat().st_size}\n".encode())
            for piece in _pieces(path):
                digest.update(piece)
    return f"sha256:{digest.hexdigest()[:32]}"


def default_folder() -> Path:
    """Where text states are kept unless told otherwise."""
    return cache_folder("text")


def _metadata(prompt: str, key: TextKey) -> dict[str, str]:
    return {name: str(value) for name, value in asdict(key).items()} | {"prompt": prompt, "format": "1"}


def _prompt_of(path: Path) -> str | None:
    try:
        check_plain(path)
        with safe_open(path, framework="pt") as file:
            prompt: str | None = (file.metadata() or {}).get("prompt")
            return prompt
    except (OSError, ValueError, SafetensorError):
        return None


def _pieces(path: Path) -> Iterator[bytes]:
    size = path.stat().st_size
    with path.open("rb") as file:
        if size <= _WHOLE:
            yield file.read()
            return
        for number in range(_SAMPLES):
            file.seek((size - _SAMPLE) * number // (_SAMPLES - 1))
            yield file.read(_SAMPLE)
