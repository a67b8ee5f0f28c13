"""Pictures of a comparison: speed-up against PSNR. They need matplotlib, the extra [report].

One is to be read at a glance, on a phone too: the best methods and both controls in colour with their names at the
curves' ends, the rest thin and grey. The other has a small panel for each method.
"""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from typing import Any

from videoaccel.common.wording import counted
from videoaccel.comparison.table import Point, Result, curve_of, psnr_at
from videoaccel.comparison.values import CONTROLS, EXACT, OFF

_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7")
"""Told apart with most kinds of colour blindness; as many methods are told apart as there are colours."""

_GREY = "#b8b8b8"
_AXES = {"latency": "measured speed-up of denoising", "flops": "fewer FLOPs, times"}
_READ_AT = (1.5, 2.0, 2.5, 3.0)
"""Speed-ups at which curves are held against one another."""

_SHOWN = (0.97, 4.05)
"""Speed-ups shown at most: beyond, little is left of a clip."""

_COLUMNS = 4

_LONG = 22
"""Letters of a name, at most: longer ones would take the curves' place."""


def plot(results: Sequence[Result], *, title: str) -> bytes:
    """A PNG to be read at a glance: the best curves, the controls, and behind the best one what its worst clips kept.

    Args:
        results: All of the comparison; errors are left out. Over FLOPs where nothing was timed.
        title: Model, size, steps.
    """
    return _png(_glance, results, title, dpi=150)


def plot_each(results: Sequence[Result], *, title: str) -> bytes:
    """A PNG with a panel for each method: its curves over measured speed-up and over FLOPs, all others behind them."""
    return _png(_panels, results, title, dpi=100)


def methods_of(results: Sequence[Result]) -> list[str]:
    """Methods that have a curve, the controls last."""
    found = dict.fromkeys(result.method for result in results if result.method not in (EXACT, OFF))
    shown = [method for method in found if any(curve_of(results, method, by=by) for by in _AXES)]
    return [m for m in shown if m not in CONTROLS] + [m for m in CONTROLS if m in shown]


def best_methods(curves: Mapping[str, Sequence[Point]]) -> list[str]:
    """Methods to tell apart, the best first: one over a method's place among the others at 1.5, 2, 2.5 and 3 times.

    Pairs (``fora+sada``) are methods like others; controls are none.
    """
    score = {method: 0.0 for method, curve in curves.items() if curve and method not in CONTROLS}
    for speedup in _READ_AT:
        there = {m: value for m in score if (value := psnr_at(curves[m], speedup)) is not None}
        for method, value in there.items():
            score[method] += 1 / (1 + sum(other > value for other in there.values()))
    return sorted(score, key=lambda method: -score[method])[: len(_COLOURS)]


def palette(chosen: Sequence[str], like: Sequence[str] = ()) -> dict[str, int]:
    """Numbers of methods' colours: those that another picture has chosen keep theirs, the others take what is free.

    >>> palette(["soda", "sada", "fora"]), palette(["soda", "fora", "pab"], like=["soda", "sada", "fora"])
    ({'soda': 0, 'sada': 1, 'fora': 2}, {'soda': 0, 'fora': 2, 'pab': 1})
    """
    kept = {method: list(like).index(method) for method in chosen if method in like}
    free = iter(number for number in range(len(_COLOURS)) if number not in kept.values())
    return {method: kept[method] if method in kept else next(free) for method in chosen}


