"""Where priors are kept and found: the user's cache, then what comes with the package."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from videoaccel.common.home import cache_folder
from videoaccel.common.package import packaged
from videoaccel.common.plain_files import check_plain
from videoaccel.common.user_warning import warn_user
from videoaccel.planning.prior import Prior, is_of_another, read_about, unlike, warn_of_version
from videoaccel.settings.tensor_heads import PRIOR, check_format

PART = ".part.safetensors"
"""How the names of priors end that are still being made; nothing is looked up in these."""


def shelf() -> list[Path]:
    """Folders in which priors are looked for: that of the user's cache, then that of the package."""
    return [cache_folder("priors"), packaged("assets", "priors")]


def find_prior(
    setting: Mapping[str, Any], *, folders: Sequence[Path] | None = None, foreign: bool = False
) -> Prior | None:
    """What was calibrated for exactly this setting, or None.

    Several priors of a setting may hold the tables of different methods: all are used, of equal tables the first.

    Args:
        setting: What is to be generated.
        folders: Where to look; default the shelf.
        foreign: Where there is none, take the nearest of the same model, interpolated.
    """
    found: Prior | None = None
    for path in _on_shelf(shelf() if folders is None else folders):
        try:
            check_plain(path)
            with safe_open(path, "pt") as file:
                made_for = read_about(path, file.metadata())["setting"]
            if unlike(made_for, setting) or is_of_another(made_for, setting):
                continue
            prior = Prior.load(path)
            warn_of_version(prior)
        except (OSError, SafetensorError, ValueError) as error:
            warn_user(f"a prior is passed over: {path}: {error}")
            continue
        if found is None:
            found = prior
        else:
            tables, samples = {**prior.tables, **found.tables}, {**prior.samples, **found.samples}
            found = Prior(found.setting, tables, samples, found.info, found.path)
    if found is None and foreign and (nearest := nearest_prior(setting)) is not None:
        return nearest.for_setting(setting, foreign=True)
    return found


def nearest_prior(setting: Mapping[str, Any]) -> Prior | None:
    """Of the same model and schedule, what was calibrated for the setting most like this one."""
    others = [prior for prior in priors_on_shelf() if not is_of_another(prior.setting, setting)]
    return min(others, key=lambda prior: len(prior.differences(setting)), default=None)


def advice(setting: Mapping[str, Any]) -> str:
    """What to say besides where there is no prior for a setting: what there is instead; empty if nothing is."""
    nearest = nearest_prior(setting)
    if nearest is None:
        return ""
    differences = ", ".join(nearest.differences(setting))
    return f"; the nearest prior was made for {differences}: `allow_foreign_prior` interpolates it"


def priors_on_shelf() -> Iterator[Prior]:
    """All that can be read."""
    for path in _on_shelf(shelf()):
        with suppress(OSError, SafetensorError, ValueError):  # find_prior has said so
            yield Prior.load(path)


def settings_on_shelf() -> list[Mapping[str, Any]]:
    """What the priors there are were made for; those that cannot be read are passed over."""
    found: list[Mapping[str, Any]] = []
    for path in _on_shelf(shelf()):
        with suppress(OSError, ValueError):
            found.append(check_format(path, PRIOR, what="no prior").get("setting") or {})
    return found


def _on_shelf(folders: Sequence[Path]) -> Iterator[Path]:
    for folder in folders:
        names = folder.glob("*.safetensors")
        yield from sorted(path for path in names if not path.name.endswith(PART) and not path.name.startswith("."))
