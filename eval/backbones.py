"""Files of networks, where they belong, and what to say when they are not there.

The layout is that of VBench's own cache: a folder, ``VBENCH_CACHE_DIR`` or ``~/.cache/vbench``, with one folder a
network. Some files have a second home where another library keeps them. Nothing is ever downloaded.
"""

import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor

from videoaccel.common.home import cached_at
from videoaccel.common.plain_files import check_plain
from videoaccel.eval.torchscript import is_torchscript, read_torchscript

Made = TypeVar("Made")


@dataclass(frozen=True)
class Backbone:
    """A file that a metric needs.

    Attributes:
        file: Below the root.
        url: Where it is published.
        homes: Other places where it may lie; ``$TORCH_HOME`` and ``~`` are filled in.
    """

    file: str
    url: str
    homes: tuple[str, ...] = ()
    zipped: bool = False  # what is published is an archive that holds the file in a folder of the same name


class MissingBackbone(FileNotFoundError):  # noqa: N818 (the name that DESIGN gave it)
    """Files of networks are not there; the message says which, and where they belong.

    Attributes:
        missing: The files, and the places where they belong.
    """

    def __init__(self, missing: Iterable[tuple[Backbone, Path]]) -> None:
        self.missing = tuple(missing)
        super().__init__("; ".join(instruction(backbone, place) for backbone, place in self.missing))


def instruction(backbone: Backbone, place: Path) -> str:
    """One sentence that ends in a line to copy."""
    if backbone.zipped:
        folder = place.parent.parent
        what = f"mkdir -p '{folder}' && cd '{folder}' && wget '{backbone.url}' && unzip '{Path(backbone.url).name}'"
        return f"{place.name} is missing: {what}"
    return f"{place.name} is missing: mkdir -p '{place.parent}' && wget -O '{place}' '{backbone.url}'"


@dataclass(frozen=True)
class Backbones:
    """A folder of networks.

    Attributes:
        folder: The root; ``VBENCH_CACHE_DIR``, else ``~/.cache/vbench``, unless given.
    """

    folder: Path | None = None
    _made: dict[str, Any] = field(default_factory=dict, compare=False, repr=False)

    @property
    def root(self) -> Path:
        """The folder that is looked into first."""
        return self.folder or cached_at(os.environ.get("VBENCH_CACHE_DIR") or "~/.cache/vbench")

    def find(self, backbone: Backbone) -> Path:
        """The file, in the root or at home.

        Raises:
            MissingBackbone: It is at neither place.
        """
        self.check([backbone])
        return next(place for place in self._places(backbone) if place.is_file())

    def check(self, backbones: Iterable[Backbone]) -> None:
        """Make sure that files are there.

        Raises:
            MissingBackbone: Lists all that are not.
        """
        missing = [b for b in backbones if not any(place.is_file() for place in self._places(b))]
        if missing:
            raise MissingBackbone((b, self.root / b.file) for b in missing)

    def load(self, backbone: Backbone, *, key: str | None = None, strip: str = "") -> dict[str, Tensor]:
        """The tensors of a file, in float32 (whole numbers as they are).

        Args:
            backbone: Which file; TorchScript archives are read, too (OpenAI's CLIP comes as one).
            key: Where in the file the tensors are.
            strip: What names start with that networks here do not know.

        Raises:
            MissingBackbone: It is not there.
            ValueError: It is no file of tensors.
        """
        path = self.find(backbone)
        data = read_checkpoint(path)
        tensors = data.get(key, data) if key else data
        found = {
            name.removeprefix(strip): value.float() if value.is_floating_point() else value
            for name, value in tensors.items()
            if isinstance(value, Tensor)
        }
        if not found:
            raise ValueError(f"{path} holds no tensors{f' under {key!r}' if key else ''}")
        return found

    def share(self, name: str, make: Callable[[], Made]) -> Made:
        """A network that several metrics look through, made once."""
        if name not in self._made:
            self._made[name] = make()
        made: Made = self._made[name]
        return made

    def _places(self, backbone: Backbone) -> list[Path]:
        torch_home = os.environ.get("TORCH_HOME") or str(
            cached_at(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "torch"
        )
        homes = [cached_at(home.replace("$TORCH_HOME", torch_home)) for home in backbone.homes]
        return [self.root / backbone.file, *homes]


def read_checkpoint(path: Path) -> dict[str, Any]:
    """What a ``.pth`` or ``.pt`` file holds, on the CPU; no code of it is run, neither pickled nor TorchScript.

    Raises:
        ValueError: It is damaged, or needs code to be read.
    """
    try:
        check_plain(path)
        if is_torchscript(path):
            return dict(read_torchscript(path))
        return dict(torch.load(path, map_location="cpu", weights_only=True))
    except Exception as error:  # torch raises many kinds
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ValueError(f"{path} is not a readable file of weights (damaged?): {first}") from error