def draw_glance(
    panel: Any,
    curves: Mapping[str, Sequence[Point]],
    *,
    worst: Mapping[float, float],
    like: Sequence[str] = (),
    more: str = "",
) -> None:
    """The best curves and the controls with their names at the ends, the others grey.

    Args:
        panel: Axes of matplotlib.
        curves: By method: speed-up and PSNR, by rising speed-up.
        worst: Of the best method, by speed-up, what its worst clip kept; shaded.
        like: Methods that a picture beside this one has chosen, in its order: they have the same colours here.
        more: What else the note above says.
    """
    chosen, controls = best_methods(curves), [m for m in CONTROLS if curves.get(m)]
    colours = palette(chosen, like)
    named = [*reversed(chosen), *controls]
    others = [method for method, curve in curves.items() if curve and method not in named]
    for method in others:
        panel.plot(*_within(curves[method]), color=_GREY, linewidth=0.9, zorder=1)
    ends: list[tuple[Point, str, str]] = []
    for method in named:
        x, y = _within(curves[method])
        look = _look(method, colours)
        panel.plot(x, y, markersize=5, linewidth=2.4 if method in chosen[:1] else 1.6, **look)
        if x:
            ends.append(((x[-1], y[-1]), method, look["color"]))
    said = []
    if chosen and _shaded(panel, curves[chosen[0]], worst, colour=_COLOURS[colours[chosen[0]]]):
        said.append(f"shaded: down to the worst clip of {chosen[0]}")
    if others:
        said.append(f"grey: {counted(len(others), 'other method')}")
    said += [more] if more else []
    panel.set_title("\n".join(said), color="0.4", loc="right", fontsize=10)  # above: curves may be anywhere below
    if not ends:
        panel.text(0.5, 0.5, "no method has a result to show", ha="center", transform=panel.transAxes)
    panel.set_ylabel("PSNR against the exact clip, dB")
    _bare(panel)
    _name_ends(panel, ends)


def worst_of(results: Sequence[Result], method: str, *, by: str) -> dict[float, float]:
    """By speed-up what a method's worst clip kept."""
    found: dict[float, float] = {}
    for result in results:
        at = result.speedup_latency if by == "latency" else result.speedup_flops
        if result.method == method and result.error is None and at is not None and result.worst_psnr is not None:
            found[at] = result.worst_psnr
    return found


def _png(draw: Any, results: Sequence[Result], title: str, *, dpi: int) -> bytes:
    import matplotlib

    data = io.BytesIO()
    with matplotlib.rc_context({"text.parse_math": False, "font.size": 12}):  # a "$" in a name is no formula
        draw(results, title).savefig(data, format="png", dpi=dpi, pil_kwargs={"optimize": True})
    return data.getvalue()


def _figure(width: float, height: float, title: str) -> Any:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(title, fontsize=11)  # wrapping would read a "$" as a formula
    return figure


def _axis(results: Sequence[Result]) -> str:
    return "latency" if any(result.speedup_latency is not None for result in results) else "flops"


def _bare(panel: Any) -> None:
    panel.grid(color="0.92")
    panel.set_axisbelow(True)
    panel.spines[["top", "right"]].set_visible(False)


def _glance(results: Sequence[Result], title: str) -> Any:
    figure, by = _figure(7.2, 5.4, title), _axis(results)
    panel = figure.subplots()
    curves = {method: curve_of(results, method, by=by) for method in methods_of(results)}
    worst = worst_of(results, chosen[0], by=by) if (chosen := best_methods(curves)) else {}
    draw_glance(panel, curves, worst=worst)
    panel.set_xlabel(_AXES[by])
    return figure


def _look(method: str, colours: Mapping[str, int]) -> dict[str, Any]:
    """The controls black and broken, since the others are to be held against them."""
    if method in CONTROLS:
        first = method == CONTROLS[0]
        return {"color": "black", "marker": "x" if first else "+", "linestyle": (0, (4, 2)) if first else (0, (1, 1.5))}
    number = colours[method]
    return {"color": _COLOURS[number], "marker": "osD^"[number], "linestyle": "-"}


def _within(curve: Sequence[Point]) -> tuple[list[float], list[float]]:
    """The part of a curve that is shown, up to where it leaves the picture."""
    points = [point for point in curve if point[0] <= _SHOWN[1]]
    if len(points) < len(curve) and points and (value := psnr_at(curve, _SHOWN[1])) is not None:
        points = [*points, (_SHOWN[1], value)]
    return [x for x, _ in points], [y for _, y in points]


