"""Configurations as typed values: models by name, and the defaults of a generation. YAML in, frozen values out."""

from collections.abc import Collection, Mapping
from copy import deepcopy
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, ValidationInfo, field_validator

from videoaccel.common.package import packaged
from videoaccel.common.reading import parse_yaml, read_text
from videoaccel.common.wording import short

Kind = Literal["models", "accel", "runs", "suites"]
Loaded = TypeVar("Loaded", bound=BaseModel)


def no_switch(value: Any, kind: Any) -> Any:
    """A value as it is, unless it is true or false, or a list with one in it, where no switch is meant.

    Left to itself pydantic reads true as 1, and YAML reads yes, no, on and off as true and false.

    Args:
        value: Of a field.
        kind: The field's annotation.

    Raises:
        ValueError: It is.
    """
    if "bool" in str(kind) or "Any" in str(kind):
        return value
    if isinstance(value, bool):
        raise ValueError(f"{str(value).lower()} is for switches only; a text needs quotes")
    if isinstance(value, list | tuple) and any(isinstance(one, bool) for one in value):
        wanted = "texts" if "str" in str(kind) else "numbers"
        raise ValueError(f"{wanted} are wanted, not true or false; got {value}")
    return value


class Config(BaseModel):
    """Base of all configurations: frozen, and an unknown field is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=(), allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _true_is_no_number(cls, value: Any, info: ValidationInfo) -> Any:
        return no_switch(value, cls.model_fields[str(info.field_name)].annotation)


class Defaults(Config):
    """What a model generates unless told otherwise; also stored in a pipeline's ``model_index.json``.

    Attributes:
        height: Pixels.
        width: Pixels.
        num_frames: Frames.
        fps: Frames per second.
        steps: Denoising steps.
        guidance: Scale of classifier-free guidance; 1 runs the conditional branch only.
        aes: Aesthetic score put behind the prompt; None for none.
        flow: Motion score, likewise.
        camera_motion: Camera motion, likewise.
        align: Latents to which references snap (the release: 5); None places them as told.
        condition_latents: Latents that a later loop takes over from the one before.
        dtype: Type of transformer and VAE.
        text_dtype: Type of the text encoder; the release runs it in float32.
    """

    height: int = Field(240, ge=1, le=99_999)
    width: int = Field(426, ge=1, le=99_999)
    num_frames: int = Field(51, ge=1, le=1_000_000)
    fps: float = Field(24, gt=0, le=1000)
    steps: int = Field(30, ge=1, le=1_000_000)
    guidance: float = Field(7.0, ge=0, allow_inf_nan=False)
    aes: float | None = 6.5
    flow: float | None = None
    camera_motion: str | None = None
    align: int | None = Field(5, ge=1, le=1_000_000)
    condition_latents: int = Field(5, ge=1, le=1_000_000)
    dtype: Literal["float32", "bfloat16", "float16"] = "bfloat16"
    text_dtype: Literal["float32", "bfloat16", "float16"] = "float32"


class Part(Config):
    """Where one network comes from.

    Attributes:
        source: A folder or a hub id.
        subfolder: Folder in it.
        network: What it is: file and class in ``models/``, as in ``latte.Latte``. None for Open-Sora's.
    """

    source: str
    subfolder: str | None = None
    network: str | None = None


class ModelSpec(Config):
    """A model that can run by name.

    Attributes:
        description: One line for ``videoaccel models``.
        folder: Pipeline folder inside the package; None if the parts below are given.
        transformer: Where the transformer comes from; its hub id names the whole model, too.
        vae: Where the video VAE comes from.
        text_encoder: Where text encoder and tokenizer come from; None for a model that reads classes.
        schedule: What latents are moved by: a velocity along a rectified flow, or predicted noise in the steps of DDIM,
            DDPM, DPM-Solver++ or a consistency model.
        scheduler: Fields of the scheduler.
        release: Class in the ``model_index.json`` of a release that has all these parts in one folder or repository.
        defaults: What it generates unless told otherwise.
    """

    description: str
    folder: str | None = None
    transformer: Part | None = None
    vae: Part | None = None
    text_encoder: Part | None = None
    schedule: Literal["rectified_flow", "ddim", "ddpm", "dpm_solver", "lcm"] = "rectified_flow"
    scheduler: dict[str, Any] = {}
    release: str | None = None
    defaults: Defaults = Defaults()


def settled(model: BaseModel, *, exclude: Collection[str] = ()) -> dict[str, Any]:
    """Fields as JSON has them, for hashes that have to stay: without those that came later and are at their defaults.

    A model names these in ``later``; whatever was hashed before they existed has the same hash still.
    """
    later = getattr(type(model), "later", ())
    at_default = {n for n in later if getattr(model, n) == type(model).model_fields[n].get_default()}
    return model.model_dump(mode="json", exclude={*exclude, *at_default})


def config_folder(kind: Kind) -> Path:
    """The folder with the configurations of one kind."""
    return packaged("configs", kind)


def config_names(kind: Kind) -> list[str]:
    """Names of all configurations of one kind."""
    return sorted(path.stem for path in config_folder(kind).glob("*.yaml"))


def require(value: Any, kind: type[Loaded], *, who: str) -> None:
    """Make sure that a function was given its settings, not something else that it might have been thought to take.

    Args:
        value: What was given.
        kind: The settings.
        who: The function, for the message.

    Raises:
        ValueError: It is something else.

    >>> require("a cat", Defaults, who="generate")
    Traceback (most recent call last):
    ValueError: generate takes settings, such as videoaccel.Defaults(...), got 'a cat'
    """
    if not isinstance(value, kind):
        raise ValueError(f"{who} takes settings, such as videoaccel.{kind.__name__}(...), got {short(value)}")


def load_named(kind: Kind, name: str, model: type[Loaded]) -> Loaded:
    """Load a configuration by name.

    Raises:
        ValueError: There is none of this name (lists those there are), or it is not valid.
    """
    path = config_folder(kind) / f"{name}.yaml"
    if name not in config_names(kind):
        raise ValueError(f"no {kind} configuration is called {name!r}; there are {', '.join(config_names(kind))}")
    return validate(model, read_yaml(path), source=str(path))


def read_yaml(path: Path) -> dict[str, Any]:
    """Read a YAML file that holds a mapping; an empty one is an empty mapping.

    Raises:
        ValueError: It is not valid YAML, gives a key twice or holds something else.
        OSError: There is no such file, or it cannot be read.
    """
    text = read_text(path, name=f"configuration file {path}")
    try:
        data = deepcopy(_parsed(text))
    except ValueError as error:
        raise ValueError(f"{path} is not valid YAML: {error}") from None
    if data is not None and not isinstance(data, dict):
        raise ValueError(f"{path} must hold names with values, found a {type(data).__name__}")
    return data or {}


@lru_cache(maxsize=64)
def _parsed(text: str) -> Any:
    """Of a text once: one command looks at every model's configuration several times, and YAML is read slowly."""
    return parse_yaml(text)


def validate(model: type[Loaded], data: Mapping[str, Any], *, source: str) -> Loaded:
    """Build a configuration; what is wrong is one sentence with the field and its value.

    Raises:
        ValueError: Names ``source``, the field, the value and what would work.
    """
    try:
        return model.model_validate(dict(data))
    except ValidationError as error:
        raise ValueError(f"{source}: " + "; ".join(_sentence(model, dict(item)) for item in error.errors())) from None


def _sentence(model: type[BaseModel], item: dict[str, Any]) -> str:
    field = ".".join(str(part)[:80] for part in item["loc"]) or "configuration"
    if item["type"] == "extra_forbidden":
        return f"unknown option {field!r}; there are {', '.join(model.model_fields)}"
    if item["type"] == "missing":
        return f"{field} is missing"
    message = item["msg"].removeprefix("Value error, ")
    return f"{field} = {short(item['input'])}: {message[0].lower()}{message[1:]}"
