"""SADA: steps of the network are skipped where the trajectory is stable, for every sample and prompt by itself.

Source: SADA, stability-guided adaptive diffusion acceleration (ICML 2025, https://github.com/Ting-Justin-Jiang/
sada-icml), made for images; here it is this project's form for video and rectified flows. After a computed step a
criterion says whether the next steps may be skipped; what the network would say there is extrapolated from the last
*computed* predictions, over sigma, whatever the step sizes. ``multistep_from`` starts the published late regime, in
which every ``multistep_period``-th step is computed and the others lie on a polynomial through the last ones, without
a criterion. ``keep`` computes, where a sample is unstable, only its most unstable columns (a place in all frames);
the others are extrapolated, and such a step is no base for later ones.

Criteria: ``posterior`` (ours, the default) measures how far the extrapolation was off at the last computed step, and
skips while the error that this predicts stays below ``threshold``. ``paper`` is the published sign test, ``ab2`` the
same with Adams-Bashforth weights, ``official`` the released flow-matching formula, which is another (see
:class:`videoaccel.policies._sada_stability.OfficialTrack`) and is there to reproduce it. The sign tests skip
``max_run`` steps once stable: a skipped step brings nothing new to test. Published, for 50 steps: ``criterion=paper
max_run=4 multistep_from=0.48 multistep_period=4 multistep_terms=4`` with the first skip at step 11; 1.8x on images.
"""

from collections.abc import Mapping, Sequence
from itertools import count
from typing import Any, ClassVar, Literal, cast

import torch
import torch.nn.functional as F
from pydantic import Field, model_validator
from torch import Tensor
from typing_extensions import Self

from videoaccel.common.user_warning import warn_user
from videoaccel.models.seam import BODY, Branch, Site, Work
from videoaccel.policies._sada_stability import Criterion, Marked, Rules, Windows, make_track
from videoaccel.policies._trunk import require_branches
from videoaccel.sampling.guidance import combine
from videoaccel.session.actions import COMPUTE, Action, Forecast, Partial
from videoaccel.session.columns import Columns, choose
from videoaccel.session.job import Call, Job, Mix, Velocities, local_mix
from videoaccel.session.policy import Policy, Session

WHOLE, SOME, NONE = "whole", "columns", "none"
"""Of a sample's columns those that are computed in a step."""

EARLIEST, LAST = 3, 2
"""Steps, at the start and at the end, that are always computed."""

CELL = 3
"""One column of every square of so many is computed in a partial step, another each time."""