def _shaded(panel: Any, curve: Sequence[Point], worst: Mapping[float, float], *, colour: str) -> bool:
    """Shade between what a method's clips kept on average and what its worst clip did; False if there is no such."""
    mean = dict(curve)
    x = sorted(at for at in worst if at in mean and at <= _SHOWN[1] and math.isfinite(worst[at]))
    if len(x) < 2:
        return False
    low, high = [worst[at] for at in x], [mean[at] for at in x]
    panel.fill_between(x, low, high, color=colour, alpha=0.12, linewidth=0)
    return True


def _name_ends(panel: Any, ends: Sequence[tuple[Point, str, str]]) -> None:
    """Names at the right ends of curves, moved apart where they would meet."""
    low, high = panel.get_ylim()
    gap = (high - low) * 0.052
    places = spread([y for (_, y), _, _ in ends], gap)
    right = max([x for (x, _), _, _ in ends], default=1.0)
    for ((x, y), method, colour), place in zip(ends, places, strict=True):
        name = method if len(method) <= _LONG else f"{method[: _LONG - 1]}…"
        panel.annotate(
            name, (x, y), xytext=(right + 0.08, place), color=colour, va="center", fontsize=11, annotation_clip=False,
            arrowprops={"arrowstyle": "-", "color": colour, "linewidth": 0.5, "alpha": 0.5},
        )  # fmt: skip
    panel.set_xlim(min(_SHOWN[0], panel.get_xlim()[0]), right + 0.05)


def spread(heights: Sequence[float], gap: float) -> list[float]:
    """Heights at least a gap apart, in the same order, each near where it was.

    >>> spread([1.0, 1.2, 5.0], 1.0)
    [0.6, 1.6, 5.0]
    """
    order = sorted(range(len(heights)), key=heights.__getitem__)
    groups: list[list[int]] = []
    for index in order:
        groups.append([index])
        while len(groups) > 1 and _bottom(groups[-1], heights, gap) < _top(groups[-2], heights, gap) + gap:
            groups[-2:] = [groups[-2] + groups[-1]]
    found = list(heights)
    for group in groups:
        for place, index in enumerate(group):
            found[index] = round(_bottom(group, heights, gap) + place * gap, 9)
    return found


def _bottom(group: Sequence[int], heights: Sequence[float], gap: float) -> float:
    return sum(heights[index] for index in group) / len(group) - gap * (len(group) - 1) / 2


def _top(group: Sequence[int], heights: Sequence[float], gap: float) -> float:
    return _bottom(group, heights, gap) + gap * (len(group) - 1)


def _panels(results: Sequence[Result], title: str) -> Any:
    methods = methods_of(results)
    rows = max(1, math.ceil(len(methods) / _COLUMNS))
    figure = _figure(2.6 * _COLUMNS, 2.1 * rows + 0.7, title)
    panels = figure.subplots(rows, _COLUMNS, sharex=True, sharey=True, squeeze=False)
    by = _axis(results)
    for panel, method in zip(panels.flat, methods, strict=False):
        for other in methods:
            panel.plot(*_within(curve_of(results, other, by=by)), color="0.85", linewidth=0.8, zorder=1)
        colour = "black" if method in CONTROLS else _COLOURS[0]
        panel.plot(*_within(curve_of(results, method, by="flops")), color=colour, linewidth=1, linestyle=(0, (2, 1.5)))
        panel.plot(*_within(curve_of(results, method, by="latency")), color=colour, marker="o", markersize=3.5)
        panel.set_title(method, fontsize=11, loc="left", color=colour)
        _bare(panel)
    for panel in panels.flat[len(methods) :]:
        panel.set_axis_off()
    figure.supxlabel("speed-up of denoising: measured (dots), in FLOPs (broken)", fontsize=11)
    figure.supylabel("PSNR against the exact clip, dB", fontsize=11)
    panels.flat[0].set_xticks(range(1, 5))
    return figure
