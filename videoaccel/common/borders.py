"""Where texts of others leave us: one way of escaping at each border: pages, scripts in pages, tables, terminals."""

from __future__ import annotations

import base64
import csv
import hashlib
import html
import io
import json
import re
from collections.abc import Iterable, Mapping
from typing import Any

_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
_FORMULA = ("=", "+", "-", "@", "\t", "\r")
_NEGATIVE = re.compile(r"-\d+(\.\d+)?(e[+-]?\d+)?")
_MARK = re.compile(r"@([A-Z]+)@")
_SCRIPT = re.compile(r"<script>(.*?)</script>", re.DOTALL)


def for_terminal(text: str) -> str:
    r"""A text that moves no cursor, colours nothing and turns nothing around: control characters are spelled out.

    >>> for_terminal("a\x1b[31mb\u202ec\n")
    'a\\u001b[31mb\\u202ec\n'
    """
    return _CONTROL.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def for_page(value: object) -> str:
    """A value as text in HTML, in attributes, too.

    >>> for_page('<a href="x">')
    '&lt;a href=&quot;x&quot;&gt;'
    """
    return html.escape(str(value))


def for_script(value: object) -> str:
    r"""A value as JSON within a script element, which no text in it can end or turn into a comment.

    >>> for_script("<!--<script>&")
    '"\\u003c!--\\u003cscript\\u003e\\u0026"'
    """
    text = json.dumps(value, ensure_ascii=True)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def for_cell(value: object) -> object:
    """A value as a cell of a table that a spreadsheet opens: no text is taken for a formula.

    >>> for_cell("=1+1"), for_cell("-0.5"), for_cell(-0.5), for_cell("soda")
    ("'=1+1", '-0.5', -0.5, 'soda')
    """
    if not isinstance(value, str) or not value.lstrip().startswith(_FORMULA) or _NEGATIVE.fullmatch(value):
        return value
    return f"'{value}"


def csv_text(rows: Iterable[Iterable[object]]) -> str:
    """Rows as CSV."""
    out = io.StringIO()
    csv.writer(out, lineterminator="\n").writerows([for_cell(value) for value in row] for row in rows)
    return out.getvalue()


def fill(template: str, values: Mapping[str, str]) -> str:
    """A page with ``@NAME@`` replaced, once: what a value holds is not replaced again. The values are escaped already.

    Its policy (``@POLICY@``) lets the scripts of the template run and nothing else unless another is given, and nothing
    is fetched but pictures and clips.
    """
    filled: dict[str, Any] = {"POLICY": policy(template), **values}
    return _MARK.sub(lambda found: filled.get(found[1], found[0]), template)


def policy(page: str) -> str:
    """The Content-Security-Policy of a page as a meta element: these scripts by their hashes, no others.

    Args:
        page: With all its own ``<script>`` elements, and without anything of others.
    """
    digests = (hashlib.sha256(script.encode()).digest() for script in _SCRIPT.findall(page))
    allowed = " ".join(f"'sha256-{base64.b64encode(digest).decode()}'" for digest in digests) or "'none'"
    here = "data: 'self' file: https: http:"
    rules = (
        f"default-src 'none'; script-src {allowed}; style-src 'unsafe-inline'; img-src {here}; media-src {here}; "
        f"base-uri 'none'; form-action 'none'"
    )
    return f'<meta http-equiv="Content-Security-Policy" content="{rules}">'
