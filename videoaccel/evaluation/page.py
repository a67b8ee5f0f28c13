"""The report of an evaluation, one page that needs no other file: table, radar plot, worst clips, blind A/B player."""

from __future__ import annotations

import base64
import io
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from importlib.resources import files
from typing import Any

import numpy as np
from PIL import Image

from videoaccel.common.borders import fill, for_script, policy
from videoaccel.common.borders import for_page as escape
from videoaccel.eval.metric_names import metric_class
from videoaccel.eval.vbench import QUALITY, SEMANTIC, normalised
from videoaccel.evaluation.clips import ClipFile, Reading
from videoaccel.evaluation.rows import Row
from videoaccel.evaluation.table import MetricResult, by_reason, lacking_lines
from videoaccel.media.contact_sheet import evenly_spaced
from videoaccel.media.encoders import Frames

_WORST, _COLUMNS, _PLAYED = 3, 5, 24  # clips, frames of a strip, frames of a film
_WIDTH, _SHOWN = 240, 170  # pixels: at most of a picture, and of one in a strip
_SMALL = 10_000  # pixels of a picture that is kept without loss
_RULE = (
    f"At most {_WORST}: clips that the table names as a metric's worst, those that it names most often first; then "
    "those that come off worst over all metrics."
)
_PLAYER = """
const pairs = JSON.parse(document.getElementById('pairs').textContent);
const [left, right, said] = ['a', 'b', 'said'].map(id => document.getElementById(id));
const votes = {clip: 0, reference: 0, same: 0};
const clipIsRight = pairs.map(() => Math.random() < 0.5);
let now = 0, frame = 0;

function draw() {
  const {clip, reference} = pairs[now];
  const [a, b] = clipIsRight[now] ? [reference, clip] : [clip, reference];
  left.src = a[frame % a.length];
  right.src = b[frame % b.length];
  frame += 1;
}

function show(pair) {
  now = pair;
  frame = 0;
  said.textContent = `Pair ${now + 1} of ${pairs.length}`;
  draw();
}

function vote(side) {
  const choseRight = side === 'b';
  votes[side === 'same' ? 'same' : choseRight === clipIsRight[now] ? 'clip' : 'reference'] += 1;
  said.textContent = `${pairs[now].name}: the evaluated clip was ${clipIsRight[now] ? 'B' : 'A'}. `
    + `So far: clip ${votes.clip}, reference ${votes.reference}, no difference ${votes.same}.`;
  clipIsRight[now] = Math.random() < 0.5;
  setTimeout(() => show((now + 1) % pairs.length), 2500);
}

for (const side of ['a', 'b', 'same']) document.getElementById(`vote-${side}`).onclick = () => vote(side);
show(0);
setInterval(draw, 125);
"""


def report_page(
    results: Sequence[MetricResult],
    rows: Mapping[str, Sequence[Row]],
    clips: Sequence[ClipFile],
    record: Mapping[str, Any],
    *,
    reading: Reading,
) -> str:
    """The page.

    Args:
        results: Scores.
        rows: By metric, one a clip.
        clips: All clips.
        record: Of ``results.json``: totals, failures, what did not run, command.
        reading: What reads the clips whose frames are shown.
    """
    shown = _shown_clips(results, rows, clips)
    sets = [(clip, *_both(clip, reading)) for clip in shown]
    parts = [
        f"<h1>Evaluation of {escape(str(record['folder']))}</h1><p><code>{escape(str(record['command']))}</code></p>",
        _table(results), _totals(record.get("vbench")), radar(results), _lists(record),
        f"<h2>Worst clips</h2><p>{_RULE}</p>" if any(frames is not None for _, frames, _ in sets) else "",
        *(_strips(clip, frames, reference) for clip, frames, reference in sets if frames is not None),
        _player(sets),
    ]  # fmt: skip
    template = (files("videoaccel") / "assets" / "pages" / "evaluation.html").read_text(encoding="utf-8")
    return fill(template, {"BODY": "".join(parts), "POLICY": policy(f"<script>{_PLAYER}</script>")})


