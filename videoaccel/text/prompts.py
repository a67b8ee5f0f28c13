"""Prompts: options at their end, segments for looped videos, score suffixes, and cleaning.

The order of work matters and is `prepare`'s: cut the options, split into segments, rewrite (optional), add the
suffixes, clean, choose a segment per loop. Splitting has to come before cleaning, which removes ``|``.

The models were trained on cleaned captions, so the rules follow the data pipeline of Open-Sora v1.2 (which has them
from DeepFloyd IF) to the letter, accidents included: ``https://a.com/b?id=3`` leaves ``?id=3``, and a mis-encoded ``é``
loses its second half to the punctuation rule before ftfy could mend it.
"""

from __future__ import annotations

import html
import re
from collections import Counter
from collections.abc import Callable
from difflib import get_close_matches
from html.entities import html5
from html.parser import HTMLParser
from typing import NamedTuple, TypeAlias
from urllib.parse import unquote_plus

import ftfy

from videoaccel.common.plain_json import parse_json

_Rules: TypeAlias = "tuple[tuple[re.Pattern[str], str], ...]"  # what to look for, what to put there; in this order


class Options(NamedTuple):
    """A prompt's text and what the JSON object at its end says (empty where it says nothing)."""

    text: str
    reference_path: str = ""
    mask_strategy: str = ""


class Segment(NamedTuple):
    """A text and the first loop it is for: None where the prompt has no segments and the text is for all."""

    start: int | None
    text: str


def prepare(
    prompt: str,
    *,
    aes: float | None,
    flow: float | None,
    camera_motion: str | None,
    loops: int,
    clean: bool = True,
    rewrite: Callable[[str], str] | None = None,
) -> list[str]:
    """Turn a prompt as typed into the text of every loop, ready for the tokenizer.

    A JSON object at the end is cut, not returned: `cut_options` reads it, and the text it leaves may come here as well.

    Args:
        prompt: One prompt, with ``|0|...|2|...`` segments or without.
        aes: Aesthetic score for the suffix, None for no suffix (the release's default is 6.5).
        flow: Motion score, likewise.
        camera_motion: Name of a camera motion such as "pan left", likewise.
        loops: Number of loops, at least 1. A segment that starts later is never used.
        clean: False only strips and lowers the text.
        rewrite: Something, a language model perhaps, that words each segment anew.

    Returns:
        ``loops`` texts. The suffix hides an empty prompt from a look at these: ask `empty_segments`.

    Raises:
        ValueError: If ``loops`` is below 1, or for the reasons of `cut_options` and `split_segments`.

    >>> prepare("|0|A sunny day|2|Rain (heavy)", aes=6.5, flow=None, camera_motion=None, loops=3)[1:]
    ['a sunny day aesthetic score: 6.5.', 'rain heavy aesthetic score: 6.5.']
    """
    if loops < 1:
        raise ValueError(f"loops must be at least 1; got {loops}")
    finish = clean_text if clean else plain_text
    segments = []
    for start, text in split_segments(cut_options(prompt).text):
        worded = rewrite(text) if rewrite else text
        scored = add_scores(worded, aes=aes, flow=flow, camera_motion=camera_motion)
        segments.append(Segment(start, finish(scored)))
    return per_loop(segments, loops=loops)


def empty_segments(prompt: str, *, clean: bool = True) -> list[int]:
    """Where a prompt says nothing: the first loops of the segments that are empty, or would be once cleaned.

    >>> empty_segments("a cat"), empty_segments("page 12"), empty_segments("|0|a cat|3|***")
    ([], [0], [3])
    """
    finish = clean_text if clean else plain_text
    return [start or 0 for start, text in split_segments(cut_options(prompt).text) if not finish(text)]


def cut_options(prompt: str) -> Options:
    """Cut ``{"reference_path": ..., "mask_strategy": ...}`` off the end of a prompt.

    Raises:
        ValueError: If what starts like a JSON object is none, or holds another key or a value that is no text.

    >>> cut_options('Waves.{"mask_strategy": "0"}')
    Options(text='Waves.', reference_path='', mask_strategy='0')
    """
    # A brace that no key of ours follows is part of the text: "{y}" in a prompt harms nobody, nor does a scene in JSON.
    if not (found := re.search(r'\{\s*(?:"|\}\s*$)', prompt)) or not _means_options(prompt, found.start()):
        return Options(prompt)
    tail = prompt[found.start() :]
    try:
        options = parse_json(tail)
    except ValueError as error:
        raise ValueError(f"the prompt ends in {tail!r}, which is not a JSON object: {error}") from None
    for key, value in options.items():
        if key not in Options._fields[1:] or not isinstance(value, str):
            raise ValueError(f"{key!r}: {value!r} in the prompt; only {Options._fields[1:]} may be there, as texts")
    return Options(prompt[: found.start()], **options)


