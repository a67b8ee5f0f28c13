"""What the blocks of a transformer add, all of them together: taken down where they run, put in where they do not.

Blocks are found by structure (:func:`videoaccel.adapters.blocks.main_lists`), and nothing is known of what they take
and return. A call goes through *stretches*: blocks of one list, one after the other. A stretch's residual is what comes
out of its last block less what of the same form went into its first (of several the nearest; where ranks share the
work, the rank's part of it), or all of it where nothing of that form did. In a call that is not computed everything
around the blocks runs: the last block of a stretch is answered with the stretch's new input plus the residual, the
others with tensors of the right form, and what the network does with those is lost. Whether nothing else of the blocks
is used is found out by doing so right after a call was computed, with its own residuals, which must give its output.
"""

import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
import torch.utils._pytree as pytree
from torch import Tensor, nn

from videoaccel.adapters.agreement import Agreement, alone
from videoaccel.adapters.blocks import LEFT, Leave, finish_hooks, main_lists, scales_restored, state_of
from videoaccel.adapters.doors import Plain, inner_members
from videoaccel.adapters.outputs import Output, taken_apart
from videoaccel.adapters.swap import unwatch, watch

STRETCHES = 4
"""More than so many of a call would be kept block by block, which takes too much memory."""

CLOSE = 1e-3
"""How near, relatively, an output has to be that is made of the call's own residuals."""


Share = tuple[int, int]
"""Number of a rank among those that share a network's work, and how many they are."""


class Leaf(NamedTuple):
    """A tensor that a block returns: its form, and the number of the block's tensor that it goes with, if any."""

    shape: tuple[int, ...]
    dtype: torch.dtype
    base: int | None


class Crossing(NamedTuple):
    """A block in a call: its list and place there, the form of what it returns, and its tensors (None of others)."""

    block: tuple[int, int]
    form: Any
    leaves: tuple[Leaf | None, ...]


class Way(NamedTuple):
    """How a call goes through the blocks; ``ends`` are the numbers of the crossings that end stretches."""

    crossings: tuple[Crossing, ...]
    ends: tuple[int, ...]


class _Stretch:
    """Blocks of one list in a call that is computed: the tensors that went in, and what came out last."""

    def __init__(self, which: int, inputs: list[Tensor]) -> None:
        self.which, self.inputs, self.output = which, inputs, None


