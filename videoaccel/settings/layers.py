"""Settings from several places, put together: the command line over a file over what a clip was made with.

Like :mod:`videoaccel.settings.generate`, it needs no torch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from videoaccel.common.reading import parse_yaml
from videoaccel.settings.generate import TARGETS, GenerateSettings
from videoaccel.settings.refused import made_of, nearest

# What a later layer says replaces its alternatives in the layers before it.
_REPLACES: Mapping[str, tuple[str, ...]] = {
    "size": ("resolution", "aspect"),
    "resolution": ("size",),
    "aspect": ("size",),
    "images": ("video", "extend", "edit", "references", "mask_strategy"),
    "video": ("images", "references", "mask_strategy"),
    "references": ("images", "video", "extend", "edit", "mask_strategy"),
    "mask_strategy": ("extend", "edit"),
    "extend": ("edit", "mask_strategy"),
    "edit": ("extend", "mask_strategy"),
    "seed": ("seeds", "keep"),
    "samples": ("seeds", "keep"),
    **{name: tuple(other for other in TARGETS if other != name) for name in TARGETS},
    "prompt": ("keep", "vbench"),
    "vbench": ("prompt", "keep", "seeds", "contact_sheet", "explain"),
    "gpus": ("dp", "cfg_parallel", "sp"),
    "offload": ("group_offload",),
    "group_offload": ("offload",),
}


@dataclass(frozen=True)
class Layer:
    """Settings from one place.

    Attributes:
        values: By field.
        spell: What a field is called there, for error messages: ``--frames``, ``run.yaml: frames``.
    """

    values: Mapping[str, Any]
    spell: Callable[[str], str] = str


def merge(layers: Sequence[Layer]) -> GenerateSettings:
    """One value from several layers; later ones win.

    Raises:
        ValueError: A field is unknown (names the nearest known ones) or a value wrong, in one sentence.
    """
    values: dict[str, Any] = {}
    spelled: dict[str, str] = {}
    for layer in layers:
        for name in layer.values:
            if name not in GenerateSettings.model_fields:
                raise ValueError(f"{layer.spell(name)}: {unknown(name, list(GenerateSettings.model_fields))}")
        replaced = {other for name in layer.values for other in _REPLACES.get(name, ())}
        values = {name: value for name, value in values.items() if name not in replaced}
        values |= layer.values
        spelled |= {name: layer.spell(name) for name in layer.values}
    return made_of(GenerateSettings, values, spelled=spelled)


def unknown(name: str, known: Sequence[str]) -> str:
    """What to say about a name that is none of the known ones.

    >>> unknown("step", ["steps", "seed"])
    "unknown option 'step'; did you mean steps? videoaccel generate --help lists all"
    """
    guess = nearest(name, known)
    return f"unknown option {name!r}{f'{guess}?' if guess else ';'} videoaccel generate --help lists all"


def assignments(items: Sequence[str], *, of: str = "--set") -> dict[str, Any]:
    """The values of ``a=1``, ``a.b=c``: YAML behind the equals sign, dots for values inside values.

    What begins with @ is a text, as the name of a file.

    Args:
        items: As typed.
        of: The option that they were given to, for messages.

    Raises:
        ValueError: There is no equals sign, or the value is not YAML.

    >>> assignments(["steps=10", "scheduler.base_size=64", "size=64x64"])
    {'steps': 10, 'scheduler': {'base_size': 64}, 'size': '64x64'}
    """
    values: dict[str, Any] = {}
    for item in items:
        path, equals, text = item.partition("=")
        if not (equals and path.strip()):
            raise ValueError(f"{of} takes name=value, got {item!r}")
        try:
            value = text if text.startswith("@") else parse_yaml(text)
        except ValueError as error:
            raise ValueError(f"{of} {path}: {text!r} is not valid YAML ({error}); put quotes around a text") from None
        *parents, last = path.strip().split(".")
        inside = values
        for parent in parents:
            inside = inside.setdefault(parent, {})
            if not isinstance(inside, dict):
                raise ValueError(f"{of} {path}: {parent} has a value already, {inside!r}")
        inside[last] = value
    return values