def radar(results: Sequence[MetricResult]) -> str:
    """VBench's dimensions as a radar plot (SVG), each between its bounds, cut off at 0 and 1; empty below three."""
    known = {r.metric: r for r in results if (r.metric in QUALITY or r.metric in SEMANTIC) and r.score is not None}
    plain = {r.metric: r for r in results if r.metric.startswith("world_") and r.score is not None}
    axes = [(r.title, _share(r)) for r in (known if len(known) >= 3 else plain).values()]
    if len(axes) < 3:
        return ""
    angles = [2 * math.pi * i / len(axes) - math.pi / 2 for i in range(len(axes))]

    def at(angle: float, share: float) -> str:
        return f"{300 + 150 * share * math.cos(angle):.1f},{200 + 150 * share * math.sin(angle):.1f}"

    rings = "".join(
        f'<polygon points="{" ".join(at(angle, ring) for angle in angles)}" class="ring"/>'
        for ring in (0.25, 0.5, 0.75, 1.0)
    )
    shape = " ".join(at(angle, share) for angle, (_, share) in zip(angles, axes, strict=True))
    labels = "".join(
        f'<text x="{at(angle, 1.1).split(",")[0]}" y="{at(angle, 1.1).split(",")[1]}" font-size="12" '
        f'text-anchor="{_anchor(math.cos(angle))}">{escape(title)}</text>'
        for angle, (title, _) in zip(angles, axes, strict=True)
    )
    return (
        f'<h2>Dimensions</h2><svg viewBox="0 0 600 400" width="700" role="img" aria-label="radar plot">{rings}'
        f'<polygon points="{shape}" class="share"/>{labels}</svg>'
    )


def _anchor(right: float) -> str:
    """At which end a label stands, by how far it is to the right of the middle."""
    return "middle" if abs(right) < 0.1 else "start" if right > 0 else "end"


def _share(result: MetricResult) -> float:
    assert result.score is not None
    named = result.metric in QUALITY or result.metric in SEMANTIC
    return min(max(normalised(result.metric, result.score) if named else result.score, 0.0), 1.0)


def _table(results: Sequence[MetricResult]) -> str:
    lines = "".join(
        f"<tr><td>{escape(r.title)}</td><td class=n>{_score(r)}</td><td>{escape(r.unit)}</td>"
        f"<td class=n>{r.measured}</td><td class=n>{r.failed}</td><td class=n>{r.not_applicable}</td>"
        f"<td class=n>{r.identical}</td><td class=clip>{escape(r.worst or '')}</td>"
        f"<td class=n>{_number(r.worst_value)}</td></tr>"
        for r in results
    )
    heads = ("metric", "score", "", "clips", "failed", "n/a", "identical", "worst clip", "its value")
    head = "".join(f"<th>{title}</th>" for title in heads)
    return f"<h2>Scores</h2><div class=scroll><table><tr>{head}</tr>{lines}</table></div>"


def _score(result: MetricResult) -> str:
    if result.score is None and result.score_of_measured is not None:
        return f"<span class=bad>withheld</span> ({_number(result.score_of_measured)} of those measured)"
    return _number(result.score)


def _totals(totals: Mapping[str, Any] | None) -> str:
    if totals is None:
        return ""
    numbers = ", ".join(f"{name} {_number(totals[name])}" for name in ("quality", "semantic", "total"))
    withheld = f" <span class=bad>withheld: {escape(totals['withheld'])}</span>" if totals.get("withheld") else ""
    return f"<p>VBench: {numbers}{withheld}</p>"


def _lists(record: Mapping[str, Any]) -> str:
    failed = "".join(
        f"<li>{escape(clip)}: {escape(reason)} ({escape(', '.join(names))})</li>"
        for clip, reasons in record["failures"].items()
        for reason, names in by_reason(reasons).items()
    )
    lacking = "".join(f"<li>{escape(line)}</li>" for line in lacking_lines(record["not_run"]))
    without = "".join(f"<li>{escape(line)}</li>" for line in record["not_applicable"])
    lists = (
        ("<h2 class=bad>Failed</h2>", failed),
        ("<h2>Not applicable</h2>", without),
        ("<h2>Did not run</h2>", lacking),
    )
    return "".join(f"{head}<ul>{lines}</ul>" for head, lines in lists if lines)


