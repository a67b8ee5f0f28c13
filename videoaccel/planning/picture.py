"""A plan or a run drawn: step by site, one colour an action, with what each step costs and is expected to err."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from videoaccel.common.files import atomic_file
from videoaccel.planning.plan_report import PlanReport
from videoaccel.session.actions import Action, Borrow, Combine, Compute, Forecast, Partial, Place, Reuse

MOST_LABELS = 40


def draw(
    report: PlanReport,
    path: str | Path,
    *,
    errors: Sequence[Mapping[Place, float]] = (),
    guidance: Mapping[int, float] | None = None,
) -> None:
    """Write the picture, a png.

    Args:
        report: What is, or was, done.
        path: The file.
        errors: For every step the relative error expected at places that are not computed; drawn if there is any.
        guidance: By step how far the guidance branches are apart; drawn if there is any.

    Raises:
        ValueError: matplotlib is not installed, or there is no plan, since decisions depend on the clip.
        OSError: The file cannot be written.
    """
    if report.adaptive:
        raise ValueError(f"there is no plan of {report.method} to draw: its decisions depend on the clip")
    try:
        import matplotlib

        matplotlib.use("Agg")
    except ImportError:
        raise ValueError("`png` needs matplotlib; pip install 'videoaccel[report]' brings it") from None
    with matplotlib.rc_context({"text.parse_math": False}), atomic_file(path) as file:  # a "$" is no formula
        _drawn(report, errors, guidance or {}).savefig(file, format="png")


def _drawn(report: PlanReport, errors: Sequence[Mapping[Place, float]], guidance: Mapping[int, float]) -> Any:
    from matplotlib.colors import ListedColormap
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch

    grid = report.grid()
    sites = [site for modules in report.blocks.values() for site in modules]
    actions = sorted({action for step in grid for action in step.values()}, key=_order)
    rows = [[actions.index(step[site]) for step in grid] for site in sites]
    below = [name for name, found in (("errors", any(errors)), ("guidance", bool(guidance))) if found]
    height = min(14.0, max(3.2, 1.9 + 0.16 * len(sites)))
    whole = height + 0.9 * len(below)
    figure = Figure(figsize=(max(6.5, 3.2 + 0.26 * len(grid)), whole), dpi=130, layout="constrained")
    ratios = [0.8, height - 1.4, *[0.8 for _ in below]]
    above, main, *others = figure.subplots(len(ratios), 1, sharex=True, gridspec_kw={"height_ratios": ratios})
    colours = ListedColormap([_colour(action) for action in actions])
    main.imshow(rows, cmap=colours, vmin=-0.5, vmax=len(actions) - 0.5, aspect="auto", interpolation="nearest")
    _lines(main, len(grid), [len(modules) for modules in report.blocks.values()])
    places, names = _labels(sites, [len(modules) for modules in report.blocks.values()])
    main.set_yticks(places, names, fontsize=7)
    main.set_xticks(range(0, len(grid), max(1, len(grid) // 15)))
    _costs(above, report)
    for axes, name in zip(others, below, strict=True):
        if name == "errors":
            _errors(axes, errors)
        else:
            _guidance(axes, guidance)
    figure.axes[-1].set_xlabel("step")
    legend = [Patch(facecolor=_colour(a), edgecolor="0.5", label=_name(a)) for a in actions]
    figure.legend(handles=legend, loc="outside lower center", ncols=min(6, len(legend)), fontsize=8, frameon=False)
    figure.suptitle(_title(report), fontsize=9)
    return figure


def _costs(axes: Any, report: PlanReport) -> None:
    """What each step costs, in percent of one that computes everything."""
    costs = report.ms or report.flops
    shares = [
        100 * costs.step(step, share) / costs.dense for step, share in zip(report.steps, report.shares, strict=True)
    ]
    axes.bar(range(len(shares)), shares, width=0.8, color="0.45")
    axes.set_ylim(0, 105)
    axes.set_yticks([0, 50, 100])
    axes.tick_params(labelsize=7, labelbottom=False)
    axes.set_ylabel(f"{costs.unit.replace('flops', 'FLOPs')}, %", fontsize=7)
    axes.spines[["top", "right"]].set_visible(False)


def _errors(axes: Any, errors: Sequence[Mapping[Place, float]]) -> None:
    """The largest and the mean error expected in each step."""
    steps = [i for i, step in enumerate(errors) if step]
    largest = [max(errors[i].values()) for i in steps]
    axes.vlines(steps, 0, largest, color="#c0504d", linewidth=1.2)
    axes.plot(steps, largest, "o", color="#c0504d", markersize=3, label="largest")
    if any(len(errors[i]) > 1 for i in steps):
        means = [sum(errors[i].values()) / len(errors[i]) for i in steps]
        axes.plot(steps, means, "_", color="0.2", markersize=6, label="mean")
        axes.legend(fontsize=6, frameon=False, loc="upper right")
    _small(axes, "expected\nerror")


def _guidance(axes: Any, guidance: Mapping[int, float]) -> None:
    """How far the unconditional branch is from the conditional one where both ran."""
    axes.plot(list(guidance), list(guidance.values()), ".", color="#1b3a6b", markersize=4)
    _small(axes, "guidance:\nbranches\napart")


def _small(axes: Any, name: str) -> None:
    axes.set_ylim(bottom=0)
    axes.tick_params(labelsize=7)
    axes.set_ylabel(name, fontsize=7)
    axes.spines[["top", "right"]].set_visible(False)


def _lines(axes: Any, steps: int, blocks: Sequence[int]) -> None:
    """White between steps, and between blocks."""
    for i in range(1, steps):
        axes.axvline(i - 0.5, color="white", linewidth=0.8)
    edge = 0
    for count in blocks[:-1]:
        edge += count
        axes.axhline(edge - 0.5, color="white", linewidth=0.8 if len(blocks) <= 24 else 0.3)


def _labels(sites: Sequence[Any], blocks: Sequence[int]) -> tuple[list[float], list[str]]:
    """Names of all sites if they fit, else of some blocks."""
    if len(sites) <= MOST_LABELS:
        return [float(row) for row in range(len(sites))], [str(site) for site in sites]
    every = -(-len(blocks) // MOST_LABELS) if len(blocks) > MOST_LABELS else 1
    every += every % 2 if every > 1 else 0  # spatial and temporal blocks take turns: name those of one axis
    places, names, row = [], [], 0
    for number, count in enumerate(blocks):
        if number % every == 0:
            places.append(row + (count - 1) / 2)
            names.append(f"{sites[row].axis}.{sites[row].layer}")
        row += count
    return places, names


def _title(report: PlanReport) -> str:
    parts = [report.method, f"{report.ratio(report.flops):.2f}x fewer FLOPs"]
    if report.ms is not None:
        parts.append(f"{report.ratio(report.ms):.2f}x faster (predicted)")
    return ", ".join(parts)


def _order(action: Action) -> tuple[int, float]:
    if isinstance(action, Compute):
        return 0, -action.width
    if isinstance(action, Partial):
        return 1, -action.keep
    if isinstance(action, Combine):
        return 2, 3 + len(action.weights)
    if isinstance(action, Forecast):
        return 2, action.order
    if isinstance(action, Borrow):
        return 5, 0.0
    return (3, 0.0) if isinstance(action, Reuse) else (4, 0.0)


def _colour(action: Action) -> str:
    kind, degree = _order(action)
    if kind == 0:
        shades = ["#1b3a6b", "#3c62a0", "#6f93c8", "#a9c1e4"]  # whole, then three quarters of the neurons and fewer
        return shades[0 if degree == -1 else 1 if -degree > 0.6 else 2 if -degree > 0.35 else 3]
    if kind == 1:
        shades = ["#2f8f6b", "#63b58f", "#9dd6b8"]
        return shades[0] if -degree > 0.6 else shades[1] if -degree > 0.35 else shades[2]
    if kind == 2:
        return ["#f6d9a8", "#f2b65c", "#e08e2b", "#b96a12"][min(int(degree), 3)]
    return {3: "#d9d9d9", 4: "#f5f5f5"}.get(kind, "#8f7fc0")


def _name(action: Action) -> str:
    if isinstance(action, Partial):
        return f"compute {action.keep:.0%} of the columns"
    if isinstance(action, Compute) and action.width != 1:
        return f"compute {action.width:.0%} of the neurons"
    if isinstance(action, Forecast):
        return f"forecast, order {action.order}"
    if isinstance(action, Combine):
        return f"combination of {len(action.weights)}, fitted"
    if isinstance(action, Borrow):
        return f"compute, {action.branch} borrows"
    return str(action)
