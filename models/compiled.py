"""Compiles the parts of a network's modules, norm and modulation, mixing, gate and residual, and a VAE's decoders.

Whole networks are not compiled: a session decides module by module what runs, and a graph around its decisions would be
made anew whenever they change. The parts under the seam are the same few functions at every layer, in every step and
for every method and rank, so a handful of graphs serves all of them. Nothing decides inside of a decoder, so each is a
graph as a whole; its parts would need one for every width and resolution, more than Dynamo keeps of one function.

Shape legend: as in :mod:`videoaccel.models.seam`.
"""

from collections.abc import Hashable
from functools import cache
from typing import Any, cast

import torch
from diffusers.models.autoencoders.vae import Decoder
from torch import Tensor, nn

from videoaccel.models.forms import plain_form
from videoaccel.models.seam import Attend, attention
from videoaccel.models.temporal_vae import TemporalDecoder

PARTS = ("pre", "mix", "add")

DECODERS: tuple[type[nn.Module], ...] = (TemporalDecoder, Decoder)
"""Of VAEs: of chunks in time, and of pictures."""


def compile_branches(model: nn.Module, **options: Any) -> None:
    """From now on run the parts of a network's modules compiled; the first call of each compiles it.

    Two networks of one class share their graphs.

    Args:
        model: The network.
        **options: Of ``torch.compile``.
    """
    for module in model.modules():
        if all(hasattr(module, part) for part in PARTS) and not hasattr(module, "parts_are_compiled"):
            kind: Any = type(module)
            module.__class__ = _compiled(kind, tuple(sorted(options.items())))


def is_compiled(model: nn.Module) -> bool:
    """Whether any module of a network, or the network as a whole, runs compiled."""
    return _whole(model) or any(hasattr(module, "parts_are_compiled") for module in model.modules())


def _whole(model: nn.Module) -> bool:
    return getattr(model, "_compiled_call_impl", None) is not None


def is_new_to_network(model: nn.Module, call: Hashable, *, plain: bool) -> bool:
    """Whether a compiled network, in its present form, has not met such a call; from now on it has.

    Args:
        model: The network.
        call: What its graphs depend on besides its weights' type and its modules' forms: shapes, PyTorch's switches.
        plain: Whether no session runs in it; a graph of the whole network has the session's part in it, parts have not.
    """
    kinds = tuple(type(module) for module in model.modules())
    weights = {(weight.dtype, weight.device) for weight in model.parameters()}
    key = call, kinds, frozenset(weights), plain or not _whole(model)
    met: set[Hashable] = model.__dict__.setdefault("met", set())
    new = key not in met
    met.add(key)
    return new


def compile_decoders(vae: nn.Module, **options: Any) -> None:
    """From now on run a VAE's decoders compiled; the first call with a size compiles them for it.

    Args:
        vae: The VAE.
        **options: Of ``torch.compile``.
    """
    for module in vae.modules():
        if type(module) in DECODERS:
            kind: Any = type(module)
            module.__class__ = _compiled_decoder(kind, tuple(sorted(options.items())))
            cast(Any, module).met = set()


def is_new_to_decoders(vae: nn.Module, call: Hashable) -> bool:
    """Whether compiled decoders have not met such a call; from now on they have. False where none is compiled."""
    decoders: list[Any] = [module for module in vae.modules() if plain_form(module) in DECODERS]
    met: list[set[Hashable]] = [module.met for module in decoders if hasattr(module, "met")]
    new = any(call not in one for one in met)
    for one in met:
        one.add(call)
    return new


@cache
def _compiled_decoder(kind: type[nn.Module], options: tuple[tuple[str, Any], ...]) -> type[nn.Module]:
    body = {"forward": torch.compile(kind.forward, **dict(options)), "form_of": kind, "parts_are_compiled": True}
    return cast(type[nn.Module], type(kind.__name__, (kind,), {**body, "__module__": kind.__module__}))


@cache
def _compiled(kind: type[nn.Module], options: tuple[tuple[str, Any], ...]) -> type[nn.Module]:
    """A form with compiled parts; one for every class, so that all its layers share graphs."""
    pre, mix, add = (torch.compile(getattr(kind, part), **dict(options)) for part in PARTS)

    def mixed(self: Any, h: Tensor, cond: Any, *, attend: Attend = attention, **given: Any) -> Tensor:
        # A method's own function for attending may change from call to call, and the graph with it.
        run = mix if attend is attention else cast(Any, kind).mix
        return cast(Tensor, run(self, h, cond, attend=attend, **given))

    plain = getattr(kind, "form_of", kind)
    body = {"pre": pre, "pre_for_mix": pre, "mix": mixed, "add": add, "form_of": plain, "parts_are_compiled": True}
    return cast(type[nn.Module], type(kind.__name__, (kind,), {**body, "__module__": kind.__module__}))
