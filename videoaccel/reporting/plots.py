"""The pictures of a report, as SVG texts: each once for a wide window and once for a phone. Needs matplotlib."""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from videoaccel.comparison.plot import best_methods, draw_glance
from videoaccel.comparison.values import EXACT, OFF
from videoaccel.reporting.data import pareto
from videoaccel.session.action_grid import LETTERS, NAMES

WIDE, NARROW = 9.6, 4.4
"""Widths in inches."""

_STAGES = ("#9aa5b1", "#c3cad2", "#cc79a7", "#e69f00", "#8c564b", "#556b2f", "#0072b2", "#009e73", "#d55e00")
_ACTIONS = ("#1b3a6b", "#2f8f6b", "#f2b65c", "#d9d9d9", "#c9a6e0", "#f5f5f5")
_GIB = 1 << 30
_MOST_ROWS = 24
"""Bars in one picture."""


def both(draw: Callable[[Any, float], None], *, salt: str, heights: tuple[float, float]) -> dict[str, str]:
    """A picture in both widths.

    Args:
        draw: Given a figure and its width.
        salt: Keeps the names inside of one picture apart from those of others on the page.
        heights: Of the wide and the narrow one, inches.
    """
    import matplotlib
    from matplotlib.figure import Figure

    found = {}
    for name, width, height in (("wide", WIDE, heights[0]), ("narrow", NARROW, heights[1])):
        rules = {"svg.fonttype": "none", "svg.hashsalt": f"{salt}-{name}", "font.family": "sans-serif"}
        with matplotlib.rc_context({**rules, "text.parse_math": False}):  # a "$" in a name is no formula
            figure = Figure(figsize=(width, height), layout="constrained")
            draw(figure, width)
            data = io.StringIO()
            figure.savefig(data, format="svg", metadata={"Date": None, "Creator": None}, transparent=True)
        text = data.getvalue()
        found[name] = _in_the_pages_colours(text[text.index("<svg") :])
    return found


def _in_the_pages_colours(svg: str) -> str:
    """Black is the page's ink and greys its lines and notes, so that a picture can be read on a dark page, too."""
    for colour, own in (("#000000", "currentColor"), ("#666666", "var(--soft)"), ("#0072b2", "var(--blue)")):
        svg = svg.replace(f": {colour}", f": {own}")
    return re.sub(r": #(e[0-9a-f])\1\1\b", ": var(--line)", svg)


def speed_quality(comparison: Mapping[str, Any], *, by: str, salt: str) -> dict[str, str] | None:
    """PSNR over speed-up: the best methods and the controls by name, others grey; yellow, what nothing beats.

    Args:
        comparison: Of `videoaccel.reporting.data.gather`.
        by: ``latency`` or ``flops``.
        salt: See `both`.

    Returns:
        None if no setting has both numbers.
    """
    rows = [row for row in comparison["rows"] if row["method"] not in (EXACT, OFF)]
    methods = list(dict.fromkeys(row["method"] for row in rows))
    curves = {method: sorted(_points(rows, method, by)) for method in methods}
    like = best_methods({method: sorted(_points(rows, method, "latency")) for method in methods})
    if not any(curves.values()):
        return None

    best = best_methods(curves)
    worst = {
        row[f"speedup_{by}"]: row["worst_psnr"]
        for row in rows
        if best and row["method"] == best[0] and row.get(f"speedup_{by}") and _finite(row.get("worst_psnr"))
    }

    def draw(figure: Any, width: float) -> None:
        axes = figure.subplots()
        front = pareto([point for points in curves.values() for point in points])
        axes.plot(*zip(*front, strict=True), color="#f4c542", linewidth=7, alpha=0.45, zorder=0)
        draw_glance(axes, curves, worst=worst, like=like, more="yellow: what nothing beats")
        axes.set_xlabel("times faster, measured" if by == "latency" else "times fewer FLOPs")

    return both(draw, salt=salt, heights=(5.0, 4.5))


def stages(renders: Sequence[Mapping[str, Any]], *, salt: str) -> dict[str, str] | None:
    """Where a clip's time goes: stacked bars of median seconds; loading, paid once, is left out."""
    once = ("text", "load", "check", "compile")
    groups = [group for render in renders for group in render["groups"]][:_MOST_ROWS]
    names = list(dict.fromkeys(name for group in groups for name in group["stages"] if name not in once))
    if not groups or not names:
        return None

    def draw(figure: Any, width: float) -> None:
        axes = figure.subplots()
        for row, group in enumerate(groups):
            left = 0.0
            for number, name in enumerate(names):
                took = group["stages"].get(name, {}).get("median", 0.0)
                axes.barh(
                    row, took, left=left, color=_STAGES[-1 - number % len(_STAGES)], label=name if not row else None
                )
                left += took
        _bars(axes, [group["label"] for group in groups], width)
        axes.set_xlabel("seconds of a clip, medians")
        figure.legend(loc="outside lower center", ncols=3 if width == NARROW else 6, frameon=False, fontsize=9)

    return both(draw, salt=salt, heights=(1.8 + 0.36 * len(groups), 2.2 + 0.62 * len(groups)))


