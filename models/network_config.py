"""How a network's weights are used, as its configuration says: part of what a prior holds for.

The same weights make something else with other heads, another epsilon or positions of another size, and a hash of them
does not tell.
"""

import inspect
import json
from collections.abc import Mapping
from typing import Any, NamedTuple

from torch import nn

from videoaccel.models.fingerprint import fingerprint

UNSAID = "its default"

IN_TRAINING = "dropout"
"""What is in the names of fields that change nothing afterwards."""


class NetworkIdentity(NamedTuple):
    """Which network something was made for.

    Attributes:
        weights: Their hash, see :func:`videoaccel.models.fingerprint.fingerprint`.
        config: As :func:`configuration` has it; None if it is not known.
    """

    weights: str
    config: Mapping[str, Any] | None = None

    def differences(self, now: "NetworkIdentity") -> list[str]:
        """In what another network differs: nothing for the same one."""
        if self.weights != now.weights:
            return [f"model {self.weights[:12]}, this is {now.weights[:12]}"]
        return config_differences(self.config, now.config)


def identity_of(model: nn.Module) -> NetworkIdentity:
    """Which network a model is."""
    return NetworkIdentity(fingerprint(model), configuration(model))


def configuration(network: Any) -> dict[str, Any]:
    """Fields of a network's configuration that are not their defaults, as a file keeps them; empty where there is none.

    A field that a later version brings is left out as long as nobody sets it, so that priors stay good. What a
    configuration holds besides its class's own fields is bookkeeping.
    """
    config = getattr(network, "config", None)
    if not isinstance(config, Mapping):
        return {}
    found = {}
    for name, parameter in inspect.signature(type(network).__init__).parameters.items():
        if name in config and IN_TRAINING not in name:
            value, usual = _kept(config[name]), parameter.default
            if usual is inspect.Parameter.empty or value != _kept(usual):
                found[name] = value
    return dict(sorted(found.items()))


def config_differences(was: Mapping[str, Any] | None, now: Mapping[str, Any] | None) -> list[str]:
    """In what two configurations differ; nothing where one is not known, as of a prior that was made without.

    >>> config_differences({"heads": 8}, {"eps": 1e-05}), config_differences(None, {"eps": 1e-05})
    (["the network's eps its default, here 1e-05", "the network's heads 8, here its default"], [])
    """
    if was is None or now is None:
        return []
    names = sorted(name for name in {*was, *now} if was.get(name, UNSAID) != now.get(name, UNSAID))
    return [f"the network's {name} {was.get(name, UNSAID)}, here {now.get(name, UNSAID)}" for name in names]


def _kept(value: Any) -> Any:
    """As it comes out of a file."""
    return json.loads(json.dumps(value, default=str))
