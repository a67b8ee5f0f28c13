"""Reading what users wrote, text files and YAML; what goes wrong is one sentence."""

import re
from collections.abc import Hashable
from pathlib import Path
from typing import Any

import yaml

_UNITS = {"": 1, "b": 1, "kib": 2**10, "mib": 2**20, "gib": 2**30, "kb": 10**3, "mb": 10**6, "gb": 10**9}


def read_text(path: Path, *, name: str | None = None) -> str:
    """Read a text file, UTF-8.

    Args:
        path: The file.
        name: What errors call it; its path unless given.

    Raises:
        FileNotFoundError: There is no such file.
        IsADirectoryError: It is a folder.
        PermissionError: This user may not read it.
        ValueError: It is not text in UTF-8.
    """
    name = name or str(path)
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise FileNotFoundError(f"{name} does not exist") from None
    except IsADirectoryError:
        raise IsADirectoryError(f"{name} is a folder, not a file") from None
    except PermissionError:
        raise PermissionError(f"{name} may not be read by this user") from None
    except UnicodeDecodeError:
        raise ValueError(f"{name} is not a text file in UTF-8") from None


def prompt_lines(text: str, *, source: str) -> list[str]:
    """One prompt a line; blank lines and those that start with # are left out.

    Raises:
        ValueError: There is none.
    """
    lines = [line.strip() for line in text.splitlines()]
    if prompts := [line for line in lines if line and not line.startswith("#")]:
        return prompts
    raise ValueError(f"{source} holds no prompt; one a line, # starts a comment")


def parse_yaml(text: str) -> Any:
    """The value of a YAML text. Unlike YAML's usual readers this one refuses a key that is given twice.

    Raises:
        ValueError: It is not valid YAML; says what is wrong, and where.

    >>> parse_yaml("steps: 3")
    {'steps': 3}
    """
    try:
        return yaml.load(text, Loader=_StrictLoader)
    except yaml.MarkedYAMLError as error:
        place = f" (line {error.problem_mark.line + 1})" if error.problem_mark else ""
        told = " ".join(part for part in (error.context, error.problem) if part)
        raise ValueError(f"{told}{place}") from None
    except yaml.YAMLError as error:
        raise ValueError(" ".join(str(error).split())) from None


def parse_bytes(text: int | str) -> int:
    """A size in bytes.

    Raises:
        ValueError: It is none.

    >>> parse_bytes("2GiB"), parse_bytes("1.5 MB"), parse_bytes(4096)
    (2147483648, 1500000, 4096)
    """
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([kmg]i?b|b)?\s*", str(text), re.IGNORECASE)
    if found is None:
        raise ValueError(f"a size such as 2GiB or 500MB is wanted, got {text!r}")
    return int(float(found[1]) * _UNITS[(found[2] or "").lower()])


class _StrictLoader(yaml.SafeLoader):
    """Takes the last of several equal keys for the slip that it is."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                if key.value in seen:
                    raise yaml.MarkedYAMLError(problem=f"{key.value} is given twice", problem_mark=key.start_mark)
                seen.add(key.value)
        return super().construct_mapping(node, deep=deep)
