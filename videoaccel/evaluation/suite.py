"""Which metrics are run: suites by name, from ``configs/suites``."""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import Field

from videoaccel.eval.metric_names import metric_class, metric_names
from videoaccel.settings.config import Config, config_names, load_named

ALL = "all"
"""The metrics of all suites."""


class Suite(Config):
    """Metrics that are run together.

    Attributes:
        description: One line for help.
        metrics: Their names; that of the file in ``eval/metrics``.
    """

    description: str
    metrics: tuple[str, ...] = Field(min_length=1)


def suite_names() -> list[str]:
    """What can be asked for."""
    return [*config_names("suites"), ALL]


def choose_metrics(names: Sequence[str], *, reference: bool) -> tuple[str, ...]:
    """Metrics of suites or by name, each once.

    Args:
        names: Suites and metrics.
        reference: Whether there are clips to compare with; those that need one are left out of ``all`` without.

    Raises:
        ValueError: There is no such suite or metric, none was named, or one needs references that were not given.
    """
    if isinstance(names, str):
        raise ValueError(f"suite is a list, such as suite=['fidelity'], got {names!r}")
    if not names:
        raise ValueError(f"name a suite; there are {', '.join(suite_names())}")
    found: dict[str, None] = {}
    for name in names:
        if name == ALL:
            every = [metric for suite in config_names("suites") for metric in _suite(suite)]
            found |= dict.fromkeys(m for m in every if reference or not metric_class(m).needs_reference)
        elif name in config_names("suites"):
            found |= dict.fromkeys(_suite(name))
        elif name in metric_names():
            found[name] = None
        else:
            raise ValueError(f"no suite or metric is called {name!r}; suites are {', '.join(suite_names())}")
    if not reference and (needy := [name for name in found if metric_class(name).needs_reference]):
        raise ValueError(f"{needy[0]} compares with references; say where they are: --reference DIR")
    return tuple(found)


def _suite(name: str) -> tuple[str, ...]:
    metrics = load_named("suites", name, Suite).metrics
    for metric in metrics:
        metric_class(metric)
    return metrics
