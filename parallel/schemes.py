"""The ways in which ranks share the places of a clip, by name."""

from collections.abc import Mapping
from types import MappingProxyType

from videoaccel.parallel.layout import MeshLayout
from videoaccel.parallel.ulysses import UlyssesLayout

AUTO = "auto"
SCHEMES: Mapping[str, type[MeshLayout]] = MappingProxyType({"dsp": MeshLayout, "ulysses": UlyssesLayout})


def find_layout(name: str) -> type[MeshLayout]:
    """The layout of this name.

    Raises:
        ValueError: There is none.
    """
    if name not in SCHEMES:
        raise ValueError(f"unknown `sequence_parallel` {name!r}; there are {', '.join(SCHEMES)} and {AUTO}")
    return SCHEMES[name]


def choose_scheme(name: str, *, frames: int) -> str:
    """The scheme for clips of so many latent frames: switching to frames needs several of them."""
    if name == AUTO:
        return "ulysses" if frames == 1 else "dsp"
    find_layout(name)
    return name
