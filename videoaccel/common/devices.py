"""Devices by name: those that this machine has."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from videoaccel.common.wording import counted

DEVICES = ("cpu", "cuda", "mps")


def check_device(name: str | int | torch.device) -> torch.device:
    """The device of this name.

    Args:
        name: ``cpu``, ``cuda``, ``cuda:N`` or ``mps``.

    Raises:
        ValueError: There is no such device, or not on this machine.

    >>> check_device("cpu")
    device(type='cpu')
    """
    try:
        device = torch.device(name)
    except RuntimeError:
        device = torch.device("meta")
    if device.type not in DEVICES:
        raise ValueError(f"unknown device {str(name)!r}; there are cpu, cuda, cuda:N and mps")
    missing = None
    if device.type == "cuda" and (device.index or 0) >= (count := torch.cuda.device_count()):
        found = counted(count, "CUDA device") if count else "no CUDA devices"
        missing = f"torch {torch.__version__} finds {found} here"
    if device.type == "mps" and not torch.backends.mps.is_available():
        missing = "this machine has no MPS"
    if missing:
        raise ValueError(
            f"device {str(name)!r} was asked for, but {missing}; use `device=cpu`, or see videoaccel doctor"
        )
    return device


def check_offload(name: str | int | torch.device | None) -> None:
    """Make sure that there is a GPU whose memory offloading can keep free: this one, or any where no name is given.

    Raises:
        ValueError: There is none.
    """
    needs = "offloading keeps a GPU's memory free and needs a CUDA device"
    if name is None and not torch.cuda.is_available():
        raise ValueError(f"{needs}, but torch {torch.__version__} finds none here; leave it out")
    if name is not None and (device := check_device(name)).type != "cuda":
        raise ValueError(f"{needs}, got {str(device)!r}; leave it out there")


@contextmanager
def cpu_threads(count: int | None) -> Iterator[None]:
    """Run with this many CPU threads; None leaves them as they are."""
    before = torch.get_num_threads()
    torch.set_num_threads(count or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def machine_memory() -> int:
    """Bytes of memory that this machine has; 4 GiB where nobody can tell."""
    return _pages("SC_PHYS_PAGES")


def free_memory(name: str | torch.device) -> int:
    """Bytes that are free on a device; 4 GiB where nobody can tell."""
    device = torch.device(name)
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    return _pages("SC_AVPHYS_PAGES")


def _pages(name: str) -> int:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf(name)
    except (AttributeError, ValueError, OSError):  # not every system says
        return 4 << 30
