"""The session that carries out actions: methods only decide.

A method overrides :meth:`ActionSession.decide` (and, if its decision rests on what is computed,
:meth:`ActionSession.computed`). Guards may turn any action into COMPUTE, never the other way. What was done is written
down in the trace.

Shape legend: R generation rows (guidance branches times samples), T frames, S places, C channels.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor

from videoaccel.models.seam import BODY, Branch, Site, Work
from videoaccel.session.actions import (
    COMPUTE,
    Action,
    Combine,
    Compute,
    Forecast,
    Form,
    Partial,
    Place,
    Reuse,
    Skip,
    Span,
    order_of,
    reads,
)
from videoaccel.session.columns import Columns, Select, add, choose, kernels_of, score
from videoaccel.session.job import Call, Job, Mix, Velocities, local_mix
from videoaccel.session.policy import Session
from videoaccel.session.slots import Slot
from videoaccel.session.stretches import Stretches


class Seen(NamedTuple):
    """What a decision may look at: the work at hand, the stream before it and its conditioning."""

    work: Any
    x: Tensor
    cond: Any


class ActionSession(Session):
    """Asks for an action at every place and carries it out.

    Args:
        job: The generation.
        mix: How tokens are mixed.
        spans: Disjoint ranges of blocks that are decided as one.
        form: What module slots keep.
        span_form: What the slots of blocks and spans keep (default: what modules keep).
        order: Highest difference that slots keep.
        max_age: Greatest age, in steps, at which a slot may be served.
        select: How partial computations choose columns.
        groups: Number of column groups.

    Attributes:
        i: The present step.
        sizes: Bytes that the slot of each place takes at most, of the places that had something to keep.
    """

    decides_network = False
    """Whether the whole network (the site ``body``) is a place: served, its velocities are forecast without a call."""

    decides_blocks = False
    """Whether single blocks are places that are decided."""

    decides_modules = True
    """Whether modules are."""

    def __init__(
        self,
        job: Job,
        *,
        mix: Mix = local_mix,
        spans: Sequence[Span] = (),
        form: Form = "output",
        span_form: Form | None = None,
        order: int = 0,
        max_age: int | None = None,
        select: Select = "signed",
        groups: int = 8,
    ) -> None:
        super().__init__(job, mix=mix)
        self.form: Form = form
        self.span_form: Form = form if span_form is None else span_form
        self.order, self.max_age, self.select, self.groups = order, max_age, select, groups
        self.slots: dict[Place, Slot] = {}
        self.i = -1
        self._index = {site: number for number, site in enumerate(job.blocks)}
        self._starts: dict[int, Span] = {}
        self.decide_spans(spans)
        self._span: tuple[Span, Action, Tensor] | None = None
        self._entries: dict[Place, Tensor] = {}
        self._generator = torch.Generator().manual_seed(job.seed)
        self._frames_change = {i for i, changed in enumerate(job.changes()) if any(changed)}
        self.sizes: dict[Place, int] = {}
        self._reserved: dict[Place, int] = {}
        self._stretches: Stretches | None = None
        self._done = range(0)

    def decide_spans(self, spans: Sequence[Span]) -> None:
        """From the next block on decide these disjoint ranges of blocks, and no others, as one."""
        self._starts = {span.start: span for span in spans}

    # What a method overrides ---------------------------------------------------------------------------------------

    def decide(self, place: Place, seen: Seen) -> Action:
        """What shall be done at ``place`` in step ``self.i``. Asked of spans, then blocks, then modules."""
        return COMPUTE

    def computed(self, place: Place, seen: Seen, delta: Tensor) -> None:
        """Told of what a fully computed place added (or, for modules, its output before the gate)."""

    def keeps(self, place: Place) -> bool:
        """Whether the delta computed in this step may be served later and so goes into a slot."""
        return True

    # Answers of the session ----------------------------------------------------------------------------------------

    def begin(self, i: int) -> None:
        """A new step: nothing of the one before is under way."""
        super().begin(i)
        self.i, self._span = i, None
        if i in self._frames_change:
            self.disturb()

    def predict(self, i: int, x: Tensor, call: Call) -> Velocities:
        """Run the network, or forecast what it would say."""
        self.begin(i)
        if not self.decides_network:
            return self.network(call)
        self.rows, seen = None, Seen(None, x, None)
        action = self._checked(BODY, seen)
        if isinstance(action, Compute):
            out = self.network(call)
            self._keep(BODY, seen, torch.cat(list(out.values())))
            return out
        served = self._stored(BODY, action).chunk(len(self.job.branches))
        return dict(zip(self.job.branches, served, strict=True))

    @property
    def cache_bytes(self) -> int:
        """Memory that slots hold now."""
        kept = [*(slot.nbytes for slot in self.slots.values()), *(x.nbytes for x in self._entries.values())]
        return sum(kept)

    def disturb(self) -> None:
        """Everything stored belongs to another latent: nothing may be served before it is computed again."""
        for slot in self.slots.values():
            slot.invalidate()
        self._entries.clear()

    def run(self, site: Site, branch: Work, x: Tensor, cond: Any) -> Tensor:
        """The seam."""
        if site.kind == "body":
            if self._stretches is not None:
                self._stretches.enter(branch, x, cond)
            return branch.compute(x, cond, self.run)
        if site.kind == "block":
            return self._block(site, branch, x, cond)
        return self._module(site, cast(Branch, branch), x, cond)

    @property
    def plain(self) -> bool:
        """See :attr:`Session.plain`."""
        return type(self).run is ActionSession.run and self._blocks_are_plain and not self._starts

    @property
    def _blocks_are_plain(self) -> bool:
        return type(self).mixed is Session.mixed and not (self.decides_modules or self.decides_blocks)

    def replay_blocks(self, stretches: Stretches) -> bool:
        """See :meth:`Session.replay_blocks`."""
        self._stretches = stretches if self._blocks_are_plain else None
        return self._blocks_are_plain

    # Places --------------------------------------------------------------------------------------------------------

    def _block(self, site: Site, branch: Work, x: Tensor, cond: Any) -> Tensor:
        number = self._index[site]
        if number in self._starts:
            span = self._starts[number]
            action = self._checked(span, Seen(branch, x, cond))
            self._span = (span, action, x)
            if not isinstance(action, Compute):
                return self._serve(span, action, x)
        if self._span is not None and not isinstance(self._span[1], Compute) and number < self._span[0].stop:
            return x
        out = self._whole_block(site, branch, x, cond)
        if self._span is not None and number == self._span[0].stop - 1:
            span, _, entry = self._span
            self._keep(span, Seen(branch, entry, cond), self._added(entry, out))
        return out

    def _whole_block(self, site: Site, branch: Work, x: Tensor, cond: Any) -> Tensor:
        if not self.decides_blocks:
            return self._plain_block(self._index[site], branch, x, cond)
        seen = Seen(branch, x, cond)
        action = self._checked(site, seen)
        if isinstance(action, Compute):
            out = branch.compute(x, cond, self.run)
            self._keep(site, seen, self._added(x, out))
            return out
        return self._serve(site, action, x)

    def _plain_block(self, number: int, branch: Work, x: Tensor, cond: Any) -> Tensor:
        """A block in which nothing is decided; with others behind it, as long as nothing is decided between them."""
        if self._stretches is None:
            return branch.compute(x, cond, self.run)
        if number in self._done[1:]:
            return x
        if self._span is not None and self._span[0].start <= number < self._span[0].stop:
            stop = self._span[0].stop
        elif type(self).run is ActionSession.run:
            stop = min((start for start in self._starts if start > number), default=len(self._index))
        else:
            stop = number + 1
        self._done = range(number, stop)
        return self._stretches(self._done, x, cond)

    def _module(self, site: Site, branch: Branch, x: Tensor, cond: Any) -> Tensor:
        if not self.decides_modules:
            return branch.add(x, self.mixed(site, branch, self.entering(branch, x, cond), cond), cond)
        seen = Seen(branch, x, cond)
        action = self._checked(site, seen)
        if isinstance(action, Compute):
            options: dict[str, Any] = {} if action.width == 1.0 else {"width": action.width}
            h = branch.pre(x, cond) if options else self.entering(branch, x, cond)
            delta = self.mixed(site, branch, h, cond, **options)
            out = branch.add(x, delta, cond)
            self._keep(site, seen, self._in_form(branch, delta, out, cond))
            return out
        if isinstance(action, Skip):
            return x
        if isinstance(action, Partial):
            return self._partial(site, action, seen)
        return self._apply(branch, x, self._stored(site, action), cond)

    def _in_form(self, branch: Branch, delta: Tensor, out: Tensor, cond: Any) -> Tensor:
        if self.form == "output":
            return delta
        return out if self.form == "absolute" else branch.add(torch.zeros_like(delta), delta, cond)

    def _apply(self, branch: Branch, x: Tensor, stored: Tensor, cond: Any) -> Tensor:
        if self.form == "output":
            return branch.add(x, stored, cond)
        return stored if self.form == "absolute" else x + stored

    def _added(self, x: Tensor, out: Tensor) -> Tensor:
        return out if self.span_form == "absolute" else out.float() - x.float()

    def _serve(self, place: Place, action: Action, x: Tensor) -> Tensor:
        if isinstance(action, Skip):
            return x
        stored = self._stored(place, action)
        return stored if self.span_form == "absolute" else (x.float() + stored).to(x.dtype)

    def _stored(self, place: Place, action: Action) -> Tensor:
        if isinstance(action, Combine):
            return self.slots[place].combine(action.on_terms, self.rows)
        order = order_of(action)
        gain = action.gain if isinstance(action, Forecast) else 1.0
        value = self.slots[place].read(self.i, self.rows, order=order, gain=gain)
        return value * action.gain if isinstance(action, Reuse) and action.gain != 1.0 else value

    def _keep(self, place: Place, seen: Seen, delta: Tensor) -> None:
        self.computed(place, seen, delta)
        if not self.keeps(place):
            self.slots.pop(place, None)
            self._reserved.pop(place, None)
            return
        if not self._has_room(place, delta):
            return
        if self.select == "change" and isinstance(place, Site):
            self._entries[place] = seen.x
        if place not in self.slots:
            rows = self.job.sigmas.shape[0] * len(self.job.branches)
            self.slots[place] = Slot(rows, order=self.order)
        self.slots[place].write(self.i, delta, self.rows)

    def _has_room(self, place: Place, delta: Tensor) -> bool:
        """Reserve what the slot of a place will take at most; a place without room is computed in every step."""
        if place in self._reserved:
            return True
        entry = 1 if self.select == "change" and isinstance(place, Site) else 0
        self.sizes[place] = delta[0].nbytes * self.job.rows * (1 + self.order + entry)
        limit, taken = self.job.cache_memory, sum(self._reserved.values())
        if limit is not None and taken + self.sizes[place] > limit:
            return False
        self._reserved[place] = self.sizes[place]
        return True

    # Some columns --------------------------------------------------------------------------------------------------

    def _partial(self, site: Site, action: Partial, seen: Seen) -> Tensor:
        branch, x, cond = seen
        columns = self.columns(site, action, seen)
        spatial = (site.kind, site.axis) == ("attn", "space")
        options: dict[str, Any] = {"columns": columns} if spatial else {}
        if spatial and action.keys == "all":
            h = branch.pre(x, cond)
            options["kv"] = h
            part = columns.take(h)
        else:
            part = branch.pre(columns.take(x), cond)
        delta = self.mixed(site, branch, part, cond, **options)
        if action.fill == "zero":
            return columns.put(x, branch.add(columns.take(x), delta, cond))
        assert self.form == "output", "columns are put into what a module gives before its gate"
        slot = self.slots[site]
        if action.fill == "forecast":
            return add(branch, x, delta, slot.read(self.i, self.rows, order=1), columns, cond, keep=False)
        own = slot.open(self.rows)
        rest = slot.read(self.i, self.rows).contiguous() if own is None else own
        out = add(branch, x, delta, rest, columns, cond, keep=True)
        if own is None:
            slot.patch(rest, self.rows)
        return out

    def columns(self, site: Site, action: Partial, seen: Seen) -> Columns:
        """The columns of the stream entering ``site`` that ``action`` keeps."""
        return choose(
            self.scores(site, seen),
            action.keep,
            frames=seen.x.shape[1],
            groups=self.groups,
            places=self.job.places,
            total=self.job.total_places,
            kernels=kernels_of(seen.work, seen.x),
        )

    def scores(self, site: Site, seen: Seen) -> Tensor:
        """How much each column of the stream entering ``site`` matters, [R, S]."""
        return score(
            seen.x,
            self.select,
            before=self._entries.get(site),
            generator=self._generator,
            start=self.job.first_place,
            total=self.job.total_places,
            kernels=kernels_of(seen.work, seen.x),
        )

    # Guards --------------------------------------------------------------------------------------------------------

    def _checked(self, place: Place, seen: Seen) -> Action:
        """The method's action, or COMPUTE where its slot may not be served, or all has to be. Into the trace."""
        action = COMPUTE if self.whole else self.decide(place, seen)
        if reads(action):
            slot = self.slots.get(place)
            age = None if slot is None else slot.age(self.i, self.rows)
            too_old = age is not None and self.max_age is not None and age > self.max_age
            depth = len(action.weights) if isinstance(action, Combine) else 1
            if slot is None or age is None or too_old or slot.depth(self.rows) < depth:
                action = COMPUTE
        self.trace[-1][place] = action
        return action
