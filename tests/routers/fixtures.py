"""Routers for tiny networks, with decisions as a test wants them."""

from pathlib import Path
from typing import Any

import torch
from torch import nn

from videoaccel.models.network_config import identity_of
from videoaccel.models.router import Routers
from videoaccel.models.seam import Site, direct
from videoaccel.planning.router_file import RouterFile, importance_order


def router_file(
    model: Any, *, seed: int = 0, spread: float = 0.0, width: float = 0.0, budget: float = 0.0
) -> RouterFile:
    """Routers of a network.

    Args:
        model: The network.
        seed: Of the weights.
        spread: How much logits depend on what is seen; 0 leaves everything open at full width.
        width: Added to the logits of all widths but the full one.
        budget: How much a smaller budget closes gates.
    """
    torch.manual_seed(seed)
    routers = Routers(len(model.sites), channels_of(model), hidden=8, stride=2)
    with torch.no_grad():
        routers.head.copy_(spread * torch.randn_like(routers.head))
        routers.bias[:, 3:6] += width
        routers.bias[:, :3] -= 9 * budget
        routers.shift[:, :3] = budget * routers.spread.sign()[:, None]
    orders = {
        str(site): importance_order(torch.rand(_hidden(model), generator=torch.Generator().manual_seed(k)))
        for k, site in enumerate(model.sites)
    }
    return RouterFile(identity_of(model), tuple(map(str, model.sites)), (0.1, 1.0), routers, orders)


def saved(folder: Path, model: Any, **options: Any) -> str:
    """The same in a file."""
    path = folder / "routers.safetensors"
    router_file(model, **options).save(path)
    return str(path)


def channels_of(model: nn.Module) -> int:
    """C."""
    config: Any = model.config
    return config.get("hidden_size") or config["num_attention_heads"] * config["attention_head_dim"]


def _hidden(model: nn.Module) -> int:
    return 4 * channels_of(model)


def close(file: RouterFile, sites: list[str]) -> RouterFile:
    """Close the gates of modules, such as ``space.0.mlp``."""
    names = {name: k for k, name in enumerate(file.blocks)}
    with torch.no_grad():
        for site in sites:
            axis, layer, kind = site.split(".")
            file.routers.bias[names[f"{axis}.{layer}.block"], ("attn", "cross", "mlp").index(kind)] = -3.0
    return file


def straight(model: Any, closed: list[str], widths: dict[str, Any] | None = None) -> Any:
    """A run in which some modules are left out and some MLPs are replaced: straight code to compare with."""

    def run(site: Site, branch: Any, x: Any, cond: Any) -> Any:
        if str(site) in closed:
            return x
        if widths and str(site) in widths:
            order, width = widths[str(site)]
            return branch.add(x, branch.ordered(order.long()).mix(branch.pre(x, cond), cond, width=width), cond)
        return branch.compute(x, cond, run) if site.kind in ("body", "block") else direct(site, branch, x, cond)

    return run
