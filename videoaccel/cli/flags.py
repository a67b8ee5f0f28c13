"""Settings as the command line spells them."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping
from typing import Any

from videoaccel.settings.generate import GenerateSettings

_NAMED = re.compile(r"`([a-z_]+)(?:=([^`]*))?`")


def shown(name: str) -> Mapping[str, Any]:
    """What a field says of its option: panel, flag, metavar."""
    extra = GenerateSettings.model_fields[name].json_schema_extra
    assert isinstance(extra, dict)
    return extra


def flag(name: str) -> str:
    """What a user types for a setting, of generate or of another command.

    >>> flag("mask_strategy"), flag("images"), flag("scheduler"), flag("prompt"), flag("fit_samples")
    ('--mask-strategy', '--image', '--set scheduler', 'PROMPT', '--fit-samples')
    """
    if name not in GenerateSettings.model_fields:
        return f"--{name.replace('_', '-')}"
    own = str(shown(name)["flag"])
    if name == "prompt":
        return "PROMPT"
    if own == "-":  # has no option of its own
        return f"--set {name}"
    return own if own.startswith("--") else f"--{name.replace('_', '-')}"


def spelled(message: str) -> str:
    """A message with the settings in it, which it names in backticks, as options.

    >>> spelled("`extend` needs a clip, such as `video=my clip.mp4`; `nothing` is no setting")
    "--extend needs a clip, such as --video 'my clip.mp4'; `nothing` is no setting"
    """
    return _NAMED.sub(_option, message)


def _option(found: re.Match[str]) -> str:
    name, value = found.groups()
    if name not in GenerateSettings.model_fields:
        return found[0]
    return flag(name) if value is None else f"{flag(name)} {shlex.quote(value)}"
