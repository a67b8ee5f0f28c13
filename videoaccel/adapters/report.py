"""What happened in a generation: which calls were computed, which were forecast, what was refused and why."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

from videoaccel.adapters.rule import Due
from videoaccel.adapters.streams import Stream, shape_of
from videoaccel.common.wording import as_bytes, counted


@dataclass(frozen=True)
class StreamReport:
    """One stream of calls.

    Attributes:
        component: The network.
        context: The name that the pipeline gave the calls; None if none.
        shape: Of the latent that it was given.
        ordinal: Number among such calls of an evaluation.
        computed: Calls in which the network ran.
        forecast: Calls that were answered without it.
        refused: By reason, how many of the computed ones were computed against the method.
        left: How many of those that were forecast left the network after its first block.
    """

    component: str
    context: str | None
    shape: tuple[int, ...]
    ordinal: int
    computed: int
    forecast: int
    refused: Mapping[str, int]
    left: int = 0


@dataclass(frozen=True)
class Report:
    """One generation.

    Attributes:
        pipeline: Class of the pipeline.
        method: Name of the method.
        evaluations: How many there were; those of all segments.
        computed: Numbers of those in which a network ran.
        segments: How often the course began anew, and the first time.
        streams: What became of each stream of calls, in order of their first call.
        passed: By reason, calls that were handed on unseen.
        due: By reason, calls that were computed as the method wants it.
        seconds_in_networks: Time of the calls that were computed, and of those that were left early.
        seconds: Time of the whole call of the pipeline.
        stored_bytes: Most memory that kept outputs took.
        failed: Whether the pipeline raised.
        note: What the method says of it.
        residual: Of a method that may forecast either, what was forecast: ``body``, what the blocks add, or
            ``output``; with the reason where that was not chosen. None of the others.
    """

    pipeline: str
    method: str
    evaluations: int
    computed: tuple[int, ...]
    segments: int
    streams: tuple[StreamReport, ...]
    passed: Mapping[str, int]
    seconds_in_networks: float
    seconds: float
    stored_bytes: int
    failed: bool = False
    note: str | None = None
    residual: str | None = None
    due: Mapping[str, int] = field(default_factory=dict)

    @property
    def calls(self) -> int:
        """Calls of networks by the pipeline that were seen."""
        return self.calls_computed + sum(stream.forecast for stream in self.streams)

    @property
    def calls_computed(self) -> int:
        """Those in which a network ran."""
        return sum(stream.computed for stream in self.streams)

    @property
    def calls_left(self) -> int:
        """Those that left a network after its first block."""
        return sum(stream.left for stream in self.streams)

    @property
    def reasons(self) -> dict[str, int]:
        """By reason, calls that were computed against the method, or handed on."""
        found: Counter[str] = Counter(self.passed)
        for stream in self.streams:
            found.update(stream.refused)
        return dict(found)

    @property
    def summary(self) -> str:
        """In one line."""
        if not self.evaluations and not self.passed:
            return f"{self.pipeline}, {self.method}: {self.note or 'no network was called'}"
        head = (
            f"{self.pipeline}, {self.method}: {self.calls_computed} of {self.calls} calls computed, in "
            f"{len(self.computed)} of {self.evaluations} evaluations; {self.seconds_in_networks:.2f} of "
            f"{self.seconds:.2f} s in networks; {as_bytes(self.stored_bytes)} kept"
        )
        if self.calls_left:
            head += f"; {counted(self.calls_left, 'call')} left after the first block"
        if self.residual is not None:
            head += f"; residual: {self.residual}"
        if self.note is not None:
            head += f"; {self.note}"
        refused: Counter[str] = Counter()
        for stream in self.streams:
            refused.update(stream.refused)
        for reason, count in refused.most_common(1):
            head += f"; {counted(count, 'call')} computed against the method: {reason}"
        if self.calls == self.calls_computed and not refused:
            for reason, count in Counter(self.due).most_common(1):
                head += f"; {counted(count, 'call')} computed by the method: {reason}"
        return head + (f"; {self.segments} segments" if self.segments > 1 else "")

    def __str__(self) -> str:
        rows = [("network", "call", "latent", "computed", "forecast", "refused")]
        for stream in self.streams:
            name = (stream.context or "") + (f" #{stream.ordinal + 1}" if stream.ordinal else "")
            refused = ", ".join(f"{count} {reason}" for reason, count in stream.refused.items())
            shape = "x".join(map(str, stream.shape))
            rows.append((stream.component, name.strip(), shape, str(stream.computed), str(stream.forecast), refused))
        widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
        lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
        tail = [f"{counted(count, 'call')} computed by the method: {reason}" for reason, count in self.due.items()]
        tail += [f"{counted(count, 'call')} handed on: {reason}" for reason, count in self.passed.items()]
        if not self.streams:
            lines = []
        return "\n".join([self.summary, *lines, *tail, *(["the pipeline raised an error"] if self.failed else [])])


NOTHING = "nothing has been generated since it was attached"


def nothing_yet(pipeline: str, method: str) -> Report:
    """Of something that is attached and has not seen a generation."""
    return Report(
        pipeline, method, 0, (), 0, (), {}, 0.0, 0.0, 0, note="nothing has been generated since it was attached"
    )


@dataclass
class Tally:
    """Counts while a generation is under way.

    Attributes:
        passed: By reason, calls that were handed on unseen.
        due: By reason, calls that were computed as the method wants it.
    """

    passed: Counter[str] = field(default_factory=Counter)
    computed: Counter[Stream] = field(default_factory=Counter)
    forecast: Counter[Stream] = field(default_factory=Counter)
    refused: dict[Stream, Counter[str]] = field(default_factory=dict)
    left: Counter[Stream] = field(default_factory=Counter)
    due: Counter[str] = field(default_factory=Counter)

    def ran(self, stream: Stream, reason: str | None, due: Due | None = None) -> None:
        """A call was computed, with the reason if that was against the method, or else the method's own."""
        self.computed[stream] += 1
        told = self.refused.setdefault(stream, Counter())
        if reason is not None:
            told[reason] += 1
        elif due is not None:
            self.due[due.reason] += 1

    def served(self, stream: Stream) -> None:
        """A call was answered without the network."""
        self.forecast[stream] += 1
        self.refused.setdefault(stream, Counter())

    def made_up_for(self, stream: Stream, reason: str | None) -> None:
        """One that had been answered was computed after all."""
        self.forecast[stream] -= 1
        self.ran(stream, reason)

    def streams(self) -> tuple[StreamReport, ...]:
        """What became of each stream."""
        return tuple(
            StreamReport(
                component=stream.component,
                context=stream.context,
                shape=shape_of(stream.signature),
                ordinal=stream.ordinal,
                computed=self.computed[stream],
                forecast=self.forecast[stream],
                refused=dict(refused),
                left=self.left[stream],
            )
            for stream, refused in self.refused.items()
        )