def _means_options(prompt: str, start: int) -> bool:
    """Whether what looks like a JSON object stands where options do, behind a text, or has a key like one of ours."""
    keys = re.findall(r'"([^"]*)"\s*:', prompt[start:])
    if any(get_close_matches(key, Options._fields[1:], n=1, cutoff=0.6) for key in keys):
        return True
    try:
        return isinstance(parse_json(prompt[start:]), dict) and bool(prompt[:start].strip() or not keys)
    except ValueError:
        return False


def lost_words(prompt: str) -> list[str]:
    """What `clean_text` takes out of a prompt beyond punctuation: words and numbers, in their order.

    >>> lost_words("a 3x4 grid of cats, 4k"), lost_words("Rain (heavy) & wind!")
    (['3x4'], [])
    """
    lost: list[str] = []
    for _, text in split_segments(cut_options(prompt).text):
        kept = Counter(_words(clean_text(text)))
        for word in _words(html.unescape(ftfy.fix_text(unquote_plus(text)))):
            if kept[word]:
                kept[word] -= 1
            else:
                lost.append(word)
    return lost


def _words(text: str) -> list[str]:
    return re.findall(r"[^\W_]+", text.lower())


def split_segments(prompt: str) -> list[Segment]:
    """Split ``|0|a|2|b`` into segments; a prompt that does not start with ``|0|`` is one text for all loops.

    Raises:
        ValueError: If a start is not a whole number, or not above the one before.

    >>> split_segments("|0| a |2| b")
    [Segment(start=0, text='a'), Segment(start=2, text='b')]
    """
    if not prompt.startswith("|0|"):
        return [Segment(None, prompt)]
    parts = prompt.split("|")[1:]
    last = -1
    segments = []
    for i in range(0, len(parts), 2):
        start = parts[i].strip()
        if not (start.isdecimal() and i + 1 < len(parts)):
            raise ValueError(f"|{start}| in the prompt should be the first loop of a segment: |0|text|2|text")
        if int(start) <= last:
            raise ValueError(f"segment |{start}| in the prompt must start after |{last}|")
        last = int(start)
        segments.append(Segment(last, parts[i + 1].strip()))
    return segments


def merge_segments(segments: list[Segment]) -> str:
    """The ``|0|a|2|b`` form of segments: what `split_segments` took apart."""
    return "".join(text if start is None else f"|{start}|{text}" for start, text in segments)


def per_loop(segments: list[Segment], *, loops: int) -> list[str]:
    """The text of every loop: that of the last segment that has started (one has, at 0, in all that is split above)."""
    return [[text for start, text in segments if (start or 0) <= loop][-1] for loop in range(loops)]


def add_scores(text: str, *, aes: float | None, flow: float | None, camera_motion: str | None) -> str:
    """Append the suffixes the model was trained with; None adds none, and one that the text has already stays alone.

    >>> add_scores("a cat", aes=6.5, flow=None, camera_motion="pan left")
    'a cat aesthetic score: 6.5. camera motion: pan left.'
    """
    suffixes = {
        "aesthetic score": None if aes is None else f"{aes:.1f}",
        "motion score": None if flow is None else f"{flow:.1f}",
        "camera motion": camera_motion,
    }
    for name, value in suffixes.items():
        if value is not None and f"{name}:" not in text:
            text = f"{text} {name}: {value}."
    return text


def plain_text(text: str) -> str:
    """A prompt with cleaning off: lowered and stripped."""
    return text.lower().strip()


def clean_text(text: str) -> str:
    """A prompt cleaned like the captions the model was trained on: the rules run twice, so that they settle.

    >>> clean_text("Visit www.example.org (NOW)  &amp; #smile!!!")
    'visit now smile!!!'
    """
    return _clean_once(_clean_once(text))


def _clean_once(text: str) -> str:
    text = unquote_plus(text).strip().lower().replace("<person>", "person")
    text = _without_tags(_apply(_ADDRESSES, text))
    text = _apply(_MARKS, text)
    if len(re.findall(r"[-_]", text)) > _MOST_JOINERS:
        text = re.sub(r"[-_]", " ", text)
    text = html.unescape(html.unescape(ftfy.fix_text(text))).strip()
    return _apply(_ENDS, _apply(_PHRASES, text)).strip()


def _apply(rules: _Rules, text: str) -> str:
    for pattern, replacement in rules:
        text = pattern.sub(replacement, text)
    return text


def _rules(*pairs: tuple[str, str]) -> _Rules:
    return tuple((re.compile(pattern), replacement) for pattern, replacement in pairs)


