"""Who makes the process groups of a mesh: PyTorch's DeviceMesh, or ColossalAI's ProcessGroupMesh.

Joining is ours for both (`videoaccel.parallel.meeting`): ColossalAI's launcher opens a store without a prefix, in
which, when torchrun has started the ranks again, the addresses of those that are gone still stand.
"""

import contextlib
import importlib
import os
from collections.abc import Callable, Iterator, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

from videoaccel.parallel.degrees import Degrees

AXES = ("data", "guidance", "sequence")


class Groups(NamedTuple):
    """This rank's process groups."""

    sequence: Any
    guidance: Any
    clip: Any


Provider = Callable[[Degrees, str], Groups]
"""Makes groups of the ranks that have joined."""


def torch_groups(degrees: Degrees, device: str) -> Groups:
    """Groups of a DeviceMesh."""
    from torch.distributed.device_mesh import init_device_mesh

    mesh = init_device_mesh(device, tuple(degrees), mesh_dim_names=AXES)
    clip = mesh["guidance", "sequence"]._flatten("clip")
    return Groups(mesh["sequence"].get_group(), mesh["guidance"].get_group(), clip.get_group())


def colossalai_groups(degrees: Degrees, device: str) -> Groups:
    """Groups of a ProcessGroupMesh."""
    _colossalai()
    mesh = importlib.import_module("colossalai.cluster").ProcessGroupMesh(*degrees)
    return Groups(mesh.get_group_along_axis(2), mesh.get_group_along_axis(1), mesh.get_group_along_axis([1, 2]))


PROVIDERS: Mapping[str, Provider] = MappingProxyType({"torch": torch_groups, "colossalai": colossalai_groups})
"""By name."""


def find_provider(name: str) -> Provider:
    """The provider of this name.

    Raises:
        ValueError: There is none, or its package is not installed.
    """
    if name not in PROVIDERS:
        raise ValueError(f"unknown `provider` {name!r}; there are {', '.join(PROVIDERS)}")
    if name == "colossalai":
        _colossalai()
    return PROVIDERS[name]


def _colossalai() -> Any:
    """The package.

    Raises:
        ValueError: It cannot be imported.
    """
    try:
        with _environment_kept():
            return importlib.import_module("colossalai")
    except ImportError as error:
        raise ValueError(
            f"`provider=colossalai` needs the package colossalai ({error}); beside a current torch "
            f"pip install --no-deps colossalai==0.5.0 works, its own pins do not"
        ) from None


@contextlib.contextmanager
def _environment_kept() -> Iterator[None]:
    """Importing colossalai sets CUDA_DEVICE_MAX_CONNECTIONS for everybody; only its own runs want that."""
    name = "CUDA_DEVICE_MAX_CONNECTIONS"
    before = os.environ.get(name)
    try:
        yield
    finally:
        if before is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = before