class Body:
    """Listens to all main blocks of one network, while it is called through :meth:`record` or :meth:`serve`.

    Args:
        network: The network, of which :func:`videoaccel.adapters.blocks.why_not` says nothing.

    Attributes:
        agree: How the ranks agree that share the network's work.
    """

    agree: Agreement = alone

    def __init__(self, network: nn.Module) -> None:
        self.network = network
        self._lists = main_lists(network)
        self._shape = state_of(self._lists)
        self._numbers = {id(b): (which, k) for which, one in enumerate(self._lists) for k, b in enumerate(one)}
        self._crossed: Callable[[tuple[int, int], Plain, Any, Any], Any] | None = None
        self._thread: int | None = None
        for block in self._blocks:
            watch(block, self, inner_members)

    def remove(self) -> None:
        """Come off."""
        for block in self._blocks:
            unwatch(block, self)

    def fits(self, network: nn.Module) -> bool:
        """Whether the network's blocks are still the same, compiled or not as they were."""
        return network is self.network and state_of(main_lists(network)) == self._shape

    @property
    def open(self) -> bool:
        """Whether a call is watched, in this thread."""
        return self._thread == threading.get_ident()

    def inside(self, module: nn.Module, plain: Plain, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """A block is called."""
        assert self._crossed is not None
        return self._crossed(self._numbers[id(module)], plain, args, kwargs)

    def record(
        self, plain: Plain, args: Sequence[Any], kwargs: Mapping[str, Any], *, check: bool
    ) -> tuple[Any, Output | str]:
        """Compute a call.

        Args:
            plain: The call.
            args: Its arguments.
            kwargs: Likewise, by name.
            check: Whether to find out if the residuals make up the output.

        Returns:
            The output, and the residuals of all stretches, in the outputs' types; or why there are none.
        """
        crossings: list[Crossing] = []
        stretches: list[_Stretch] = []

        def crossed(block: tuple[int, int], plain: Plain, args: Any, kwargs: Any) -> Any:
            given = _tensors(args, kwargs)
            if not stretches or stretches[-1].which != block[0]:
                stretches.append(_Stretch(block[0], given))
            stretches[-1].output = output = plain(*args, **kwargs)
            leaves, form = pytree.tree_flatten(output)
            crossings.append(Crossing(block, form, tuple(_leaf(leaf, given) for leaf in leaves)))
            return output

        with self._watching(crossed):
            output = plain(*args, **kwargs)
        found = _residuals(crossings, stretches, self.agree.share)
        if isinstance(found, str) or taken_apart(output) is None:
            return output, found if isinstance(found, str) else "its output holds more than tensors"
        if check and not self._agreed(self._makes(output, found, plain, args, kwargs), found.leaves[0]):
            return output, "more of its blocks is used than what comes out of the last"
        kinds = [leaf.dtype for end in found.form.ends for leaf in found.form.crossings[end].leaves if leaf is not None]
        kept = tuple(leaf.to(kind) for leaf, kind in zip(found.leaves, kinds, strict=True))
        return output, Output(kept, found.form)

    def serve(self, plain: Plain, args: Sequence[Any], kwargs: Mapping[str, Any], residuals: Output) -> Any:
        """Run what is around the blocks.

        Args:
            plain: The call.
            args: Its arguments.
            kwargs: Likewise, by name.
            residuals: Of its blocks, as :meth:`record` gives them.

        Returns:
            Its output; ``LEFT`` if it went through its blocks in another way than the one recorded.
        """
        way: Way = residuals.form
        rest, place, ready = list(residuals.leaves), 0, None

        def crossed(block: tuple[int, int], plain: Plain, args: Any, kwargs: Any) -> Any:
            nonlocal place, ready
            if place >= len(way.crossings) or way.crossings[place].block != block:
                raise Leave
            given = _tensors(args, kwargs)
            if ready is None:
                end = way.crossings[next(one for one in way.ends if one >= place)]
                ready = _with_residual(end, given, rest, self.agree.share)
            output = ready if place in way.ends else _handed_on(way.crossings[place], given)
            place, ready = place + 1, None if place in way.ends else ready
            return output

        try:
            with self._watching(crossed), scales_restored(self.network, kwargs):
                output = plain(*args, **kwargs)
        except Leave:
            finish_hooks(self.network, self._lists)
            return LEFT
        return output if place == len(way.crossings) else LEFT

    def _makes(self, output: Any, found: Output, plain: Plain, args: Sequence[Any], kwargs: Mapping[str, Any]) -> bool:
        """Whether residuals make up the output of the call that they are of. No random number is used up."""
        given = _tensors(args, kwargs)
        with torch.random.fork_rng(devices=sorted({one.device.index for one in given if one.device.type == "cuda"})):
            try:
                again = self.serve(plain, args, kwargs, found)
            except Exception:  # what is around the blocks cannot do without them
                return False
        one, other = taken_apart(output), None if again is LEFT else taken_apart(again)
        if one is None or other is None or one.form != other.form:
            return False
        return all(_close(a, b) for a, b in zip(one.leaves, other.leaves, strict=True))

    def _agreed(self, makes: bool, near: Tensor) -> bool:
        return bool(self.agree(torch.tensor([float(makes)], device=near.device)).item())

    @contextmanager
    def _watching(self, crossed: Callable[[tuple[int, int], Plain, Any, Any], Any]) -> Any:
        self._crossed, self._thread = crossed, threading.get_ident()
        try:
            yield
        finally:
            self._crossed = self._thread = None

    @property
    def _blocks(self) -> list[nn.Module]:
        return [block for one in self._lists for block in one]


def _tensors(args: Any, kwargs: Any) -> list[Tensor]:
    """Tensors among a block's arguments, in order."""
    return [leaf for leaf in pytree.tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]


def _leaf(leaf: Any, given: Sequence[Tensor]) -> Leaf | None:
    """The form of a part of what a block returns, with the first tensor that is alike."""
    if not isinstance(leaf, Tensor):
        return None
    return Leaf(tuple(leaf.shape), leaf.dtype, next((k for k, one in enumerate(given) if _alike(one, leaf)), None))


def _alike(one: Tensor, leaf: Tensor | Leaf) -> bool:
    return one.shape == leaf.shape and one.dtype == leaf.dtype


def _residuals(crossings: Sequence[Crossing], stretches: Sequence[_Stretch], share: Share) -> Output | str:
    """What every stretch adds, in float32, with the way through them; or why that cannot be told."""
    if not stretches:
        return "none of its blocks was called"
    if len(stretches) > STRETCHES:
        return "its lists of blocks take turns"
    told = list(crossings)
    ends: list[int] = []
    found: list[Tensor] = []
    for number, one in enumerate(crossings):
        if number + 1 < len(crossings) and crossings[number + 1].block[0] == one.block[0]:
            continue
        stretch = stretches[len(ends)]
        leaves = pytree.tree_leaves(stretch.output)
        if any(leaf is not None and not (isinstance(leaf, Tensor) and leaf.is_floating_point()) for leaf in leaves):
            return "its blocks return more than tensors"
        forms: list[Leaf | None] = []
        for leaf in leaves:
            base = None if leaf is None else _base(leaf, stretch.inputs, share)
            number_of_base = None if base is None else base[0]
            forms.append(None if leaf is None else Leaf(tuple(leaf.shape), leaf.dtype, number_of_base))
            if leaf is not None:
                added = leaf.to(_wide(leaf))
                found.append(added.clone() if base is None else added - base[1])
        told[number] = one._replace(leaves=tuple(forms))
        ends.append(number)
    return Output(tuple(found), Way(tuple(told), tuple(ends)))


def _base(leaf: Tensor, inputs: Sequence[Tensor], share: Share) -> tuple[int, Tensor] | None:
    """Which of a stretch's inputs, and what of it, an output was added to: the nearest of its shape."""
    found = [(k, part) for k, one in enumerate(inputs) if (part := _part(one, leaf, share)) is not None]
    if len(found) > 1:
        found.sort(key=lambda one: float((leaf.float() - one[1].float()).norm()))
    return found[0] if found else None


def _part(one: Tensor, leaf: Tensor | Leaf, share: Share) -> Tensor | None:
    """A tensor of the form of another: itself, or this rank's part of it; None if neither is."""
    if _alike(one, leaf):
        return one
    rank, count = share
    apart = [d for d in range(one.ndim) if one.ndim == len(leaf.shape) and one.shape[d] != leaf.shape[d]]
    if count == 1 or len(apart) != 1:
        return None
    part = one.tensor_split(count, dim=apart[0])[rank]
    return part if _alike(part, leaf) else None


def _with_residual(end: Crossing, given: Sequence[Tensor], rest: list[Any], share: Share) -> Any:
    """What comes out of a stretch; takes its residuals from the front of ``rest``.

    Raises:
        Leave: What goes in is of another form than in the call that was recorded.
    """
    parts: list[Any] = []
    for leaf in end.leaves:
        if leaf is None:
            parts.append(None)
            continue
        added = rest.pop(0)
        base = None if leaf.base is None else _picked(given, leaf, share)
        parts.append((added if base is None else base.to(_wide(base)) + added).to(leaf.dtype))
    return pytree.tree_unflatten(parts, end.form)


def _handed_on(crossing: Crossing, given: Sequence[Tensor]) -> Any:
    """In place of what a block in the midst of a stretch returns: tensors of the right form, which nobody looks at."""
    near = given[0].device if given else None
    parts = [
        None
        if leaf is None
        else torch.zeros(leaf.shape, dtype=leaf.dtype, device=near)
        if leaf.base is None
        else _picked(given, leaf, (0, 1))
        for leaf in crossing.leaves
    ]
    return pytree.tree_unflatten(parts, crossing.form)


def _picked(given: Sequence[Tensor], leaf: Leaf, share: Share) -> Tensor:
    assert leaf.base is not None
    part = _part(given[leaf.base], leaf, share) if leaf.base < len(given) else None
    if part is None:
        raise Leave
    return part


def _wide(tensor: Tensor) -> torch.dtype:
    return torch.promote_types(tensor.dtype, torch.float32)


def _close(one: Any, other: Any) -> bool:
    if not isinstance(one, Tensor) or not isinstance(other, Tensor):
        return one is None and other is None
    return one.shape == other.shape and bool((one - other).norm() <= CLOSE * one.norm())
