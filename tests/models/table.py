"""The table of networks: what every model's seam and layout tests go through. A new model is a row."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

from torch import Tensor

from tests.models.image_networks import TOLD, dit_inputs, pixart_inputs, tiny_dit, tiny_pixart
from tests.models.image_straight import straight_dit, straight_pixart
from tests.models.latte_networks import latte_inputs, tiny_latte
from tests.models.latte_straight import straight_latte
from tests.models.networks import stdit_inputs, tiny_stdit
from tests.models.straight import straight_forward


@dataclass(frozen=True)
class Row:
    """One network.

    Attributes:
        make: The network with so many pairs of blocks, or blocks of space alone.
        inputs: Keyword arguments of a pass over a latent of this size.
        straight: The pass without the seam.
        shared: Inputs that ``prepare`` takes.
        kinds: Modules of a block by axis, in their order.
        passes: Options of ``inputs`` for the comparison with ``straight``.
        frames: Of a latent that it takes.
    """

    make: Callable[[int], Any]
    inputs: Callable[..., dict[str, Any]]
    straight: Callable[..., Tensor]
    shared: tuple[str, ...]
    kinds: Mapping[str, tuple[str, ...]]
    passes: tuple[dict[str, Any], ...]
    frames: int = 4


def _passes(**choices: Sequence[Any]) -> tuple[dict[str, Any], ...]:
    return tuple(dict(zip(choices, chosen, strict=True)) for chosen in product(*choices.values()))


NETWORKS = {
    "stdit": Row(
        make=lambda depth: tiny_stdit(depth=depth),
        inputs=stdit_inputs,
        straight=straight_forward,
        shared=("y", "mask", "fps", "height", "width"),
        kinds={"space": ("attn", "cross", "mlp"), "time": ("attn", "cross", "mlp")},
        passes=_passes(
            size=[(1, 4, 4), (3, 7, 9), (5, 8, 8), (2, 3, 10)],
            given=[True, False],
            lengths=[(4, 9), (5, 5), None],
        ),
    ),
    "latte": Row(
        make=lambda depth: tiny_latte(num_layers=depth),
        inputs=latte_inputs,
        straight=straight_latte,
        shared=("y", "mask"),
        kinds={"space": ("attn", "cross", "mlp"), "time": ("attn", "mlp")},
        passes=_passes(
            size=[(1, 4, 4), (1, 8, 6), (4, 6, 10), (4, 8, 8)],
            temporal=[True, False],
            lengths=[(4, 9), (5, 5), None],
        ),
    ),
    "dit": Row(
        make=lambda depth: tiny_dit(num_layers=depth),
        inputs=dit_inputs,
        straight=straight_dit,
        shared=("y",),
        kinds={"space": ("attn", "mlp")},
        passes=_passes(size=[(1, 4, 4), (1, 8, 8), (1, 6, 10)], batch=[1, 3]),
        frames=1,
    ),
    "pixart": Row(
        make=lambda depth: tiny_pixart(num_layers=depth, **TOLD),
        inputs=pixart_inputs,
        straight=straight_pixart,
        shared=("y", "mask", "height", "width"),
        kinds={"space": ("attn", "cross", "mlp")},
        passes=_passes(size=[(1, 4, 4), (1, 8, 8), (1, 6, 10)], lengths=[(4, 9), (5, 5), None]),
        frames=1,
    ),
}