def memory(data: Mapping[str, Any], *, salt: str) -> dict[str, str] | None:
    """Peak memory of comparisons' settings and of renders."""
    bars: list[tuple[str, float, float]] = []
    for comparison in data["comparisons"]:
        for row in comparison["rows"]:
            if row.get("peak_memory"):
                name = f"{row['method']} {row['setting']}".strip()
                bars.append((name, row["peak_memory"] / _GIB, (row.get("cache_bytes") or 0) / _GIB))
    for render in data["renders"]:
        bars += [(g["label"], g["peak_memory"] / _GIB, 0.0) for g in render["groups"] if g["peak_memory"]]
    bars = bars[:_MOST_ROWS]
    if not bars:
        return None

    def draw(figure: Any, width: float) -> None:
        axes = figure.subplots()
        for row, (_, peak, cache) in enumerate(bars):
            axes.barh(row, peak, color="#7b8794", label=None if row else "peak")
            if any(kept for _, _, kept in bars):
                axes.barh(row, cache, color="#d55e00", height=0.4, label=None if row else "of it the method's cache")
        _bars(axes, [name for name, _, _ in bars], width)
        axes.set_xlabel("GiB")
        figure.legend(loc="outside lower center", ncols=2, frameon=False, fontsize=9)

    return both(draw, salt=salt, heights=(1.6 + 0.3 * len(bars), 2.0 + 0.5 * len(bars)))


def heat_map(found: Mapping[str, Any], *, salt: str) -> dict[str, str]:
    """Step x site: what was done, or how large an error is."""

    def draw(figure: Any, width: float) -> None:
        from matplotlib.colors import ListedColormap
        from matplotlib.patches import Patch

        axes = figure.subplots()
        if found["kind"] == "actions":
            rows = [[LETTERS.index(letter) for letter in step] for step in found["values"]]
            columns = [list(column) for column in zip(*rows, strict=True)]
            colours = ListedColormap(list(_ACTIONS))
            axes.imshow(columns, cmap=colours, vmin=-0.5, vmax=5.5, aspect="auto", interpolation="nearest")
            there = sorted({value for row in rows for value in row})
            legend = [Patch(facecolor=_ACTIONS[k], edgecolor="0.5", label=NAMES[k]) for k in there]
            figure.legend(handles=legend, loc="outside lower center", ncols=3, frameon=False, fontsize=9)
        else:
            errors = [[float("nan") if v is None else v for v in c] for c in zip(*found["values"], strict=True)]
            image = axes.imshow(errors, cmap="magma_r", aspect="auto", interpolation="nearest")
            figure.colorbar(image, ax=axes, label="error")
        _site_labels(axes, found["sites"])
        axes.set_xlabel("step")
        axes.set_title(found["title"], fontsize=10, loc="left", wrap=True)

    return both(draw, salt=salt, heights=(4.0, 4.2))


def scaling(lines: Sequence[Mapping[str, Any]], *, salt: str) -> dict[str, str] | None:
    """How many times faster several ranks are, and the ideal."""
    if not lines:
        return None

    def draw(figure: Any, width: float) -> None:
        axes = figure.subplots()
        most = 1.0
        for line in lines:
            first = line["points"][0]
            points = [(p["ranks"], first["ranks"] * first["seconds"] / p["seconds"]) for p in line["points"]]
            axes.plot(*zip(*points, strict=True), marker="o", label=line["label"])
            most = max(most, *(ranks for ranks, _ in points))
        axes.plot([1, most], [1, most], color="0.6", linestyle="--", label="ideal")
        axes.set_xlabel("ranks")
        axes.set_ylabel("times faster than one")
        _plain(axes)
        figure.legend(loc="outside lower center", frameon=False, fontsize=9)

    return both(draw, salt=salt, heights=(4.4, 4.6))


def _points(rows: Sequence[Mapping[str, Any]], method: str, by: str) -> list[tuple[float, float]]:
    return [
        (row[f"speedup_{by}"], row["psnr"])
        for row in rows
        if row["method"] == method and not row["error"] and row.get(f"speedup_{by}") and _finite(row["psnr"])
    ]


def _finite(value: Any) -> bool:
    # JSON holds infinity as a text.
    return isinstance(value, int | float)


def _plain(axes: Any) -> None:
    axes.grid(color="0.9")
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def _bars(axes: Any, names: Sequence[str], width: float) -> None:
    """Names beside the bars, or above them where there is no room beside."""
    _plain(axes)
    axes.invert_yaxis()
    if width == NARROW:
        axes.set_yticks([])
        for row, name in enumerate(names):
            short = name if len(name) <= 52 else f"{name[:51]}…"
            axes.text(0.0, row - 0.46, short, fontsize=8, va="bottom", clip_on=False)
        axes.set_ylim(len(names) - 0.4, -1.0)
        for bar in axes.patches:
            bar.set_height(bar.get_height() * 0.55)
    else:
        axes.set_yticks(range(len(names)), names, fontsize=9)


def _site_labels(axes: Any, sites: Sequence[str]) -> None:
    if not sites:
        axes.set_ylabel("site")
        return
    every = -(-len(sites) // 18)
    places = list(range(0, len(sites), every))
    axes.set_yticks(places, [sites[place] for place in places], fontsize=7)