class Sada(Policy):
    """Skip the network, sample by sample, in steps whose prediction can be extrapolated from computed ones."""

    knob: ClassVar[str] = "threshold"
    joins_branches: ClassVar[bool] = True
    sweep: ClassVar[tuple[float, ...]] = (0.02, 0.03, 0.05, 0.08, 0.12, 0.2, 0.35)

    criterion: Criterion = Field("posterior", description="What says that a step may be skipped.")
    threshold: float = Field(0.05, gt=0, description="Predicted relative error up to which `posterior` skips.")
    terms: int = Field(2, ge=2, le=3, description="Computed predictions that an extrapolation goes through.")
    max_run: int | None = Field(
        None, ge=1, description="Most skipped steps in a row; default 4 for 50 steps, with `posterior` a fifth of them."
    )
    reach: float = Field(
        3.0, gt=0, description="How far to extrapolate, in distances of the last two computed predictions."
    )
    start: float = Field(0.2, ge=0, lt=1, description="Share of the steps before the first that may be skipped.")
    multistep_from: float | None = Field(
        None, ge=0, le=1, description="Share of the steps before the late regime, which has a period and no criterion."
    )
    multistep_period: int = Field(4, ge=2, description="Every so many steps the late regime computes one.")
    multistep_terms: int = Field(3, ge=2, le=4, description="Computed predictions that it extrapolates from.")
    keep: float | None = Field(
        None, ge=0.125, lt=1, description="Share of columns to compute where a sample is unstable; default all."
    )
    refresh: int = Field(4, ge=1, description="Most steps in a row that compute some columns only.")
    groups: int = Field(8, ge=1, description="Groups that columns fall into.")
    nodes: Marked | None = Field(
        None,
        description="Over another method, what it degraded: counts like whole steps; is extrapolated from, but what "
        "may be skipped is judged by whole steps; or counts for nothing, as it does by itself if there are whole ones.",
    )
    whole_every: int | None = Field(
        None, ge=1, description="Over another method: compute a step whole after so many that it degraded."
    )

    @model_validator(mode="after")
    def _used(self) -> Self:
        given = self.model_fields_set
        if "threshold" in given and self.criterion != "posterior":
            raise ValueError(f"a threshold is for the criterion posterior; {self.criterion} has none: set max_run")
        if self.threshold > 1:
            warn_user(
                f"a threshold of {self.threshold:g} lets sada skip whatever the error: 1 is a prediction that is wrong "
                f"by its own size, 0.05 the default"
            )
        late = sorted(given & {"multistep_period", "multistep_terms"})
        if late and self.multistep_from is None:
            raise ValueError(f"{late[0]} changes nothing without multistep_from")
        if self.keep is None and given & {"refresh", "groups"}:
            raise ValueError(f"{min(given & {'refresh', 'groups'})} changes nothing without keep")
        return self

    def rules(self, steps: int) -> Rules:
        """How a sample is judged in so many steps."""
        run = steps / 5 if self.criterion == "posterior" else 4 * steps / 50
        return Rules(
            criterion=self.criterion,
            threshold=self.threshold,
            terms=self.terms,
            max_run=self.max_run or max(1, round(run)),
            reach=self.reach,
            marked=self.nodes or "whole",
            history=max(3, self.terms, 0 if self.multistep_from is None else self.multistep_terms),
        )

    def windows(self, steps: int) -> Windows:
        """Which of so many steps a criterion decides about."""
        first = first_skip(self.start, steps)
        late = steps if self.multistep_from is None else max(first, round(self.multistep_from * steps))
        return Windows(first, steps - LAST, late, self.multistep_period)

    def above(self, under: Policy) -> Policy:
        """See :meth:`Policy.above`: what no step that is whole could be replaced by counts after all."""
        return self.model_copy(update={"nodes": "all"}) if self.nodes is None and under.never_whole else self

    def require(self, steps: int) -> None:
        """Refuse a generation too short to skip anything.

        Raises:
            ValueError: It is.
        """
        least = next(n for n in count() if first_skip(self.start, n) < n - LAST)
        if steps < least:
            raise ValueError(f"sada with a start of {self.start:g} needs at least {least} steps, got {steps}")

    @property
    def level(self) -> Literal["steps", "modules"] | None:
        """See :meth:`Policy.level`."""
        return "steps" if self.keep is None else None

    def session(self, job: Job, *, mix: Mix = local_mix) -> Session:
        """See :meth:`Policy.session`."""
        self.require(job.steps)
        require_branches(job, "sada")
        if self.keep is not None and job.patch is None:
            raise ValueError("keep needs a network whose places are patches of the latent")
        return _SadaSession(self, job, mix)


def first_skip(start: float, steps: int) -> int:
    """The first step that may be skipped."""
    return max(EARLIEST, round(start * steps))