_MOST_JOINERS = 3  # dashes and underscores; a text with more is a file name or a slug
_SUFFIXES = "png|jpg|jpeg|bmp|webp|eps|pdf|apk|mp4"
_DOMAIN = r"[a-zA-Z0-9.\-]+\.(?:com|co|ru|net|org|edu|gov|it)[\w/-]*\b/?(?!@)"

# Two passes, because removing one address can join the pieces of another. "www:" is the release's spelling.
_ADDRESSES = _rules(
    (rf"\b(?:https?:(?:/{{1,3}}|[a-zA-Z0-9%])|{_DOMAIN})", ""),
    (rf"\b(?:www:(?:/{{1,3}}|[a-zA-Z0-9%])|{_DOMAIN})", ""),
)

_MARKS = _rules(
    (r"@\w+\b", ""),  # nicknames
    ("[\u31c0-\u9fff]+", ""),  # CJK: strokes to unified ideographs (kana and hangul are not among them)
    (
        "[-\u058a\u05be\u1400\u1806\u2010-\u2015\u2e17\u2e1a\u2e3a\u2e3b\u2e40\u301c\u3030\u30a0"
        "\ufe31\ufe32\ufe58\ufe63\uff0d]+",
        "-",
    ),
    ("[`\u00b4\u00ab\u00bb\u201c\u201d\u00a8]", '"'),
    ("[\u2018\u2019]", "'"),
    (r"&quot;?|&amp", ""),
    (r"\d{1,3}(?:\.\d{1,3}){3}", " "),  # IP addresses
    (r"\d:\d\d\s+$", ""),  # a time of day left at the end
    (r"\\n", " "),
    (r"#(?:\d{1,3}|\d{5,})\b", ""),
    (r"\b\d{6,}\b", ""),
    (rf"\S+\.(?:{_SUFFIXES})", ""),
    (r"[\"']{2,}", '"'),
    (r"\.{2,}", " "),
    (r"[#®•©™&@·º½¾¿¡§~()\[\]{}|\\/*]+", " "),
    (r"\s+\.\s+", " "),
)

_PHRASES = _rules(
    (r"\b[a-zA-Z]{1,3}\d{3,15}\b", ""),  # jc6640
    (r"\b[a-zA-Z]+\d+[a-zA-Z]+\b", ""),  # jc6640vc
    (r"\b\d+[a-zA-Z]+\d+\b", ""),  # 6640vc231
    (r"(?:worldwide\s+)?(?:free\s+)?shipping", ""),
    (r"(?:free\s)?download(?:\sfree)?", ""),
    (r"\bclick\s(?:for|on)\s\w+", ""),
    (rf"\b(?:{_SUFFIXES})(?:\simages?)?", ""),
    (r"\bpage\s+\d+\b", ""),
    (r"\b\d*[a-zA-Z]+\d+[a-zA-Z]+\d+[a-zA-Z\d]*\b", " "),  # j2d1a2a
    (r"\b\d+\.?\d*[x\u0445\u00d7]\d+\.?\d*\b", ""),  # sizes: with the letter x, its Cyrillic twin, the sign
    (r"\b\s+:\s+", ": "),
    (r"(\D[,./])\b", r"\1 "),
    (r"\s+", " "),
)

_ENDS = _rules(
    (r"^[\"']([\w\W]+)[\"']$", r"\1"),
    (r"^['_,\-:;]", ""),
    (r"['_,\-:+]$", ""),
    (r"^\.\S+$", ""),
)


class _TextOf(HTMLParser):
    """Collects a document's text: no tags, no comments, nothing inside the elements that are not for reading."""

    _hidden = frozenset({"script", "style", "template", "rt", "rp"})
    _void = re.compile("area|base|br|col|embed|hr|img|input|keygen|link|meta|param|source|track|wbr")

    def __init__(self) -> None:
        super().__init__(convert_charrefs=False)
        self.pieces: list[str] = []
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if not self._void.fullmatch(tag):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag in self.open:
            while self.open.pop() != tag:
                pass

    def handle_entityref(self, name: str) -> None:
        # A name that HTML does not know is text, without its semicolon.
        self.handle_data(html5.get(f"{name};", f"&{name}"))

    def handle_charref(self, name: str) -> None:
        self.handle_data(html.unescape(f"&#{name};"))

    def handle_data(self, data: str) -> None:
        if self._hidden.isdisjoint(self.open):
            self.pieces.append(data)


def _without_tags(text: str) -> str:
    parser = _TextOf()
    try:
        parser.feed(text)
        parser.close()
    except AssertionError:  # some Pythons give up at "<![" and the like: then it is text
        return text
    return "".join(parser.pieces)