def _shown_clips(
    results: Sequence[MetricResult], rows: Mapping[str, Sequence[Row]], clips: Sequence[ClipFile]
) -> list[ClipFile]:
    """Those that `_RULE` tells of; a metric by which all clips are equal has no say."""
    first, places = Counter[str](), Counter[str]()
    for result in results:
        kind = metric_class(result.metric)
        found = [(kind.badness(row.score.value), row.clip) for row in rows[result.metric] if row.score is not None]
        places.update(name for _, name in found)
        if result.worst is not None:
            first[result.worst] += 1
            places.update({name: place for place, (_, name) in enumerate(sorted(found))})
    names = sorted(places, key=lambda name: (-first[name], -places[name], name))[:_WORST]
    by_name = {clip.name: clip for clip in clips}
    return [by_name[name] for name in names]


def _both(clip: ClipFile, reading: Reading) -> tuple[Frames | None, Frames | None]:
    try:
        frames = reading(clip.path)[0]
        return frames, reading(clip.reference)[0] if clip.reference else None
    except (OSError, ValueError):  # it could be read when it was measured; without it the page is still worth writing
        return None, None


def _strips(clip: ClipFile, frames: Frames, reference: Frames | None) -> str:
    chosen = evenly_spaced(len(frames), _COLUMNS)
    rows = [("clip", [frames[i] for i in chosen])]
    if reference is not None and reference.shape == frames.shape:
        gaps = [np.abs(frames[i].astype(np.int16) - reference[i]) for i in chosen]
        rows = [
            ("reference", [reference[i] for i in chosen]),
            *rows,
            ("4x difference", [(gap * 4).clip(0, 255).astype(np.uint8) for gap in gaps]),
        ]
    body = "".join(f"<div><span>{label}</span>{''.join(map(_image, pictures))}</div>" for label, pictures in rows)
    prompt = f"<br><small>{escape(clip.prompt)}</small>" if clip.prompt else ""
    return f"<h3>{escape(clip.name)}{prompt}</h3><div class=strip>{body}</div>"


def _image(frame: Frames) -> str:
    return f'<img src="{_picture(frame)}" width={_SHOWN}>'


def _player(sets: Sequence[tuple[ClipFile, Frames | None, Frames | None]]) -> str:
    pairs = [
        {"name": clip.name, "clip": _film(frames), "reference": _film(reference)}
        for clip, frames, reference in sets
        if frames is not None and reference is not None
    ]
    if not pairs:
        return ""
    return (
        "<h2>Blind comparison</h2><p>One side is the evaluated clip, the other its reference; sides are drawn by lot."
        " Which looks better?</p><div class=ab><figure><img id=a><figcaption>A</figcaption></figure>"
        "<figure><img id=b><figcaption>B</figcaption></figure></div>"
        "<p><button id=vote-a>A</button> <button id=vote-b>B</button> <button id=vote-same>no difference</button></p>"
        f'<p id=said></p><script type="application/json" id=pairs>{for_script(pairs)}</script>'
        f"<script>{_PLAYER}</script>"
    )


def _film(frames: Frames) -> list[str]:
    return [_picture(frames[i]) for i in evenly_spaced(len(frames), _PLAYED)]


def _picture(frame: Frames) -> str:
    image = Image.fromarray(frame)
    if image.width > _WIDTH:
        image = image.resize((_WIDTH, max(1, round(image.height * _WIDTH / image.width))), Image.Resampling.LANCZOS)
    data = io.BytesIO()
    image.save(data, "WEBP", lossless=image.width * image.height < _SMALL, quality=85)
    return f"data:image/webp;base64,{base64.b64encode(data.getvalue()).decode()}"


def _number(value: float | None) -> str:
    return "&ndash;" if value is None else f"{value:.4f}"
