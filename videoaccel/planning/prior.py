"""Calibrated errors of a model, in a file: what may be served when, and how much that costs in quality.

A prior holds no times: it can be made on one machine and used on another. Tables are means over samples, so that priors
of several runs or machines can be merged.

Shape legend: N steps, M module sites, K shares of columns, A ages (1 to A), G gaps.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from videoaccel import __version__
from videoaccel.common.files import atomic_write_bytes
from videoaccel.common.home import expand
from videoaccel.common.plain_json import parse_json, taken_for
from videoaccel.common.tensor_files import tensors_of
from videoaccel.common.user_warning import warn_user
from videoaccel.common.wording import first_line
from videoaccel.models.fingerprint import fingerprint
from videoaccel.models.network_config import config_differences, configuration
from videoaccel.planning.fitted import PREFIX
from videoaccel.planning.prior_tables import check_tables
from videoaccel.settings.tensor_heads import NETWORK, PRIOR

FORMAT = PRIOR

KINDS, PIPELINE = "kind", "pipeline"
"""In ``info``, what a prior of a pipeline that is not ours says; one of our own models says nothing."""

MUST_MATCH = ("model", "scheduler", "steps", "size", "frames", "guidance", "dtype")
MOST = 10**9
"""A number of a prior that is as large is none."""


MAY_DIFFER = ("steps", "size", "frames", "guidance", "dtype")
"""Fields in which a foreign prior may differ on request; another model or scheduler is never accepted."""


@dataclass(frozen=True)
class Prior:
    """Calibrated tables and what they hold for.

    Attributes:
        setting: Model hash, the network's configuration, scheduler, steps, size, frames, guidance, dtype.
        tables: By name, averaged over samples, float32.
        samples: Samples behind each table.
        info: Versions and prompts, for people; which samples are in it, for merging.
        path: Where it was read from.
    """

    setting: Mapping[str, Any]
    tables: Mapping[str, Tensor] = field(repr=False)
    samples: Mapping[str, int]
    info: Mapping[str, Any] = field(default_factory=dict, repr=False)
    path: Path | None = field(default=None, compare=False)

    def save(self, path: str | Path) -> None:
        """Write a safetensors file whole or not at all.

        Raises:
            OSError: The folder is not there or cannot be written, or the disk is full.
        """
        about = {"setting": self.setting, "samples": self.samples, "info": self.info}
        data = save(
            {name: table.float().contiguous() for name, table in self.tables.items()},
            {"format": FORMAT, "about": json.dumps(about, sort_keys=True)},
        )
        atomic_write_bytes(path, data)

    @classmethod
    def load(cls, path: str | Path) -> "Prior":
        """Read a prior.

        Raises:
            FileNotFoundError: It is not there.
            ValueError: It is none.
        """
        path = prior_file(path)
        try:
            with safe_open(path, "pt") as file:
                about = read_about(path, file.metadata())
                tables = tensors_of(file)
        except (SafetensorError, OSError) as error:
            raise ValueError(f"{path} is no prior: {first_line(error)}") from None
        if uncounted := tables.keys() - about["samples"].keys():
            raise ValueError(f"{path} is a prior that is damaged: of {min(uncounted)} it has no number of samples")
        check_tables(tables, about["setting"], source=path)
        return cls(about["setting"], tables, about["samples"], about["info"], path)

    @classmethod
    def given(cls, prior: "Prior | str | Path | None") -> "Prior | None":
        """What was given for a prior: that, or what its file holds.

        Raises:
            FileNotFoundError: The file is not there.
            ValueError: It is neither a prior nor a file of one.
        """
        if prior is None or isinstance(prior, cls):
            return prior
        if not isinstance(prior, str | Path):
            raise ValueError(f"a prior is a videoaccel.Prior or the name of its file, got {prior!r}")
        return cls.load(prior)

    def differences(self, setting: Mapping[str, Any]) -> list[str]:
        """In what the prior's setting differs from another, as "steps 30, here 20"."""
        return [
            *(
                f"{name} {_short(self.setting.get(name))}, here {_short(setting.get(name))}"
                for name in unlike(self.setting, setting)
            ),
            *config_differences(self.setting.get(NETWORK), setting.get(NETWORK)),
        ]

    def for_setting(self, setting: Mapping[str, Any], *, foreign: bool = False) -> "Prior":
        """The prior as it may be used for a setting.

        Args:
            setting: What is to be generated.
            foreign: Accept other steps, size, frames, guidance or dtype: tables by step are interpolated in
                normalised time.

        Raises:
            ValueError: It was made for something else; says in what it differs.
        """
        warn_of_version(self)
        differences = self.differences(setting)
        if not differences:
            return self
        fatal = is_of_another(self.setting, setting)
        if fatal or not foreign:
            advice = "" if fatal else "; calibrate for this setting, or allow a foreign prior to interpolate"
            raise ValueError(f"the prior was made for {', '.join(differences)}{advice}")
        old, new = int(self.setting["steps"]), int(setting["steps"])
        kept = {name: table for name, table in self.tables.items() if old == new or not name.startswith(PREFIX)}
        tables = {name: resample(table, old, new) for name, table in kept.items()}
        return Prior(dict(setting), tables, self.samples, {**self.info, "interpolated": differences}, self.path)

    def _fitted_on(self) -> int:
        """On how many samples steps were fitted; what belongs to a fit stays together."""
        return max((count for name, count in self.samples.items() if name.startswith(PREFIX)), default=0)

    def merged(self, other: "Prior") -> "Prior":
        """Both together: means weighted by their samples; of steps that were fitted, those of more samples.

        Raises:
            ValueError: They were made for different settings, or a table's shape differs.
        """
        if differences := self.differences(other.setting):
            raise ValueError(f"priors of different settings do not merge: {', '.join(differences)}")
        tables, samples = dict(self.tables), dict(self.samples)
        info = _joined(self.info, other.info)
        fits = max((self, other), key=Prior._fitted_on)  # the first of equal ones
        for name in [name for name in tables if name.startswith(PREFIX)]:
            del tables[name], samples[name]
        for name in [name for name in fits.tables if name.startswith(PREFIX)]:
            tables[name], samples[name] = fits.tables[name], fits.samples[name]
        if "fitted" in fits.info:
            info["fitted"] = fits.info["fitted"]
        for name, table in other.tables.items():
            count = other.samples[name]
            if name.startswith(PREFIX):
                continue
            if name not in tables:
                tables[name], samples[name] = table, count
                continue
            if tables[name].shape != table.shape:
                raise ValueError(
                    f"table {name} is {list(tables[name].shape)} in one prior and {list(table.shape)} in the other"
                )
            tables[name] = (tables[name] * samples[name] + table * count) / (samples[name] + count)
            samples[name] += count
        return Prior({**other.setting, **self.setting}, tables, samples, info)


