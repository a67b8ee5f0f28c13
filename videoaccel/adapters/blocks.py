"""The blocks of a transformer, found by structure: what the first ones do is told, and the network may be left there.

The lists of modules that hold most parameters are the blocks (refiners and embedders hold few). The first of them that
runs in a call is where the network begins, and before the next one it may be left; nothing has to be known of what
blocks take and return. Leaving is an exception that only this room raises and catches: contexts of the network unwind
as they do with any other.

Shape legend: G groups of rows (as many as the latent has samples, guidance branches included), P positions.
"""

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from videoaccel.adapters.doors import Plain, inner_members
from videoaccel.adapters.signals import Sampler, added, first_tensor
from videoaccel.adapters.swap import unwatch, watch

SHARE = 1 / 8
"""Lists with fewer of the largest one's parameters are no main ones."""

ADDED, MODULATED, MIDDLE = "added", "modulated", "middle"
"""Signals: what the first block adds, the input of its attention, and what a block in the middle adds."""

DEPTH = 13 / 28
"""Where the middle is, see :mod:`videoaccel.policies.adacache`."""

LEFT: Any = object()
"""In place of an output: the network was left."""

Leaves = Callable[[Mapping[str, Tensor]], bool]
"""Told the signals [G, P] once the first block has run; says whether to leave."""


class Leave(BaseException):
    """Leaves a network. No ``Exception``, so that networks that catch those let it pass."""


