"""For what a pipeline's calibration holds: its networks, its scheduler, and the arguments of the call that count."""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from videoaccel.adapters.attach import modules_of, networks_of, schedulers_of
from videoaccel.adapters.call_kinds import is_open, numbers_of_call, numbers_of_pipe
from videoaccel.adapters.swap import original
from videoaccel.models.fingerprint import Fingerprints
from videoaccel.models.network_config import config_differences, configuration
from videoaccel.settings.tensor_heads import NETWORK

BESIDE = ("controlnet", "adapter")
"""Names of networks whose outputs go into a denoiser: ControlNets and T2I adapters. IP adapters are parts of it."""

FREE_U = ("s1", "s2", "b1", "b2")
"""What FreeU writes into a UNet's blocks."""

FATAL = ("model", "scheduler", "dtype")
"""What must be the same even where a foreign prior is allowed."""


class Identities:
    """Who a pipeline's networks are, hashed anew only where a sample of the weights differs.

    Hashing takes a while, and a pipeline is called often. Counters of writes do not do: adapters are merged through
    ``.data``, which counts nothing.
    """

    def __init__(self) -> None:
        self._prints = Fingerprints()

    def of(self, pipe: Any) -> str:
        """One hash for all networks: names, classes, weights, and what is switched on in them."""
        whole = hashlib.sha256()
        for name, plain in _networks(pipe).items():
            identity = _identity(plain, self._prints) + _switches(plain)
            whole.update(f"{name} {original(type(plain)).__name__} {identity}\n".encode())
        return whole.hexdigest()


def _networks(pipe: Any) -> dict[str, Any]:
    """All whose outputs decide how a generation goes, by name."""
    found = networks_of(pipe) | modules_of(pipe, BESIDE)
    return {name: getattr(network, "_orig_mod", network) for name, network in found.items()}  # a compiled one holds it


def _identity(network: Any, prints: Fingerprints) -> str:
    """Of a network's weights; by its configuration and shapes where the weights are not there to be looked at.

    Offloaded ones may be elsewhere until they are needed, and quantised ones may be of types that cannot be sampled.
    """
    try:
        return prints.of(network)
    except (RuntimeError, NotImplementedError, TypeError):
        config = {**(getattr(network, "config", None) or {})}
        shapes = [(name, list(parameter.shape)) for name, parameter in sorted(network.named_parameters())]
        return hashlib.sha256(json.dumps([config, shapes], sort_keys=True, default=str).encode()).hexdigest()


def _switches(network: Any) -> str:
    """Which adapters of a network are on, how far, and FreeU: weights do not tell. Empty where there are none."""
    told = []
    for name, module in network.named_modules():
        processor = module._modules.get("processor") or vars(module).get("processor")
        if (scale := getattr(processor, "scale", None)) is not None:  # of IP adapters
            told.append(f"{name} {scale}")
        if any(vars(module).get(one) is not None for one in FREE_U):
            told.append(f"{name} {[vars(module).get(one) for one in FREE_U]}")
        scaling = getattr(module, "scaling", None)
        if isinstance(scaling, Mapping) and hasattr(module, "active_adapters"):
            off = bool(getattr(module, "disable_adapters", False))
            on = [] if off else [(one, scaling.get(one)) for one in module.active_adapters]
            told.append(f"{name} {on}")
    return hashlib.sha256("\n".join(told).encode()).hexdigest() if told else ""


def setting_of_call(pipe: Any, arguments: Mapping[str, Any], *, identities: Identities | None = None) -> dict[str, Any]:
    """What a prior for this call must have been made for.

    Args:
        pipe: The pipeline.
        arguments: Of the call, by name, those that were left out with their defaults. Numbers, switches and sizes
            count, see :mod:`videoaccel.adapters.call_kinds`; texts and pictures are what the errors are means over.
        identities: Of networks that were looked at before.

    Returns:
        Hashes, configurations, the scheduler, numbers of the call. Where the call leaves the size open, ``latents`` is
        None until :func:`with_latents` says what was seen.
    """
    counted = {**numbers_of_call(arguments), **numbers_of_pipe(pipe)}
    return {
        **({"latents": None} if is_open(arguments) else {}),
        "model": (identities or Identities()).of(pipe),
        NETWORK: {
            f"{name}.{field}": value
            for name, network in _networks(pipe).items()
            for field, value in configuration(network).items()
        },
        "scheduler": "; ".join(map(_scheduler, schedulers_of(pipe))),
        "dtype": ", ".join(sorted({str(_dtype(network)) for network in networks_of(pipe).values()})),
        "call": dict(sorted(counted.items())),
    }


def with_latents(setting: Mapping[str, Any], size: str) -> dict[str, Any]:
    """A setting with the size of the latents, as ``4x64x64``, if its call has left that open."""
    return {**setting, **({"latents": size} if "latents" in setting else {})}


def differences(made_for: Mapping[str, Any], setting: Mapping[str, Any]) -> list[str]:
    """In what a prior's setting differs from another, as "num_frames 81, here 49"; of another model nothing else."""
    found = [f"another {name}" for name in FATAL if made_for.get(name) != setting.get(name)]
    if found[:1] == ["another model"]:
        return found[:1]
    found += config_differences(made_for.get(NETWORK), setting.get(NETWORK))
    sizes = made_for.get("latents"), setting.get("latents")
    if None not in sizes and sizes[0] != sizes[1]:
        found.append(f"latents {sizes[0]}, here {sizes[1]}")
    was, now = made_for.get("call") or {}, setting["call"]
    return found + [f"{k} {was.get(k)}, here {now.get(k)}" for k in sorted({*was, *now}) if was.get(k) != now.get(k)]


def is_of_another(made_for: Mapping[str, Any], setting: Mapping[str, Any]) -> bool:
    """Whether a prior is not to be had even as a foreign one: of other networks, another schedule or type."""
    unlike = any(made_for.get(name) != setting.get(name) for name in FATAL)
    return unlike or bool(config_differences(made_for.get(NETWORK), setting.get(NETWORK)))


def _scheduler(scheduler: Any) -> str:
    config = {key: value for key, value in dict(scheduler.config).items() if not key.startswith("_")}
    return f"{original(type(scheduler)).__name__} {json.dumps(config, sort_keys=True, default=str)}"


def _dtype(network: Any) -> Any:
    return next((parameter.dtype for parameter in network.parameters()), None)
