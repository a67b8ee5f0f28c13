"""Reading weights and configurations strictly: what does not fit is an error that names the file and the key."""

import inspect
import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from typing_extensions import Self

from videoaccel.common.plain_json import read_json
from videoaccel.common.wording import first_line, short
from videoaccel.models.config_limits import check_config
from videoaccel.models.weights import (
    WEIGHT_FILES,
    bytes_of,
    check_pointer,
    find_weights,
    read_state,
    shards_of,
    without_prefix,
)

# Bookkeeping that transformers and diffusers write into every config.json; none of it shapes a network.
BOOKKEEPING = frozenset({"architectures", "auto_map", "model_type", "torch_dtype", "dtype", "transformers_version"})
_SHOWN = 5


def load_strictly(model: nn.Module, state: Mapping[str, Tensor], *, source: Path | str) -> None:
    """Load ``state`` into ``model``; every key must be there, none too many, all of the right shape.

    Raises:
        ValueError: Names ``source``, the keys, and for a misshapen one both shapes.
    """
    own = model.state_dict()
    problems = []
    if missing := sorted(own.keys() - state.keys()):
        problems.append(f"missing {_some([f'{key} {list(own[key].shape)}' for key in missing])}")
    if extra := sorted(state.keys() - own.keys()):
        problems.append(f"unexpected {_some([f'{key} {list(state[key].shape)}' for key in extra])}")
    wrong = [key for key in own.keys() & state.keys() if own[key].shape != state[key].shape]
    if wrong:
        shapes = [f"{key} is {list(state[key].shape)}, the model has {list(own[key].shape)}" for key in sorted(wrong)]
        problems.append(f"misshapen {_some(shapes)}")
    if problems:
        raise ValueError(f"{source} does not fit {type(model).__name__}: {'; '.join(problems)}")
    model.load_state_dict(dict(state), strict=True)


def _some(items: list[str]) -> str:
    rest = len(items) - _SHOWN
    return ", ".join(items[:_SHOWN]) + (f" and {rest} more" if rest > 0 else "")


class StrictLoading:
    """Mixin over diffusers' ``ModelMixin``: ``from_pretrained`` and ``build`` that refuse what does not fit.

    diffusers itself only warns about missing keys and unknown configuration fields.
    """

    #: Fields of released configurations that choose kernels or concern training, and change nothing here.
    ignored_fields: frozenset[str] = frozenset()

    @classmethod
    def translate_config(cls, config: dict[str, Any]) -> dict[str, Any]:
        """Turn a released configuration into this class's own fields; the identity unless overridden."""
        return config

    @classmethod
    def translate_state(cls, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """Give the weights of a released file this class's own names; the identity unless overridden."""
        return state

    @classmethod
    def build(cls, config: Mapping[str, Any], *, source: Path | str = "the configuration") -> Self:
        """Make the network from a configuration, with random weights.

        Raises:
            ValueError: Names ``source`` and the field that is unknown or has an impossible value.
        """
        ignored = cls.ignored_fields | BOOKKEEPING
        given = {key: value for key, value in config.items() if key not in ignored and not key.startswith("_")}
        fields = cls.translate_config(given)
        check_config(fields, source=source)
        known = [name for name in inspect.signature(cls.__init__).parameters if name != "self"]
        if unknown := sorted(fields.keys() - set(known)):
            raise ValueError(
                f"{source}: unknown field {short(unknown[0])} for {cls.__name__}; known are {', '.join(known)}"
            )
        try:
            return cls(**fields)
        except (TypeError, ValueError, ZeroDivisionError, RuntimeError, AttributeError) as error:
            raise ValueError(f"{source}: {cls.__name__} cannot be built: {first_line(error)}") from error

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str | Path,
        *,
        subfolder: str | None = None,
        dtype: torch.dtype | None = None,
        **hub: Any,
    ) -> Self:
        """Load configuration and weights from a folder or a hub repository.

        Args:
            pretrained_model_name_or_path: A folder with ``config.json`` and weights (`find_weights`), or a hub id.
            subfolder: Folder inside it.
            dtype: Cast the network to this type.
            **hub: ``revision``, ``cache_dir``, ``token``, ``local_files_only`` for a hub id; ``variant`` of weights;
                ``torch_dtype``, an older name of ``dtype``. Other keywords with which diffusers calls model classes
                are of no concern here.

        Raises:
            ValueError: Configuration or weights do not fit; names the file, the key or field, and both shapes.
            FileNotFoundError: No such folder or repository, no configuration or no weights in it.
        """
        folder = _local_folder(pretrained_model_name_or_path, subfolder, hub)
        config = read_config(folder / "config.json")
        weights = find_weights(folder, variant=hub.get("variant"))
        check_pointer(weights)  # before its size is taken for that of the weights
        cls._check_size(config, folder / "config.json", weights)
        with NoInitialValues():
            model = cls.build(config, source=folder / "config.json")
        assert isinstance(model, nn.Module)
        own = model.state_dict().keys()
        state = without_prefix(
            read_state(weights), fits=lambda given: cls.translate_state(given).keys() == own, source=weights
        )
        load_strictly(model, cls.translate_state(state), source=weights)
        dtype = dtype or hub.get("torch_dtype")
        if dtype is not None:
            model.to(dtype)
        return model.eval()

    @classmethod
    def _check_size(cls, config: Mapping[str, Any], source: Path, weights: Path) -> None:
        """Refuse a configuration of more weights than the file has bytes before memory is asked for.

        Raises:
            ValueError: Names ``source`` and both numbers.
        """
        with torch.device("meta"):
            model = cls.build(config, source=source)
        assert isinstance(model, nn.Module)
        wanted = sum(value.numel() for value in model.state_dict().values())
        size = bytes_of(weights)
        if wanted > size:
            raise ValueError(f"{source} makes a network of {wanted:,} numbers, and {weights} has {size:,} bytes")

    def to(self, *args: Any, **kwargs: Any) -> Self:
        """Move or cast, as every module does."""
        with _no_empty_warning():
            return super().to(*args, **kwargs)  # type: ignore[misc]


