"""LoRA: low-rank changes of a network's weights, from the files that diffusers, PEFT and Kohya's trainers write.

A module's weight W [out, in] becomes W + weight * alpha / rank * B A, with A [rank, in] and B [out, rank].
"""

import re
from collections import Counter
from collections.abc import Iterable, Mapping
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

_PREFIX = re.compile(r"^(?:base_model\.model\.|transformer\.|diffusion_model\.|lora_unet_|lora_transformer_)*")
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


class Adapters:
    """What LoRA weights a network has on, each by a name and with how much of it.

    The network's own weights of the modules that are changed are kept aside on the CPU, and those in use made of them
    whenever something changes: a generation costs what it costs without, whatever computes with the weights sees them,
    and what is taken off is off to the bit.

    Args:
        network: Its linear modules have the names of the changes, with dots or, by Kohya's trainers, underscores.
    """

    def __init__(self, network: nn.Module) -> None:
        self.network = network
        self._changes: dict[str, Mapping[str, Change]] = {}
        self._weights: dict[str, float] = {}
        self._own: dict[str, Tensor] = {}

    @property
    def weights(self) -> dict[str, float]:
        """How much of each, 0 if it is off."""
        return dict(self._weights)

    def add(self, name: str, changes: Mapping[str, Change], *, weight: float, source: Path | str) -> None:
        """Put changes on.

        Args:
            name: What they are called from now on.
            changes: From `read_lora`.
            weight: How much of them.
            source: What errors call them.

        Raises:
            ValueError: The name is taken, or a module is not there or of another shape; nothing was changed then.
        """
        if name in self._changes:
            raise ValueError(f"{name} is on already; take it off first, or give {source} another name")
        changes = self._named(changes, source)
        self._check_form(changes)
        for module in changes.keys() - self._own.keys():
            self._own[module] = self._linear(module).weight.detach().to("cpu", copy=True)
        self._changes[name], self._weights[name] = changes, weight
        self._apply(changes)

    def set(self, weights: Mapping[str, float]) -> None:
        """Say how much of each is on; those that are not named are off.

        Raises:
            ValueError: There is none of a name.
        """
        self._check(weights)
        self._check_form(self._own)
        before = self._weights
        self._weights = {name: float(weights.get(name, 0.0)) for name in before}
        changed = [name for name, weight in before.items() if weight != self._weights[name]]
        self._apply({module for name in changed for module in self._changes[name]})

    def remove(self, names: Iterable[str]) -> None:
        """Take some off and forget them.

        Raises:
            ValueError: There is none of a name.
        """
        names = list(names)
        self._check(names)
        self._check_form(self._own)
        touched = {module for name in names for module in self._changes[name]}
        for name in names:
            del self._changes[name], self._weights[name]
        self._apply(touched)
        kept = {module for changes in self._changes.values() for module in changes}
        self._own = {module: own for module, own in self._own.items() if module in kept}

    def fuse(self) -> None:
        """Take the weights as they are for the network's own, and forget what they were made of."""
        self._changes, self._weights, self._own = {}, {}, {}

    @torch.no_grad()
    def _apply(self, modules: Iterable[str]) -> None:
        for module in modules:
            weight = self._linear(module).weight
            total = self._own[module].to(weight.device).float()
            for name, amount in self._weights.items():
                if amount and (change := self._changes[name].get(module)):
                    total = total + amount * change().to(weight.device)
            weight.copy_(total.to(weight.dtype))

    def _check_form(self, modules: Iterable[str]) -> None:
        if small := [module for module in modules if hasattr(self._linear(module), "weight8")]:
            raise ValueError(f"{small[0]} runs on a copy of its weights in 8 bits; LoRAs go on before `precision=fp8`")

    def _check(self, names: Iterable[str]) -> None:
        if unknown := [name for name in names if name not in self._changes]:
            raise ValueError(f"no LoRA is called {unknown[0]}; there are {', '.join(self._changes) or 'none'}")

    def _linear(self, module: str) -> nn.Linear:
        found = self.network.get_submodule(module)
        assert isinstance(found, nn.Linear)
        return found

    def _named(self, changes: Mapping[str, Change], source: Path | str) -> dict[str, Change]:
        """The changes by the network's names of its modules.

        Raises:
            ValueError: A module is not there, meant twice, or of another shape.
        """
        linear = {name: module for name, module in self.network.named_modules() if isinstance(module, nn.Linear)}
        written = Counter(name.replace(".", "_") for name in linear)
        flat = {name.replace(".", "_"): name for name in linear if written[name.replace(".", "_")] == 1}
        found: dict[str, Change] = {}
        for given, change in changes.items():
            name = given if given in linear else flat.get(given, "")
            if name not in linear:
                raise ValueError(
                    f"{source} changes {given}, which is no linear module of {type(self.network).__name__}"
                )
            if name in found:
                raise ValueError(f"{source} changes {name} twice, once as {given}")
            shape, own = [change.up.shape[0], change.down.shape[1]], list(linear[name].weight.shape)
            if own != shape:
                raise ValueError(f"{source} changes {name} as {shape}, the model has {own}")
            found[name] = change
        return found
