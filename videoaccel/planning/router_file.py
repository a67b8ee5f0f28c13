"""Trained routers in a file, and where to find those of a model.

Shape legend: K blocks.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from videoaccel.common.files import atomic_write_bytes
from videoaccel.common.home import cache_folder
from videoaccel.common.package import packaged
from videoaccel.common.plain_files import check_plain
from videoaccel.common.plain_json import parse_json, taken_for
from videoaccel.common.tensor_files import tensors_of
from videoaccel.common.user_warning import warn_user
from videoaccel.common.wording import first_line
from videoaccel.models.network_config import NetworkIdentity
from videoaccel.models.router import Routers
from videoaccel.settings.tensor_heads import NETWORK, ROUTERS

FORMAT = ROUTERS
ORDER = "order."


@dataclass(frozen=True)
class RouterFile:
    """Routers and what they were trained for.

    Attributes:
        network: Which network they were trained for.
        blocks: Names of the blocks' sites, in the order in which they run.
        budget: Least and greatest share of the modules' FLOPs that they were trained for.
        routers: The networks.
        orders: By block: its MLP's hidden neurons, the most important first.
        info: How they were trained, for people.
    """

    network: NetworkIdentity
    blocks: tuple[str, ...]
    budget: tuple[float, float]
    routers: Routers
    orders: Mapping[str, Tensor]
    info: Mapping[str, Any] = field(default_factory=dict)

    def save(self, path: str | Path) -> None:
        """Write a safetensors file whole or not at all; weights in float16, a router of a few MB stays one.

        Raises:
            OSError: The folder is not there or cannot be written, or the disk is full.
        """
        about = {
            "model": self.network.weights, NETWORK: self.network.config, "blocks": list(self.blocks),
            "budget": list(self.budget), "shape": self.routers.shape, "info": dict(self.info),
        }  # fmt: skip
        tensors = {name: value.detach().half().contiguous() for name, value in self.routers.state_dict().items()}
        tensors |= {ORDER + name: order.int().contiguous() for name, order in self.orders.items()}
        atomic_write_bytes(path, save(tensors, {"format": FORMAT, "about": json.dumps(about, sort_keys=True)}))

    @classmethod
    def load(cls, path: str | Path) -> "RouterFile":
        """Read routers.

        Raises:
            FileNotFoundError: The file is not there.
            ValueError: It holds none, or not what its header says.
        """
        path = Path(path)
        if not path.is_file():
            raise FileNotFoundError(f"{path} does not exist; videoaccel train-router makes routers")
        try:
            with safe_open(path, "pt") as file:
                about = _about(path, file.metadata())
                tensors = tensors_of(file)
        except (SafetensorError, OSError) as error:
            raise ValueError(f"{path} holds no routers: {first_line(error)}") from None
        orders = {name.removeprefix(ORDER): value for name, value in tensors.items() if name.startswith(ORDER)}
        routers = _built(about["shape"], tensors, path)
        try:
            routers.load_state_dict({name: v.float() for name, v in tensors.items() if not name.startswith(ORDER)})
        except RuntimeError as error:
            raise ValueError(f"{path} is not what its header says: {error}") from None
        if len(about["blocks"]) != about["shape"]["blocks"] or orders.keys() - set(about["blocks"]):
            raise ValueError(f"{path} is not what its header says: blocks differ")
        low, high = about["budget"]
        return cls(_network(about), tuple(about["blocks"]), (low, high), routers.eval(), orders, about["info"])

    def check(self, network: NetworkIdentity, *, blocks: Sequence[str]) -> "RouterFile":
        """These routers, if they are the network's.

        Raises:
            ValueError: They were trained for another.
        """
        if differences := self.network.differences(network):
            raise ValueError(f"the routers were trained for {', '.join(differences)}")
        if self.blocks != tuple(blocks):
            raise ValueError(f"the routers have {len(self.blocks)} blocks, the network {len(blocks)} or others")
        return self


def find_routers(network: NetworkIdentity) -> RouterFile | None:
    """Routers trained for a network, in the user's cache or in the package; None if there are none."""
    for folder in (cache_folder("routers"), packaged("assets", "routers")):
        for path in sorted(folder.glob("*.safetensors")):
            try:
                check_plain(path)
                with safe_open(path, "pt") as file:
                    if _network(_about(path, file.metadata())).differences(network):
                        continue
                return RouterFile.load(path)
            except (OSError, SafetensorError, ValueError) as error:
                warn_user(f"routers are passed over: {path}: {error}")
    return None


def _about(path: Path, metadata: Mapping[str, str] | None) -> dict[str, Any]:
    if not metadata or metadata.get("format") != FORMAT:
        raise ValueError(f"{path} holds no routers of this version (format {FORMAT})")
    with taken_for("a file of routers", path):
        about: dict[str, Any] = parse_json(metadata["about"])
        texts = [about["model"], *about["blocks"]]
        low, high = about["budget"]
        if not all(isinstance(text, str) for text in texts) or not 0 <= float(low) <= float(high) <= 1:
            raise ValueError("model and blocks are texts, the budget two shares")
        if not isinstance(about["info"], dict) or not isinstance(about["shape"], dict):
            raise ValueError("info and shape have names")
        if not isinstance(about.get(NETWORK), dict | None):
            raise ValueError("the network's configuration has names")
    return about


def _network(about: Mapping[str, Any]) -> NetworkIdentity:
    """Which network a header names; of routers that were made before it had a configuration, by its weights alone."""
    return NetworkIdentity(about["model"], about.get(NETWORK))


def _built(shape: Mapping[str, Any], tensors: Mapping[str, Tensor], path: Path) -> Routers:
    """Networks of a shape that has as many weights as the file: any other would cost what the file never did."""
    with taken_for("a file of routers", path):
        with torch.device("meta"):
            wanted = sum(value.numel() for value in Routers(**shape).state_dict().values())
        if wanted != (held := sum(v.numel() for name, v in tensors.items() if not name.startswith(ORDER))):
            raise ValueError(f"its shape has {wanted:,} weights, and {held:,} are there")
        return Routers(**shape)


def importance_order(importance: Tensor) -> Tensor:
    """Neurons [hidden], the most important first; of equals the first."""
    return torch.argsort(importance, descending=True, stable=True)