class NoInitialValues(TorchFunctionMode):
    """Layers made inside draw no initial values, which the weights of a file replace: a billion draws take seconds."""

    def __torch_function__(
        self, func: Any, types: Sequence[type], args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Pass everything on but functions of ``torch.nn.init``."""
        given = kwargs or {}
        if getattr(func, "__module__", None) == "torch.nn.init":
            return given["tensor"] if "tensor" in given else args[0]
        return func(*args, **given)


@contextmanager
def _no_empty_warning() -> Iterator[None]:
    """Keep diffusers from warning, at every cast, of modules to keep in float32 where it knows of none."""

    def says_something(record: logging.LogRecord) -> bool:
        return "should be kept in float32: []" not in record.getMessage()

    logger = logging.getLogger("diffusers.models.modeling_utils")
    logger.addFilter(says_something)
    try:
        yield
    finally:
        logger.removeFilter(says_something)


def read_config(path: Path) -> dict[str, Any]:
    """Read a ``config.json``.

    Raises:
        ValueError: It is not a JSON object, or has numbers that no network has.
        FileNotFoundError: It is not there.
    """
    check_pointer(path)
    try:
        config = read_json(path)
    except FileNotFoundError:
        raise FileNotFoundError(f"{path.parent} has no {path.name}") from None
    if not isinstance(config, dict):
        raise ValueError(f"{path} holds a {type(config).__name__}, not an object")
    check_config(config, source=path)
    return config


def hub_reason(error: Exception) -> str:
    """Why a download from the Hugging Face hub failed, for people."""
    from huggingface_hub import constants
    from huggingface_hub.errors import GatedRepoError, HFValidationError, RepositoryNotFoundError

    if isinstance(error, HFValidationError):
        return "that is no name of a repository either"
    if constants.HF_HUB_OFFLINE:
        return "HF_HUB_OFFLINE forbids it, and it was not downloaded before"
    if isinstance(error, GatedRepoError):
        return "its owners want to be asked first; see its page there, then log in with hf auth login"
    if isinstance(error, RepositoryNotFoundError):
        return "there is no such repository, or it is private"
    return "there is no connection, and it was not downloaded before"


def _local_folder(name: str | Path, subfolder: str | None, hub: Mapping[str, Any]) -> Path:
    folder = Path(name)
    if not folder.is_dir():
        from huggingface_hub import snapshot_download

        wanted = {key: hub[key] for key in ("revision", "cache_dir", "token", "local_files_only") if hub.get(key)}
        prefix = f"{subfolder}/" if subfolder else ""
        names = ("config.json", *WEIGHT_FILES, *(f"{file}.index*.json" for file in WEIGHT_FILES))
        if hub.get("variant"):
            names += (f"*.{hub['variant']}.safetensors", f"*.{hub['variant']}.bin")
        patterns = [f"{prefix}{file}" for file in names]
        try:
            folder = Path(snapshot_download(str(name), allow_patterns=patterns, **wanted))
            for index in (folder / subfolder if subfolder else folder).glob("*.index*.json"):
                patterns = [f"{prefix}{shard}" for shard in shards_of(index)]
                snapshot_download(str(name), allow_patterns=patterns, **wanted)
        except (OSError, ValueError) as error:  # no network, no such repository, no leave to read it, no such name
            raise FileNotFoundError(
                f"{name} is no folder here and could not be had from the Hugging Face hub: {hub_reason(error)}"
            ) from error
    return folder / subfolder if subfolder else folder
