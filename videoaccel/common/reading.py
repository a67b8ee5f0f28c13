"""Reading what users wrote, text files and YAML; what goes wrong is one sentence."""

import codecs
import json
import re
import sys
import unicodedata
from collections.abc import Hashable
from pathlib import Path
from typing import Any, TypeAlias

import yaml
from PIL import ImageColor

from videoaccel.common.home import expand
from videoaccel.common.plain_files import read_plain
from videoaccel.common.wording import short

Colour: TypeAlias = tuple[int, int, int]
"""Red, green and blue, 0 to 255."""

LARGEST = 256 << 20
"""Bytes of a text file; a hundred thousand jobs take a tenth of it."""

MOST_VALUES = 10_000_000
"""Values that a YAML text may stand for."""

_HALF = re.compile("[\ud800-\udfff]")
STDIN = "-"
"""In place of a file's name."""

_MARK = "\ufeff"
_UNSEEN = frozenset("\u034f\u115f\u1160\u17b4\u17b5\u2800\u3164\uffa0")
"""Letters and marks by their category, of which nothing is seen all the same."""
_TABLES = (".csv", ".tsv", ".jsonl", ".yaml", ".yml")
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
        ValueError: It is not text in UTF-8, no plain file, or too large.
    """
    return _decoded(read_plain(path, largest=LARGEST, name=name), name or str(path))


def read_stdin() -> str:
    """What comes on standard input, read like `read_text`.

    Raises:
        ValueError: It is not text in UTF-8, or does not end.
    """
    try:
        text = sys.stdin.read(LARGEST + 1)
    except UnicodeDecodeError:
        raise ValueError("stdin is not text in UTF-8") from None
    if len(text) > LARGEST:
        raise ValueError(f"stdin has more than {LARGEST:,} letters")
    return text.removeprefix(_MARK)


def _decoded(data: bytes, name: str) -> str:
    if data[:2] in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE):
        raise ValueError(f"{name} is text in UTF-16; save it as UTF-8")
    try:
        text = data.decode("utf-8-sig")  # some editors, and Excel, put a mark before it
    except UnicodeDecodeError:
        raise ValueError(f"{name} is not a text file in UTF-8") from None
    return text.replace("\r\n", "\n").replace("\r", "\n")


def lines_of(text: str) -> list[str]:
    r"""Lines as editors show them, without blanks around them; one of which nothing can be seen is empty.

    Unlike `str.splitlines` this knows no other ends: U+2028 or a form feed in a text that was copied from somewhere
    stays in its line.

    >>> lines_of("a\u2028b \r\n\u200b\nc")
    ['a\u2028b', '', 'c']
    """
    lines = [line.strip() for line in re.split(r"\r\n|\n|\r", text)]
    return ["" if all(map(_unseen, line)) else line for line in lines]


def _unseen(letter: str) -> bool:
    return letter in _UNSEEN or unicodedata.category(letter) in ("Cf", "Cc", "Zs", "Zl", "Zp")


def prompt_lines(text: str, *, source: str) -> list[str]:
    """One prompt a line; blank lines and those that start with # are left out.

    Raises:
        ValueError: There is none.
    """
    if prompts := [line for line in lines_of(text) if line and not line.startswith("#")]:
        return prompts
    raise ValueError(f"{source} holds no prompt; one a line, # starts a comment")


def read_prompts(name: str) -> list[str]:
    """The prompts of a file given as ``--prompts``, or of standard input for ``-``.

    Raises:
        ValueError: There is none, or the file is a table or a list of jobs.
        OSError: It cannot be read.
    """
    if name == STDIN:
        return prompt_lines(read_stdin(), source="stdin")
    check_prompts_name(name)
    return prompt_lines(read_text(expand(name), name=f"--prompts {name}"), source=name)


def check_prompts_name(name: str) -> None:
    """Refuse, by its name, a file that does not hold one prompt a line.

    Raises:
        ValueError: It is a table or a list of jobs.
    """
    if (suffix := Path(name).suffix.lower()) in _TABLES:
        raise ValueError(
            f"--prompts {name}: one prompt a line is wanted; videoaccel render reads the jobs of a {suffix}"
        )


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
    except RecursionError:
        raise ValueError("nested too deeply") from None
    except yaml.YAMLError as error:
        raise ValueError(" ".join(str(error).split())) from None


def half_letter(value: Any) -> str | None:
    r"""Half of a letter in a text, or in texts within lists and mappings; None if there is none.

    JSON can spell one half of a pair of UTF-16, and the command line hands on bytes that are no UTF-8 as such. No file
    and no terminal can hold them.

    >>> print(half_letter({"prompt": ["a \ud800 b"]}), half_letter("a b"))
    \ud800 None
    """
    found = _HALF.search(json.dumps(value, ensure_ascii=False, default=str))
    return None if found is None else ascii(found[0]).strip("'")


def parse_bytes(text: int | str) -> int:
    """A size in bytes.

    Raises:
        ValueError: It is none.

    >>> parse_bytes("2GiB"), parse_bytes("1.5 MB"), parse_bytes(4096)
    (2147483648, 1500000, 4096)
    """
    found = re.fullmatch(r"\s*(\d{1,18}(?:\.\d{1,18})?)\s*([kmg]i?b|b)?\s*", str(text), re.IGNORECASE)
    if found is None:
        raise ValueError(f"a size such as 2GiB or 500MB is wanted, got {short(text)}")
    return int(float(found[1]) * _UNITS[(found[2] or "").lower()])


def parse_colour(text: str) -> Colour:
    """A colour by its name or as #rrggbb.

    Raises:
        ValueError: It is none.

    >>> parse_colour("white"), parse_colour("#102030")
    ((255, 255, 255), (16, 32, 48))
    """
    try:
        found = ImageColor.getrgb(text)
    except ValueError:
        found = (0, 0, 0, 0)
    if len(found) == 4:  # no colour, or one with alpha
        raise ValueError(f"a colour such as white or #808080 is wanted, got {text!r}")
    return found


def parse_rate(value: float | str) -> float:
    """Frames per second from a number, or from a fraction as other programs write it.

    Raises:
        ValueError: It is neither.

    >>> parse_rate("30000/1001"), parse_rate("24"), parse_rate(29.97)
    (29.97002997002997, 24.0, 29.97)
    """
    try:
        if not isinstance(value, str):
            return float(value)
        above, _, below = value.partition("/")  # not by Fraction, which makes whole numbers of 1e999999999
        return float(above) / float(below or 1)
    except (ValueError, ArithmeticError, TypeError):
        raise ValueError(f"a number such as 24 or 30000/1001 is wanted, got {short(value)}") from None


class _StrictLoader(yaml.SafeLoader):
    """Takes the last of several equal keys for the slip that it is; a few aliases may stand for billions of values."""

    def get_single_node(self) -> yaml.Node | None:
        node = super().get_single_node()
        if node is not None and _values(node, {}) > MOST_VALUES:
            raise yaml.YAMLError(f"its aliases (*name) stand for more than {MOST_VALUES:,} values")
        return node

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                if key.value in seen:
                    raise yaml.MarkedYAMLError(problem=f"{key.value} is given twice", problem_mark=key.start_mark)
                seen.add(key.value)
        return super().construct_mapping(node, deep=deep)


def _values(node: yaml.Node, known: dict[int, float]) -> float:
    """How many values a node stands for, those of aliases counted wherever they stand."""
    if id(node) not in known:
        known[id(node)] = float("inf")  # what it finds if it stands within itself
        parts = node.value if isinstance(node, yaml.CollectionNode) else []
        below = (one for part in parts for one in (part if isinstance(part, tuple) else (part,)))
        known[id(node)] = 1 + sum(_values(one, known) for one in below)
    return known[id(node)]
