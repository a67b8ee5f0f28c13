"""A picture of a comparison: speed-up against PSNR, a curve a method. Needs matplotlib, the extra [report]."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

from videoaccel.comparison.settings import CONTROLS, EXACT, OFF
from videoaccel.comparison.table import Result, curve_of

_COLOURS = (
    "#0072b2",
    "#d55e00",
    "#009e73",
    "#cc79a7",
    "#e69f00",
    "#56b4e9",
    "#7f3fbf",
    "#8c564b",
    "#b22222",
    "#556b2f",
)
"""Told apart with most kinds of colour blindness; where they come again, marker and line are others."""

_MARKERS = "osD^vPX<>p"
_LINES = ("-", "--", "-.", ":")
_PANELS = (("latency", "measured speed-up of denoising"), ("flops", "fewer FLOPs, times"))


def plot(results: Sequence[Result], *, title: str) -> bytes:
    """A PNG with two panels: PSNR over the speed-up in latency, and over that in FLOPs.

    Args:
        results: All of the comparison; errors are left out.
        title: Model, size, steps.
    """
    import matplotlib

    data = io.BytesIO()
    with matplotlib.rc_context({"text.parse_math": False}):  # a "$" in a name is no formula
        _drawn(results, title).savefig(data, format="png", dpi=120)
    return data.getvalue()


def _drawn(results: Sequence[Result], title: str) -> Any:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    methods = list(dict.fromkeys(result.method for result in results if result.method not in (EXACT, OFF)))
    figure = Figure(figsize=(13, 6), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(1, len(_PANELS), sharey=True)
    lines: dict[str, Any] = {}
    for panel, (by, label) in zip(panels, _PANELS, strict=True):
        for number, method in enumerate(methods):
            curve = curve_of(results, method, by=by)
            if curve:
                (lines[method],) = panel.plot(*zip(*curve, strict=True), label=method, **style(method, number))
            if by == "latency":
                _spreads(panel, results, method, colour=str(style(method, number)["color"]))
        panel.axvline(1.0, color="0.6", linewidth=1)
        panel.set_xlabel(label, fontsize=12)
        panel.grid(color="0.9")
        panel.spines[["top", "right"]].set_visible(False)
    panels[0].set_ylabel("PSNR against the exact clip, dB", fontsize=12)
    order = [method for method in methods if method in lines]
    if order:
        figure.legend([lines[method] for method in order], order, loc="outside right upper", fontsize=11, frameon=False)
    else:
        panels[0].text(0.5, 0.5, "no method has a result to show", ha="center", transform=panels[0].transAxes)
    figure.suptitle(title, fontsize=13)
    return figure


def style(method: str, number: int) -> dict[str, Any]:
    """How a method's curve looks: the controls black, others told apart by colour, marker and line.

    Args:
        method: Its name.
        number: Its place among all methods.
    """
    if method in CONTROLS:  # what the others are to be held against
        mark = "x" if method == CONTROLS[0] else "+"
        line = (0, (4, 2)) if method == CONTROLS[0] else (0, (1, 1.5))
        return {"color": "black", "marker": mark, "markersize": 8, "linewidth": 2, "linestyle": line}
    colours, markers, lines = len(_COLOURS), len(_MARKERS), len(_LINES)
    return {
        "color": _COLOURS[number % colours],
        "marker": _MARKERS[(number + number // colours) % markers],
        "linestyle": _LINES[number // colours % lines],
        "markersize": 6,
        "linewidth": 1.8,
    }


def _spreads(panel: Any, results: Sequence[Result], method: str, *, colour: str) -> None:
    """Quartiles of the measured speed-ups as thin lines through the points."""
    for result in results:
        ends = (result.speedup_latency_low, result.speedup_latency_high)
        if (
            result.method == method
            and result.error is None
            and None not in ends
            and result.psnr not in (None, float("inf"))
        ):
            panel.plot(ends, [result.psnr] * 2, color=colour, linewidth=1, alpha=0.6, zorder=1)