def unlike(made_for: Mapping[str, Any], setting: Mapping[str, Any]) -> list[str]:
    """Fields of a prior's setting that have other values in another; the network's configuration apart."""
    return [name for name in MUST_MATCH if made_for.get(name) != setting.get(name)]


def is_of_another(made_for: Mapping[str, Any], setting: Mapping[str, Any]) -> bool:
    """Whether a prior is one of another network or schedule, which nothing makes good."""
    other = not set(unlike(made_for, setting)) <= set(MAY_DIFFER)
    return other or bool(config_differences(made_for.get(NETWORK), setting.get(NETWORK)))


def merge(priors: Sequence[Prior]) -> Prior:
    """All together."""
    first, *rest = priors
    for prior in rest:
        first = first.merged(prior)
    return first


def setting_of(
    model: nn.Module, schedule: Any, *, steps: int, size: tuple[int, int], frames: int, guidance: float
) -> dict[str, Any]:
    """What a prior is made for.

    Args:
        model: The transformer, whose weights and configuration count.
        schedule: Its scheduler, whose configuration counts.
        steps: N.
        size: Height and width in pixels.
        frames: Of the clip.
        guidance: Scale.
    """
    config = {key: value for key, value in dict(schedule.config).items() if not key.startswith("_")}
    return {
        "model": fingerprint(model),
        NETWORK: configuration(model),
        "scheduler": f"{type(schedule).__name__} {json.dumps(config, sort_keys=True, default=str)}",
        "steps": steps,
        "size": list(size),
        "frames": frames,
        "guidance": float(guidance),
        "dtype": str(next(model.parameters()).dtype).removeprefix("torch."),
    }


def prior_file(path: str | Path) -> Path:
    """The file of a prior.

    Raises:
        FileNotFoundError: It is not there.
    """
    if not (found := expand(path)).is_file():
        raise FileNotFoundError(f"there is no prior {path}; videoaccel calibrate makes one")
    return found


def resample(table: Tensor, old: int, new: int) -> Tensor:
    """Interpolate a table [old steps, ...] linearly to ``new`` steps; other tables stay.

    What is infinite (not possible) at one of the two steps that a new one lies between is infinite there, too.
    """
    if old == new or table.ndim == 0 or table.shape[0] != old:
        return table
    at = torch.linspace(0, old - 1, new)
    low = at.floor().long().clamp(max=old - 1)
    high = (low + 1).clamp(max=old - 1)
    weight = (at - low).view(-1, *[1] * (table.ndim - 1))
    between = torch.lerp(table[low], table[high], weight)
    # lerp makes NaN of what is infinite.
    endless = table[low].isinf() | (table[high].isinf() & (weight > 0))
    return torch.where(endless, torch.inf, torch.where(weight > 0, between, table[low]))


def warn_of_version(prior: Prior) -> None:
    """Say that another version made a prior."""
    made = prior.info.get("videoaccel")
    if made is not None and made != __version__:
        warn_user(f"the prior was made by videoaccel {made}, this is {__version__}")


def read_about(path: Path, metadata: Mapping[str, str] | None) -> dict[str, Any]:
    """What a file of a prior says of it: setting, samples, info.

    Args:
        path: The file, as it is named where it is none.
        metadata: Of its head.

    Raises:
        ValueError: It is none, or damaged.
    """
    if not metadata or metadata.get("format") != FORMAT:
        raise ValueError(f"{path} is no prior of this version (format {FORMAT})")
    with taken_for("a prior", path):
        about: dict[str, Any] = parse_json(metadata["about"])
        setting, samples, info = about["setting"], about["samples"], about["info"]
        numbers = [*samples.values(), *setting.get("size", ())]
        numbers += [setting[name] for name in ("steps", "frames") if name in setting]  # a diffusers pipeline's has none
        if not all(isinstance(number, int) and 0 < number < MOST for number in numbers):
            raise ValueError("steps, size, frames and samples are whole numbers above 0")
        if not all(isinstance(setting[name], str) for name in ("model", "scheduler", "dtype")):
            raise ValueError("model, scheduler and dtype are texts")
        if not (isinstance(info, dict) and all(isinstance(setting.get(name, {}), dict) for name in ("call", NETWORK))):
            raise ValueError("info and call have names")
        for _seed, _prompt in info.get("samples", ()):
            pass
    return about


def _joined(one: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, Any]:
    """Lists one behind the other; of all else the first."""
    lists = {
        name: [*one.get(name, []), *value]
        for name, value in other.items()
        if isinstance(value, list) and isinstance(one.get(name, []), list)
    }
    return {**other, **one, **lists}


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 24 else f"{text[:12]}..."