class Blocks:
    """Listens to some blocks of one network, while it is called through :meth:`run`.

    Args:
        network: The network.
        kinds: Which signals are wanted.

    Attributes:
        remark: What has to be said of the signals; None if they are what they should be.
        signals: Of the last call.
    """

    def __init__(self, network: nn.Module, kinds: frozenset[str]) -> None:
        self.network, self.kinds = network, kinds
        self.remark: str | None = None
        self.signals: dict[str, Tensor] = {}
        self._lists = main_lists(network)
        self._shape = state_of(self._lists)
        self._heads = [block for one in self._lists for block in list(one)[:2]]
        largest = max(self._lists, key=_size)
        self._middle = largest[min(round(DEPTH * len(largest)), len(largest) - 1)] if MIDDLE in kinds else None
        self._attentions = {id(one[0]): _attentions(one[0]) for one in self._lists if MODULATED in kinds}
        self._sampler, self._rows = Sampler(), 1
        self._leaves: Leaves | None = None
        self._thread: int | None = None
        self._begun: nn.Module | None = None
        for module in self._modules:
            watch(module, self, inner_members)

    def remove(self) -> None:
        """Come off."""
        for module in self._modules:
            unwatch(module, self)

    def fits(self, network: nn.Module) -> bool:
        """Whether the network's blocks are still the same, compiled or not as they were."""
        return network is self.network and state_of(main_lists(network)) == self._shape

    @property
    def open(self) -> bool:
        """Whether a call is watched, in this thread."""
        return self._thread == threading.get_ident()

    def run(
        self, plain: Plain, args: Sequence[Any], kwargs: Mapping[str, Any], *, rows: int | None, leaves: Leaves
    ) -> Any:
        """Call the network.

        Args:
            plain: The call.
            args: Its arguments.
            kwargs: Likewise, by name.
            rows: Samples in its batch, where that is known.
            leaves: Asked once, at the start of the second block.

        Returns:
            Its output; ``LEFT`` if it was left.
        """
        self._rows, self._leaves, self._begun, self.signals = rows or 1, leaves, None, {}
        self._thread = threading.get_ident()
        try:
            with scales_restored(self.network, kwargs):
                return plain(*args, **kwargs)
        except Leave:
            finish_hooks(self.network, self._lists)
            return LEFT
        finally:
            self._thread = self._leaves = None

    def inside(self, module: nn.Module, plain: Plain, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """A block, or a part of one, is called."""
        head = any(module is one for one in self._heads)
        if head and self._begun is None:
            self._begun = module
            output = self._first(plain, args, kwargs)
        else:
            if MODULATED not in self.signals and any(
                module is one for one in self._attentions.get(id(self._begun), [])
            ):
                self._note(MODULATED, first_tensor(args, kwargs))
            if head and self._leaves is not None and module is not self._begun:
                leaves, self._leaves = self._leaves, None
                if leaves(self.signals):
                    raise Leave
            output = plain(*args, **kwargs)
        if module is self._middle:
            self._note(MIDDLE, added(args, kwargs, output))
        return output

    def _first(self, plain: Plain, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        output = plain(*args, **kwargs)
        if ADDED in self.kinds:
            self._note(ADDED, added(args, kwargs, output))
        if MODULATED in self.kinds and MODULATED not in self.signals:
            self._note(MODULATED, first_tensor(args, kwargs))
            self.remark = "the first block's own input is compared, since that of its attention is not to be seen"
        return output

    def _note(self, kind: str, value: Tensor | None) -> None:
        if value is not None:
            self.signals[kind] = self._sampler(value, self._rows)

    @property
    def _modules(self) -> list[nn.Module]:
        found = [*self._heads, *(part for parts in self._attentions.values() for part in parts)]
        if self._middle is not None and all(self._middle is not one for one in found):
            found.append(self._middle)
        return found


def why_not(network: Any) -> str | None:
    """Why a network cannot be left after its first block; None if it can.

    >>> why_not(nn.Linear(2, 2))
    'has no list of blocks'
    """
    if getattr(network, "_compiled_call_impl", None) is not None or hasattr(network, "_orig_mod"):
        return "is compiled as a whole (compile_repeated_blocks() may be used in its place)"
    if hasattr(network, "down_blocks") and hasattr(network, "up_blocks"):
        return "is a UNet, whose blocks differ"
    return None if main_lists(network) else "has no list of blocks"


def main_lists(network: nn.Module) -> list[nn.ModuleList]:
    """The lists of blocks that hold most of the parameters, none inside another; empty if all are but one block."""
    found: dict[str, nn.ModuleList] = {}
    for name, module in network.named_modules():
        within = any(name.startswith(f"{outer}.") for outer in found)
        if isinstance(module, nn.ModuleList) and not within and _size(module):
            found[name] = module
    least = SHARE * max(map(_size, found.values()), default=0)
    main = [module for module in found.values() if _size(module) >= least]
    return main if sum(map(len, main)) > 1 else []


def _size(modules: nn.ModuleList) -> int:
    return sum(parameter.numel() for parameter in modules.parameters())


def state_of(lists: Sequence[nn.ModuleList]) -> list[tuple[int, ...]]:
    """Tells lists of blocks apart: which blocks they hold, and whether they are compiled."""
    return [(*map(id, one), _compiled(one[0])) for one in lists]


def _compiled(module: nn.Module) -> bool:
    return getattr(module, "_compiled_call_impl", None) is not None


def _attentions(block: nn.Module) -> list[nn.Module]:
    """Children that attend; none of a compiled block, into which nobody may look."""
    if _compiled(block):
        return []
    return [part for part in block.children() if "attention" in type(part).__name__.lower() or _is_attn(part)]


def _is_attn(part: nn.Module) -> bool:
    return "attn" in type(part).__name__.lower()


def _holds(module: nn.Module, lists: Sequence[nn.ModuleList]) -> bool:
    return any(part is one for part in module.modules() for one in lists)


def finish_hooks(network: nn.Module, lists: Sequence[nn.ModuleList]) -> None:
    """Have weights that offloading brought in for a whole network taken away, as at the end of a full call."""
    held = [network, *(part for part in network.children() if _holds(part, lists))]
    for module in held:
        if (hook := getattr(module, "_hf_hook", None)) is not None:
            hook.post_forward(module, None)
        for hook in getattr(getattr(module, "_diffusers_hook", None), "hooks", {}).values():
            if hasattr(hook, "group"):
                hook.post_forward(module, None)


@contextmanager
def scales_restored(network: nn.Module, kwargs: Mapping[str, Any]) -> Iterator[None]:
    """LoRA scales that a call asks for are taken back if it is left; not all networks of diffusers do that."""
    scaled = any(isinstance(value, Mapping) and value.get("scale", 1.0) != 1.0 for value in kwargs.values())
    layers = [part for part in network.modules() if isinstance(getattr(part, "scaling", None), dict)] if scaled else []
    before = [dict(layer.scaling) for layer in layers]  # type: ignore[arg-type]
    try:
        yield
    except Leave:
        for layer, scales in zip(layers, before, strict=True):
            layer.scaling.update(scales)  # type: ignore[union-attr, operator]
        raise
