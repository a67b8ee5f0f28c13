"""Metrics by name: the name is that of the file in ``eval/metrics``."""

import difflib
import importlib
import pkgutil

from videoaccel.eval import metrics
from videoaccel.eval.metric import ClipMetric


def metric_names() -> list[str]:
    """All metrics, in alphabetical order."""
    return sorted(module.name for module in pkgutil.iter_modules(metrics.__path__) if not module.name.startswith("_"))


def metric_class(name: str) -> type[ClipMetric]:
    """The class of a metric.

    Raises:
        ValueError: There is no such metric.
    """
    if name not in metric_names():
        near = difflib.get_close_matches(name, metric_names(), n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(metric_names())}"
        raise ValueError(f"unknown metric {name!r}; {hint}")
    module = importlib.import_module(f"videoaccel.eval.metrics.{name}")
    (found,) = (
        value
        for value in vars(module).values()
        if isinstance(value, type) and issubclass(value, ClipMetric) and value.__module__ == module.__name__
    )
    return found
