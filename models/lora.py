"""LoRA: low-rank changes of a network's weights, from the files that diffusers, PEFT and Kohya's trainers write.

A module's weight W [out, in] becomes W + weight * alpha / rank * B A, with A [rank, in] and B [out, rank]. It is added
once (fused), so that a generation costs what it costs without.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors import safe_open
from torch import Tensor, nn

from videoaccel.common.plain_json import parse_json, taken_for
from videoaccel.common.reading import read_text
from videoaccel.models.weights import read_state

FILES = ("pytorch_lora_weights.safetensors", "adapter_model.safetensors", "pytorch_lora_weights.bin")
"""What a folder's file of LoRA weights may be called."""

_PREFIX = re.compile(r"^(?:base_model\.model\.|transformer\.|diffusion_model\.|lora_unet_)*")
_NAMES = re.compile(r"^(.+?)\.(?:lora_(A|B|down|up)(?:\.\w+)?\.weight|(alpha))$")
_SIDES = {"A": "A", "down": "A", "B": "B", "up": "B", None: "alpha"}


class Change(NamedTuple):
    """Of one module: A [rank, in], B [out, rank], and what their product is multiplied by."""

    down: Tensor
    up: Tensor
    scale: float

    def __call__(self) -> Tensor:
        """The change of the weight [out, in], float32."""
        return self.up.float() @ self.down.float() * self.scale


def read_lora(path: Path) -> dict[str, Change]:
    """Changes by module, from a file or a folder with one.

    Raises:
        FileNotFoundError: It is not there.
        ValueError: It is no LoRA; names the file and what is wrong.
    """
    if path.is_dir():
        found = next((path / name for name in FILES if (path / name).is_file()), None)
        if found is None:
            raise FileNotFoundError(f"{path} has no LoRA weights; looked for {', '.join(FILES)}")
        path = found
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist")
    parts: dict[str, dict[str, Tensor]] = {}
    for key, value in read_state(path).items():
        if not (match := _NAMES.match(_PREFIX.sub("", key))):
            raise ValueError(f"{path} is no LoRA, or of a kind that is not known here: it holds {key}")
        parts.setdefault(match[1], {})[_SIDES[match[2]]] = value
    alpha = _alpha(path)
    changes = {}
    for module, sides in parts.items():
        if not {"A", "B"} <= sides.keys():
            raise ValueError(f"{path}: {module} has only {' and '.join(sorted(sides))} of A and B")
        down, up = sides["A"], sides["B"]
        if down.dim() != 2 or up.dim() != 2 or len(down) != up.shape[1]:
            raise ValueError(f"{path}: A {list(down.shape)} and B {list(up.shape)} of {module} do not fit each other")
        own = float(sides["alpha"]) if "alpha" in sides else alpha
        changes[module] = Change(down, up, 1.0 if own is None else own / len(down))
    if not changes:
        raise ValueError(f"{path} is no LoRA: it holds nothing")
    return changes


def _alpha(path: Path) -> float | None:
    """The alpha of all modules, from the file's metadata or the configuration beside it; None where nobody says."""
    told: Mapping[str, object] = {}
    if path.suffix == ".safetensors":
        with safe_open(path, "pt") as file:
            told = _mapping((file.metadata() or {}).get("lora_adapter_metadata", "{}"), path)
    if (beside := path.with_name("adapter_config.json")).is_file():
        told = {**told, **_mapping(read_text(beside), beside)}
    found = next((value for key, value in told.items() if key.rpartition(".")[2] == "lora_alpha"), None)
    with taken_for("a LoRA's configuration", path):
        return float(found) if isinstance(found, int | float) else None


def _mapping(text: str, path: Path) -> dict[str, object]:
    with taken_for("a LoRA's configuration", path):
        return dict(parse_json(text).items())


@torch.no_grad()
def add_lora(network: nn.Module, changes: Mapping[str, Change], *, weight: float, source: Path | str) -> None:
    """Add changes to a network's weights, in place.

    Args:
        network: Its linear modules have the names of the changes.
        changes: From `read_lora`.
        weight: How much of them.
        source: What errors call them.

    Raises:
        ValueError: A module is not there, or of another shape; nothing was changed then.
    """
    modules = dict(network.named_modules())
    for name, change in changes.items():
        own = modules.get(name)
        if not isinstance(own, nn.Linear):
            raise ValueError(f"{source} changes {name}, which is no linear module of {type(network).__name__}")
        shape = [change.up.shape[0], change.down.shape[1]]
        if list(own.weight.shape) != shape:
            raise ValueError(f"{source} changes {name} as {shape}, the model has {list(own.weight.shape)}")
    for name, change in changes.items():
        own = modules[name]
        assert isinstance(own, nn.Linear)
        added = own.weight.float() + weight * change().to(own.weight.device)
        own.weight.copy_(added.to(own.weight.dtype))


def parse_lora(text: str) -> tuple[str, float]:
    """A file and how much of it, from ``FILE`` or ``FILE:weight``.

    Raises:
        ValueError: There is no file in it.

    >>> parse_lora("style.safetensors:0.8"), parse_lora("a:b.safetensors")
    (('style.safetensors', 0.8), ('a:b.safetensors', 1.0))
    """
    name, _, weight = text.rpartition(":")
    if name and re.fullmatch(r"[+-]?(\d+(\.\d*)?|\.\d+)", weight):
        return name, float(weight)
    if not text:
        raise ValueError("a LoRA needs a file, such as style.safetensors or style.safetensors:0.8")
    return text, 1.0
