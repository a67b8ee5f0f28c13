"""One generation of somebody else's pipeline: what it calls is computed, or answered from what was computed."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from videoaccel.adapters.agreement import Agree, alone
from videoaccel.adapters.blocks import LEFT, MIDDLE, Blocks
from videoaccel.adapters.body import Body
from videoaccel.adapters.clock import CallClock
from videoaccel.adapters.forecast import History, Kept, choose, made_up
from videoaccel.adapters.inner import Inner
from videoaccel.adapters.observer import Observer
from videoaccel.adapters.outputs import Output, finite, taken_apart
from videoaccel.adapters.refusals import forbidden
from videoaccel.adapters.report import Report, Tally
from videoaccel.adapters.rule import Ask, Due, Evaluation, Refused, Serve, Space, Stepped, StepRule
from videoaccel.adapters.sides import STALE, Sides
from videoaccel.adapters.streams import Stream, Streams, latent_of, size_of_latent, time_of
from videoaccel.adapters.tracker import Tracker

BEFORE = Due("it runs before the network that decides")


class Generation:
    """From the pipeline's call to its return.

    Args:
        rules: Makes a rule for every segment.
        observers: Who is told.
        standing: Why nothing may be forecast in it at all; None if something may.
        agree: Makes numbers that decisions rest on the same on all ranks.
        wide: By component, channels of its latent if it predicts as many for a variance that the scheduler uses.
        blocks: By component, who listens to its blocks, of those that are listened to.
        inner: What is forecast of each network; None for outputs.
        main: The denoiser, if there is but one: calls beside it belong to its evaluations.
        sees: Told the size of the latents when the first call comes; says whether the rules are others by that.
    """

    def __init__(
        self,
        rules: Callable[[], StepRule],
        *,
        observers: Sequence[Observer] = (),
        standing: str | None = None,
        wide: dict[str, int] | None = None,
        agree: Agree = alone,
        blocks: Mapping[str, Blocks] | None = None,
        inner: Inner | None = None,
        main: str | None = None,
        sees: Callable[[str], bool] = lambda size: False,
    ) -> None:
        self.tracker, self.tally, self.clock, self.sides = Tracker(), Tally(), CallClock(), Sides()
        self.streams, self.computed = Streams(), list[int]()
        self._rules, self._observers, self._standing, self._wide = rules, observers, standing, wide or {}
        self._blocks, self._inner, self._main = blocks or {}, inner, main
        self._sees: Callable[[str], bool] | None = sees
        self._rule, self._agree = rules(), agree
        self._rule.agree = agree
        self.history = History(self._rule.keeps)
        self._now: Evaluation | None = None
        self._serve: Serve | None = None
        self._reason: str | None = None
        self._due: Due | None = None
        self._asks = self._idle = False
        self._space: Space | None = None
        self._steps: list[Stepped] = []
        self._ran = self._served = 0
        self._inside = False
        self._began = time.perf_counter()
        for observer in observers:
            observer.began()

    # What the pipeline does -----------------------------------------------------------------------------------------

    def entered(self, component: str, name: str | None) -> None:
        """The pipeline names the calls to come; None takes the last name back."""
        self.streams.entered(component, name)

    def scheduled(self, scheduler: Any) -> None:
        """A scheduler has been given its timesteps."""
        if self._now is not None:
            self._close()
            self._restart()
        self.tracker.scheduled(scheduler)

    def called(self, component: str, plain: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        """A network is called."""
        if self._inside or torch.is_grad_enabled():
            if not self._inside:
                self.tally.passed["gradients are wanted"] += 1
            return plain(*args, **kwargs)
        self._enter(component, args, kwargs)
        stream = self.streams.of(component, args, kwargs)
        x = latent_of(args, kwargs)
        made = None
        if self._serve is not None:
            body = None if self._inner is None else self._inner.of(component)
            around = None if body is None else partial(self._around, body, plain, args, kwargs)
            made = self._forecast(stream, self._serve, x, around)
        return self._compute(stream, plain, args, kwargs, x) if made is None else made

    def beside(self, component: str, plain: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        """A network whose output goes into the denoiser is called."""
        if self._main is None or self._inside or torch.is_grad_enabled():
            return plain(*args, **kwargs)
        self._enter(self._main, args, kwargs)
        stream = self.streams.of(component, args, kwargs)

        def call() -> Any:
            with self.clock.call(latent_of(args, kwargs)):
                return plain(*args, **kwargs)

        held = None if self._serve is None else self.sides.answer(stream, call)
        if held is not None:
            self.tally.served(stream)
            return held
        output = call()
        self.tally.ran(stream, self._reason, self._due or (BEFORE if self._asks else None))
        if self.forecasts:
            self.sides.keep(stream, output)
        return output

    def stepped(self, plain: Callable[..., Any], given: Mapping[str, Any]) -> Any:
        """The scheduler takes a step, with these arguments by name."""
        value, when, sample = (given.get(name) for name in ("model_output", "timestep", "sample"))
        position, back = self.tracker.stepped(when)
        now, course = self._now, self.tracker.course
        if back:
            self._restart()
        if now is not None and course is not None and course is not now.course:
            i, nth = (0, 0) if back else (now.i, now.nth)
            self._now = replace(now, i=i, nth=nth, course=course)
        result = plain()
        if isinstance(value, Tensor) and isinstance(sample, Tensor) and (self._rule.listens or self._observers):
            step = Stepped(value, when, sample, _moved(result), position)
            self._steps.append(step)
            for observer in self._observers:
                observer.stepped(self._now, step)
        return result

    def finish(self, *, pipeline: str, method: str, failed: bool, note: str | None = None) -> Report:
        """The pipeline has returned, or raised."""
        self._close()
        self.history.clear()
        self.sides.clear()
        for observer in self._observers:
            observer.ended(failed=failed)
        return Report(
            pipeline=pipeline,
            method=method,
            evaluations=self.tracker.number + 1,
            computed=tuple(self.computed),
            segments=self.tracker.segment + 1,
            streams=self.tally.streams(),
            passed=dict(self.tally.passed),
            due=dict(self.tally.due),
            seconds_in_networks=self.clock.seconds,
            seconds=time.perf_counter() - self._began,
            stored_bytes=self.history.peak_bytes + self.sides.peak_bytes,
            failed=failed,
            note=note,
            residual=None if self._inner is None else self._inner.told(),
        )

    @property
    def served(self) -> bool:
        """Whether any call so far was answered without its network."""
        return self.tally.forecast.total() > 0

    @property
    def forecasts(self) -> bool:
        """Whether its rules ever forecast."""
        return self._rule.keeps > 0

    # Evaluations ----------------------------------------------------------------------------------------------------

    def _enter(self, component: str, args: Any, kwargs: Any) -> None:
        """A network is called: it may be the first of an evaluation."""
        sees, self._sees = self._sees, None
        if sees is not None and (size := size_of_latent(args, kwargs)) is not None and sees(size):
            self._restart()
        segment = self.tracker.segment
        begun = self.tracker.called(component, time_of(args, kwargs))
        if begun is not None:
            self._close()
            if self.tracker.segment != segment:
                self._restart()
            self._open(begun)

    def _open(self, now: Evaluation) -> None:
        """An evaluation begins: decide about all of its calls at once."""
        self.streams.begin()
        self._now, self._steps = now, []
        self._ran = self._served = 0
        self._serve, self._reason, self._due, self._asks = None, None, None, False
        if not self.forecasts:
            return
        self._reason = self._standing or forbidden(now, apart=self.tracker.apart)
        self._reason = self._reason or (None if self._inner is None else self._inner.standing)
        self._idle = self._reason is not None
        if self._idle:
            return
        wanted = self._rule.decide(now)
        self.history.keeps = self._rule.keeps
        if isinstance(wanted, Refused):
            self._reason = wanted.reason
        elif isinstance(wanted, Due):
            self._due = wanted
        elif wanted is not None and self.history.least < self._rule.least:
            self._reason = "too few outputs computed in a row"
        elif isinstance(wanted, Ask):
            self._asks, self._reason = True, None if now.component in self._blocks else "its blocks are not known"
        elif wanted is not None:
            self._serve, self._space = wanted, self._rule.space(now.course)

    def _close(self) -> None:
        """The evaluation under way is over."""
        now, self._now = self._now, None
        self.sides.over()
        if now is None:
            return
        if self._ran:
            self.computed.append(now.number)
        if not self._served:
            self.history.only(self.streams.seen)
        self._rule.ended(now, computed=not self._served, steps=self._steps)
        self._steps = []

    def _restart(self) -> None:
        """A new segment: nothing of the last one counts."""
        self.history.clear()
        self.sides.clear()
        self._rule = self._rules()
        self._rule.agree = self._agree

    # Calls ----------------------------------------------------------------------------------------------------------

    def _compute(self, stream: Stream, plain: Callable[..., Any], args: Any, kwargs: Any, x: Tensor | None) -> Any:
        args, kwargs, owed, fresh = self.sides.made_up_for(args, kwargs)
        for one in owed:
            self.tally.made_up_for(one, self._reason if fresh else STALE)
        blocks = None if self._ran or self._served else self._blocks.get(stream.component)
        body = None if self._inner is None or self._idle or not self.forecasts else self._inner.of(stream.component)
        added = None
        with self._within(x):
            if body is not None and self._inner is not None:
                output, added = self._inner.computed(stream, body, plain, args, kwargs)
                if self._inner.of(stream.component) is None:
                    self._turn(stream.component)
            elif blocks is None:
                output = plain(*args, **kwargs)
            else:
                rows = None if x is None else len(x)
                output = blocks.run(plain, args, kwargs, rows=rows, leaves=lambda told: self._leaves(stream, told))
        if output is LEFT:
            assert self._serve is not None
            if (made := self._forecast(stream, self._serve, x)) is not None:
                self.tally.left[stream] += 1
                return made
            return self._compute(stream, plain, args, kwargs, x)
        now = self._now
        if blocks is not None and now is not None:
            self._told(now, stream, blocks.signals, output)
        self._ran += 1
        if now is None:
            return output
        reason = self._reason
        if self.forecasts:
            reason = self._keep(now, stream, output if added is None else added, x) or reason
        self.tally.ran(stream, reason, self._due)
        for observer in self._observers:
            observer.called(now, stream, x, output, computed=True)
        return output

    @contextmanager
    def _within(self, x: Tensor | None) -> Iterator[None]:
        """A network runs: what it calls itself is no call of the pipeline's."""
        self._inside = True
        try:
            with self.clock.call(x):
                yield
        finally:
            self._inside = False

    def _around(
        self, body: Body, plain: Callable[..., Any], args: Any, kwargs: Any, residuals: Output
    ) -> tuple[Any, str | None]:
        """The output with what the blocks add forecast, or why it has to be computed."""
        assert self._inner is not None
        with self._within(latent_of(args, kwargs)):
            return self._inner.served(body, plain, args, kwargs, residuals)

    def _turn(self, component: str) -> None:
        """From now on a network's output is forecast: what its blocks added is of no use any more."""
        for stream in self.history.streams:
            if stream.component == component:
                self.history.forget(stream)

    def _leaves(self, stream: Stream, signals: Mapping[str, Tensor]) -> bool:
        """The first block has run in the first call of an evaluation: whether that is enough."""
        now, wanted = self._now, self._rule.watches
        if now is None or wanted is None or wanted == MIDDLE or wanted not in signals:
            return False
        self._rule.felt(now, stream, signals[wanted])
        asks, self._asks = self._asks, False
        if not asks:
            return False
        serve = self._rule.judge(now)
        if isinstance(serve, Due):
            self._due = serve
            return False
        if self.history.count(stream) < self._rule.least:
            self._reason = "no history of this call"
            return False
        self._serve, self._space = serve, self._rule.space(now.course)
        return True

    def _told(self, now: Evaluation, stream: Stream, signals: Mapping[str, Tensor], output: Any) -> None:
        """The first call of an evaluation has been computed."""
        if self._asks and self._reason is None:
            self._asks, self._reason = False, "its first blocks were not called one after the other"
        if self._rule.watches == MIDDLE and MIDDLE in signals:
            self._rule.felt(now, stream, signals[MIDDLE])
        for observer in self._observers:
            observer.felt(now, stream, signals, output)

    def _keep(self, now: Evaluation, stream: Stream, output: Any, x: Tensor | None) -> str | None:
        """Keep an output, or what blocks added; returns why that is not possible."""
        parts = output if isinstance(output, Output) else taken_apart(output)
        if parts is None:
            self.history.forget(stream)
            return "the output holds more than tensors"
        latent = x.detach().clone() if x is not None and self._rule.space(now.course) is not None else None
        self.history.add(stream, Kept(now.i, parts.kept(), latent))
        return None

    def _forecast(
        self,
        stream: Stream,
        serve: Serve,
        x: Tensor | None,
        around: Callable[[Output], tuple[Any, str | None]] | None = None,
    ) -> Any:
        """The answer to a call that is not computed; None, with the reason noted, if it has to be.

        Args:
            stream: Of the call.
            serve: How.
            x: The latent.
            around: Makes the output of what blocks add, where that is forecast, or says why it cannot.
        """
        now = self._now
        assert now is not None
        if self.history.count(stream) < self._rule.least:
            return self._given_up("no history of this call")
        found = choose(serve, self.history.of(stream), now.i)
        if found is None:
            return self._given_up("an output that the plan builds on is not there")
        wide = None if around is not None else self._wide.get(stream.component)
        made = made_up(*found, x, i=now.i, course=now.course, space=self._space, held_from=wide)
        if around is not None:  # ranks each have a part of what blocks add, and the whole output
            output, failure = around(made)
        else:
            output, failure = made.whole(), None if finite(made) else "the forecast was not finite"
        if failure is not None:
            self.history.forget(stream)
            return self._given_up(failure)
        self._served += 1
        self.tally.served(stream)
        for observer in self._observers:
            observer.called(now, stream, x, output, computed=False)
        return output

    def _given_up(self, reason: str) -> None:
        """A call that was to be forecast has to be computed; branches are forecast together or not at all."""
        self._reason = reason
        if not self._served and not self._ran:
            self._serve = None


def _moved(result: Any) -> Any:
    """The latent that a step returns."""
    return getattr(result, "prev_sample", None) if not isinstance(result, tuple) else result[0]
