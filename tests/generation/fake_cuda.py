"""A CUDA device of tensors without values: what runs on it shows where tensors of host and device meet.

The networks hold fake tensors, which know their device and shape alone. An operation that mixes in a tensor of the host
raises as on a GPU, and so does every number that is asked of the device, but for those of :data:`LISTED`. A build of
torch for CPUs lacks only a guard for the device, which is two lines of C++.
"""

import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

from videoaccel.session.policy import Session

CUDA = torch.device("cuda:0")

GUARD = """#include <c10/core/impl/DeviceGuardImplInterface.h>
namespace c10::impl { C10_REGISTER_GUARD_IMPL(CUDA, NoOpDeviceGuardImpl<DeviceType::CUDA>); }
"""

LISTED: dict[str, Callable[[int], float]] = {
    "compact_text": lambda k: 7,  # how long texts are: once a generation
    "_SadaSession.__init__": lambda k: 1 - k / 12,  # noise levels, falling: likewise
    "Maker._place": lambda k: 0.0,  # whether no frame is given: once a loop
    "Job.changes": lambda k: 0.0,  # in which steps other frames are made than before: likewise
    "start_noised": lambda k: 1.0,  # whether a mask is one: likewise
}
"""Functions of ours that ask the device for numbers before the loop, and what they are told the k-th time."""

ASKED = {getattr(torch.ops.aten, name).default for name in ("_local_scalar_dense", "item", "is_nonzero", "equal")}


def compiler() -> str | None:
    """One that can build the guard; None if there is none."""
    return shutil.which("c++") if sys.platform == "linux" else None


def load_guard(folder: Path) -> None:
    """Build the guard and load it, once in a process."""
    source, made = folder / "guard.cpp", folder / "guard.so"
    source.write_text(GUARD, encoding="utf-8")
    home = Path(torch.__file__).parent
    flags = ["-O1", "-std=c++20", "-shared", "-fPIC", f"-I{home / 'include'}", f"-L{home / 'lib'}", "-lc10"]
    subprocess.run([compiler() or "c++", str(source), "-o", str(made), *flags], check=True)
    torch.ops.load_library(str(made))


class FakeCuda(TorchDispatchMode):
    """Everything that touches the device runs without values; what is the host's alone runs as ever.

    Attributes:
        asked: How often a listed function asked for a number.
        sent: Lists of numbers that were sent to the device.
    """

    def __init__(self) -> None:
        super().__init__()
        self.fakes = FakeTensorMode()
        self.asked: Counter[str] = Counter()
        self.sent = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None) -> Any:
        given = dict(kwargs or {})
        leaves = pytree.tree_leaves((args, given))
        there = any(isinstance(leaf, FakeTensor) or (isinstance(leaf, torch.device) and leaf.type == "cuda")
                    for leaf in leaves)  # fmt: skip
        if not there:
            return func(*args, **given)
        if func in ASKED:
            return self._answer()
        args, given = pytree.tree_map_only(Tensor, self.faked, (args, given))
        with self.fakes:
            return func(*args, **given)

    def faked(self, x: Tensor) -> Tensor:
        """The same without values, where it is."""
        return x if isinstance(x, FakeTensor) else self.fakes.from_tensor(x, static_shapes=True)

    def move(self, module: nn.Module) -> None:
        """Have a network's weights on the device, without values."""
        for part in module.modules():
            for name, weight in part._parameters.items():
                if weight is not None:
                    moved = self.faked(weight.detach()).to(CUDA)
                    part._parameters[name] = nn.Parameter(moved, requires_grad=False)
            for name, buffer in part._buffers.items():
                part._buffers[name] = None if buffer is None else self.faked(buffer).to(CUDA)

    def _answer(self) -> float:
        frame: Any = sys._getframe(2)
        while frame is not None and not _ours(frame):
            frame = frame.f_back
        name = "a test" if frame is None else _qualified(frame)
        if name not in LISTED:
            raise AssertionError(f"{name} asks the device for a number")
        self.asked[name] += 1
        return LISTED[name](self.asked[name] - 1)

    @contextmanager
    def on(self) -> Iterator[None]:
        """Have the device, and whatever else of CUDA the house asks."""
        made, listed, room = torch.tensor, Tensor.tolist, 2**40

        def tensor(data: Any, *, device: Any = None, **kwargs: Any) -> Tensor:
            if device is None or torch.device(device).type != "cuda":
                return made(data, device=device, **kwargs)
            self.sent += 1
            return self.faked(made(data, **kwargs)).to(CUDA)

        def tolist(x: Tensor) -> Any:
            if not isinstance(x, FakeTensor):
                return listed(x)
            return _nested([self._answer() for _ in range(x.numel())], x.shape)

        def to_host(session: Session, stats: Tensor) -> list[float]:
            assert stats.device.type == "cuda", "sums over ranks are made on the device"
            session.reads[-1] += 1
            half = stats.numel() // 2  # of sums of changes, and of what has changed
            change = 1.0 if len(session.reads) % 4 == 0 else 0.01
            return [change] * half + [1.0] * (stats.numel() - half)

        with (
            mock.patch.object(torch, "tensor", tensor),
            mock.patch.object(Tensor, "tolist", tolist),
            mock.patch.object(Session, "to_host", to_host),
            mock.patch.multiple(torch.cuda, _lazy_init=lambda: None, synchronize=lambda device=None: None),
            mock.patch.multiple(torch.cuda, memory_reserved=lambda device: 0, memory_allocated=lambda device: 0),
            mock.patch.multiple(torch.cuda, mem_get_info=lambda device=None: (room, room)),
            self,
        ):
            yield


def _nested(numbers: list[float], shape: Sequence[int]) -> Any:
    if not shape:
        return numbers[0]
    size = len(numbers) // shape[0]
    return [_nested(numbers[k * size : (k + 1) * size], shape[1:]) for k in range(shape[0])]


def _ours(frame: Any) -> bool:
    return str(frame.f_globals.get("__name__", "")).startswith("videoaccel.")


def _qualified(frame: Any) -> str:
    """The function with its class, which Python 3.10 does not know."""
    name = str(frame.f_code.co_name)
    return f"{type(frame.f_locals['self']).__name__}.{name}" if "self" in frame.f_locals else name
