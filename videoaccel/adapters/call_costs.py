"""How many operations a call of each network takes, counted in one plain generation."""

from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

from torch.utils.flop_counter import FlopCounterMode

from videoaccel.adapters.attach import modules_of, networks_of
from videoaccel.adapters.report import Report
from videoaccel.adapters.sides import NETWORKS


class CallCosts:
    """The mean of each network's calls.

    Attributes:
        flops: By network, operations of every call that was seen.
    """

    def __init__(self) -> None:
        self.flops: dict[str, list[int]] = defaultdict(list)

    @contextmanager
    def counted(self, pipe: Any) -> Iterator[None]:
        """Count calls of a pipeline's networks meanwhile."""
        with ExitStack() as hooks:
            for name, network in {**networks_of(pipe), **modules_of(pipe, NETWORKS)}.items():
                if hasattr(network, "_orig_mod") or getattr(network, "_compiled_call_impl", None) is not None:
                    continue  # what is compiled cannot be counted
                counters: list[FlopCounterMode] = []

                def begin(module: Any, inputs: Any, *, counters: list[FlopCounterMode] = counters) -> None:
                    counters.append(FlopCounterMode(display=False))
                    counters[-1].__enter__()

                def end(
                    module: Any, inputs: Any, output: Any, *, counters: list[FlopCounterMode] = counters,
                    name: str = name,
                ) -> None:  # fmt: skip
                    counter = counters.pop()
                    counter.__exit__(None, None, None)
                    self.flops[name].append(counter.get_total_flops())

                hooks.callback(network.register_forward_pre_hook(begin).remove)
                hooks.callback(network.register_forward_hook(end).remove)
            yield

    def total(self, report: Report) -> float | None:
        """Of the calls that a generation computed; None if a network of it was not seen."""
        computed: dict[str, int] = defaultdict(int)
        for stream in report.streams:
            computed[stream.component] += stream.computed
        if any(count and not self.flops.get(name) for name, count in computed.items()):
            return None
        means: Mapping[str, float] = {name: sum(calls) / len(calls) for name, calls in self.flops.items() if calls}
        return sum(means.get(name, 0.0) * count for name, count in computed.items())
