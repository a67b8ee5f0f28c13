"""File names out of whatever people write."""

from __future__ import annotations

import hashlib
import re
import unicodedata

LONGEST = 60
"""Bytes of UTF-8; with an identity and an ending behind it the name still fits any file system."""

_ODD = re.compile(r"[^0-9A-Za-z_.-]")
_RESERVED = re.compile(r"(?:con|prn|aux|nul|(?:com|lpt)[0-9\u00b9\u00b2\u00b3])(?:\.|$)", re.IGNORECASE)
"""What Windows takes for a device, whatever ending stands behind it."""

_ELLIPSIS = re.compile(r"[-_.]{2,}")


def safe_name(text: str) -> str:
    r"""A name that means a file in the folder it is put into, and nothing else, on every system.

    Letters and digits of all scripts stay; everything else, slashes and dots at the start first of all, becomes "-".

    >>> safe_name("../../etc/passwd"), safe_name("Ein Kreis, über Wasser"), safe_name(".."), safe_name("a\0b")
    ('etc-passwd', 'Ein-Kreis-über-Wasser', 'clip', 'a-b')
    >>> safe_name("con"), safe_name("NUL.tar"), safe_name("console"), safe_name("a. ")
    ('clip-con', 'clip-NUL.tar', 'console', 'a')
    """
    if text.isascii():
        return _ends(_ODD.sub("-", text[:LONGEST]))
    kept = "".join(
        letter if letter.isalnum() or letter in "-_." or unicodedata.category(letter).startswith("M") else "-"
        for letter in unicodedata.normalize("NFC", text[: 4 * LONGEST])
    )
    return _ends(kept)


def distinct_name(text: str) -> str:
    """As `safe_name`, with a hash behind what had to be cut, so that two long texts have two names."""
    if len(unicodedata.normalize("NFC", text).encode()) <= LONGEST:
        return safe_name(text)
    return f"{safe_name(text)}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"


def _ends(kept: str) -> str:
    name = _cut(_ELLIPSIS.sub("-", kept)) or "clip"
    return _cut(f"clip-{name}") if _RESERVED.match(name) else name


def _cut(name: str) -> str:
    return name.encode()[:LONGEST].decode(errors="ignore").strip("-_.")
