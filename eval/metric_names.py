"""Metrics by name: the name is that of the file in ``eval/metrics``."""

from videoaccel.common.plugins import class_in, names_in
from videoaccel.eval.metric import ClipMetric

METRICS = "videoaccel.eval.metrics"


def metric_names() -> list[str]:
    """All metrics, in alphabetical order."""
    return names_in(METRICS)


def metric_class(name: str) -> type[ClipMetric]:
    """The class of a metric.

    Raises:
        ValueError: There is no such metric.
    """
    return class_in(METRICS, name, ClipMetric, what="metric")  # type: ignore[type-abstract]
