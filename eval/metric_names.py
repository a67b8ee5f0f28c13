"""Metrics by name: the name is that of the file in ``eval/metrics``."""

from videoaccel.common.plugins import class_in, names_in
from videoaccel.eval import metrics
from videoaccel.eval.metric import ClipMetric


def metric_names() -> list[str]:
    """All metrics, in alphabetical order."""
    return names_in(metrics)


def metric_class(name: str) -> type[ClipMetric]:
    """The class of a metric.

    Raises:
        ValueError: There is no such metric.
    """
    return class_in(metrics, name, ClipMetric, what="metric")  # type: ignore[type-abstract]