class _SadaSession(Session):
    def __init__(self, policy: Sada, job: Job, mix: Mix) -> None:
        super().__init__(job, mix=mix)
        self.policy = policy
        rules = policy.rules(job.steps)
        self.tracks = [make_track(rules) for _ in range(job.samples)]
        self.windows = policy.windows(job.steps)
        # By step, what is computed of every sample.
        self.verdicts: list[list[str]] = []
        self._sigmas: list[list[float]] = job.sigmas.double().tolist()
        self._changes = job.changes()
        self._partial_runs = [0] * job.samples
        self._phases = [0] * job.samples
        self._scores: Tensor | None = None
        self._kept: Tensor | None = None
        self._columns: Columns | None = None

    @property
    def cache_bytes(self) -> int:
        return sum(track.nbytes for track in self.tracks)

    def disturb(self) -> None:
        for track in self.tracks:
            track.forget()

    def begin(self, i: int) -> None:
        super().begin(i)
        for track, changed in zip(self.tracks, self._changes[i], strict=True):
            if changed:
                track.forget()

    # Decisions -----------------------------------------------------------------------------------------------------

    def predict(self, i: int, x: Tensor, call: Call) -> Velocities:
        self.begin(i)
        self._judge(i)
        verdicts = [self._verdict(i, b) for b in range(self.job.samples)]
        self.verdicts.append(verdicts)
        self.trace[-1][BODY] = self._action(verdicts)
        whole, some, none = (
            [b for b, verdict in enumerate(verdicts) if verdict == kind] for kind in (WHOLE, SOME, NONE)
        )
        if len(whole) == self.job.samples:
            out = self.network(call)
            self._learn(i, out, whole)
            return out
        late = self.policy.multistep_terms if i >= self.windows.late else None
        found: dict[int, Mapping[str, Tensor]] = {}
        for b in none:
            self._expect(i, b)
            guided = self.tracks[b].skipped(self._sigmas[b][i], terms=late).to(x.dtype)
            found[b] = dict.fromkeys(self.job.branches, guided)
        if whole:
            out = self.network(call, samples=whole)
            self._learn(i, out, whole)
            found |= _by_sample(out, whole)
        if some:
            found |= self._partly(i, call, some)
        # Guidance between two equal predictions is that prediction, at any scale.
        return {name: torch.stack([found[b][name] for b in range(len(verdicts))]) for name in self.job.branches}

    def _judge(self, i: int) -> None:
        """Bring the sums of the last step to the host, if anything hangs on them."""
        waiting = [track for track in self.tracks if track.pending is not None]
        if not waiting or self.windows.told(i) is not None:
            return
        numbers = self.to_host(torch.stack([track.pending for track in waiting if track.pending is not None]))
        for k, track in enumerate(waiting):
            track.judge(numbers[2 * k : 2 * k + 2])

    def _verdict(self, i: int, b: int) -> str:
        track, at = self.tracks[b], self._sigmas[b][i]
        told = self.windows.told(i)
        if told or len(track.nodes) < self.policy.terms:
            return WHOLE
        if told is False:
            return NONE
        if track.may_skip(at):
            return NONE
        return SOME if self._may_prune(b, at) else WHOLE

    def _may_prune(self, b: int, at: float) -> bool:
        """A step of some columns comes after a whole one, or another such one: never after a skipped one."""
        track = self.tracks[b]
        ready = self.policy.keep is not None and track.run == 0 and track.unstable is not None
        return ready and self._partial_runs[b] < self.policy.refresh and track.within_reach(at)

    def _action(self, verdicts: Sequence[str]) -> Action:
        running = [1.0 if verdict == WHOLE else self.policy.keep or 1.0 for verdict in verdicts if verdict != NONE]
        if not running:
            return Forecast(self.policy.terms - 1)
        share = sum(running) / len(running)
        return COMPUTE if share == 1 else Partial(share, fill="forecast", keys="kept")

    def may_degrade(self, sample: int) -> bool:
        every = self.policy.whole_every
        return every is None or self.tracks[sample].degraded < every

    def _expect(self, i: int, b: int) -> None:
        """Note the error that a skip is expected to have, the largest of all samples."""
        error = self.tracks[b].expected(self._sigmas[b][i])
        if error is not None:
            self.errors[-1][BODY] = max(error, self.errors[-1].get(BODY, 0.0))

    def _learn(self, i: int, out: Velocities, samples: Sequence[int]) -> None:
        guided = combine(out, self.job.guidance_scale)
        for k, b in enumerate(samples):
            self._partial_runs[b] = 0
            weight = self._weight(i, b, guided)
            self.tracks[b].computed(self._sigmas[b][i], guided[k], weight, degraded=self.degraded)

    def _weight(self, i: int, b: int, like: Tensor) -> Tensor | None:
        """1 in frames that are being made, [T, 1, 1]; None where all are."""
        mask = self.job.x_mask
        return None if mask is None else mask[i, b, :, None, None].to(like.device, torch.float32)

    # Some columns --------------------------------------------------------------------------------------------------

    def _partly(self, i: int, call: Call, samples: Sequence[int]) -> dict[int, Mapping[str, Tensor]]:
        """Run some columns of some samples; the other columns are extrapolated."""
        self._scores = torch.stack([self._column_scores(b) for b in samples]).repeat(len(self.job.branches), 1)
        guided = combine(self.network(call, samples=samples), self.job.guidance_scale)
        self._scores = None
        assert self._kept is not None
        found: dict[int, Mapping[str, Tensor]] = {}
        for k, b in enumerate(samples):
            self._partial_runs[b] += 1
            self._phases[b] += 1
            expected = self.tracks[b].forecast(self._sigmas[b][i]).to(guided.dtype)
            value = torch.where(self._on_latent(self._kept[k]), guided[k], expected)
            found[b] = dict.fromkeys(self.job.branches, value)
        return found

    @property
    def plain(self) -> bool:
        return self._scores is None

    def run(self, site: Site, branch: Work, x: Tensor, cond: Any) -> Tensor:
        if self._columns is not None and (site.kind, site.axis) == ("attn", "space"):
            module = cast(Branch, branch)
            delta = self.mixed(site, module, module.pre(x, cond), cond, columns=self._columns)
            return module.add(x, delta, cond)
        if site.kind != "body" or self._scores is None:
            return super().run(site, branch, x, cond)
        self._kept = self._chosen(self._scores, frames=1).places(self._scores.shape[1])
        here = self._scores[:, self.job.first_place :][:, : x.shape[2]]
        here = F.pad(here, (0, x.shape[2] - here.shape[1]))  # places that only fill up a rank's share
        self._columns = columns = self._chosen(here, frames=x.shape[1], places=self.job.places)
        out = branch.compute(columns.take(x), cond, self.run)
        self._columns = None
        return columns.put(out.new_zeros(*x.shape[:3], out.shape[-1]), out)

    def _chosen(self, scores: Tensor, *, frames: int, places: int | None = None) -> Columns:
        """The columns to compute, of all places or of those that are on this rank; the same for any number of ranks."""
        assert self.policy.keep is not None
        total = self.job.total_places
        return choose(scores, self.policy.keep, frames=frames, groups=self.policy.groups, places=places, total=total)

    def _grid(self) -> tuple[int, int]:
        """Rows and columns of places."""
        assert self.job.patch is not None
        rows, columns = (
            -(-size // patch) for size, patch in zip(self.job.latent_shape[2:], self.job.patch, strict=True)
        )
        assert rows * columns == self.job.total_places
        return rows, columns

    def _column_scores(self, b: int) -> Tensor:
        """How unstable each column was when all were computed last; one in every cell comes first. Float32 [S]."""
        unstable, patch = self.tracks[b].unstable, self.job.patch
        assert unstable is not None and patch is not None
        rows, columns = self._grid()
        mean = F.avg_pool2d(unstable.mean((0, 1))[None, None], patch, ceil_mode=True, count_include_pad=False)
        order = mean.flatten().nan_to_num().argsort(stable=True).argsort(stable=True).float()
        row, column = (torch.arange(n, device=mean.device) % CELL for n in (rows, columns))
        due = (row[:, None] * CELL + column).flatten() == self._phases[b] % CELL**2
        return order + due * order.numel()

    def _on_latent(self, places: Tensor) -> Tensor:
        """Where the latent belongs to some of the places, bool [h, w]."""
        assert self.job.patch is not None
        rows, columns = self._grid()
        chosen = torch.zeros(rows * columns, dtype=torch.bool, device=places.device)
        chosen[places] = True
        grid = chosen.view(rows, columns)
        for axis, patch in enumerate(self.job.patch):
            grid = grid.repeat_interleave(patch, axis)
        height, width = self.job.latent_shape[2:]
        return grid[:height, :width]


def _by_sample(out: Velocities, samples: Sequence[int]) -> dict[int, Mapping[str, Tensor]]:
    return {b: {name: velocity[k] for name, velocity in out.items()} for k, b in enumerate(samples)}
