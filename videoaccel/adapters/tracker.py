"""From calls, steps and timesteps to evaluations and segments; knows nothing of networks or pipelines.

States: before the first call of an evaluation (*fresh*) or in it. A call makes a fresh tracker begin an evaluation, a
step makes it fresh; further steps before the next call belong to the same evaluation (sound beside pictures). Setting
timesteps begins a new segment, and so does a timestep that goes back, or an evaluation after the last one.
"""

from typing import Any

import torch
from torch import Tensor

from videoaccel.adapters.rule import Course, Evaluation

FRAMEWISE = 3
"""More schedulers than these set to the same segment step frames one by one: video, sound and action have one each."""


class Tracker:
    """Follows one generation.

    Attributes:
        segment: Number of the segment, from 0; -1 before the first evaluation.
        i: Number of the evaluation in it; -1 before the first.
        number: Its number in the generation.
        course: The segment's evaluations; None as long as no scheduler has been set.
        apart: Whether frames are stepped one by one: at different timesteps, or by schedulers of their own.
        position: Number, among the scheduler's timesteps, of the last step's; -1 before the first.
    """

    def __init__(self) -> None:
        self.segment = self.i = self.number = self.position = -1
        self.course: Course | None = None
        self.apart = False
        self._fresh = True
        self._timesteps: Any = None
        self._times: tuple[float, ...] = ()
        self._places: list[int] = []
        self._scheduler: Any = None
        self._set: set[int] = set()
        self._nth: dict[str, int] = {}
        self._component = ""

    def __deepcopy__(self, memo: dict[int, Any]) -> "Tracker":
        return self  # what is copied in the midst of a generation takes part in it

    def scheduled(self, scheduler: Any) -> None:
        """A scheduler has been given its timesteps: those of the evaluations to come."""
        if self.i >= 0:
            self._leave()
            self.apart, self._set = False, set()
        self._scheduler, self.course = scheduler, None
        self._set.add(id(scheduler))
        self.apart |= len(self._set) > FRAMEWISE

    def called(self, component: str, time: Any = None) -> Evaluation | None:
        """A network is called: returns the evaluation that begins with it, None if one is under way.

        Args:
            component: The network.
            time: What may be its timestep. Looked at only if it is a view of the scheduler's: one that goes back is
                seen before anything is decided then, else with the step.
        """
        if not self._fresh:
            return None
        if self.course is None:
            self._set_out()
        elif self.i + 1 >= self.course.n or self._goes_back(time):
            self._leave()
            self._set_out()
        if self.i < 0:
            self.segment += 1
        self._fresh = False
        self.i, self.number = self.i + 1, self.number + 1
        nth = self._nth[component] = self._nth.get(component, -1) + 1
        self._component = component
        return Evaluation(self.i, component, nth, self.number, self.course or Course(()))

    def stepped(self, time: Any) -> tuple[int | None, bool]:
        """A scheduler is about to step from a timestep.

        Returns:
            The timestep's number among the scheduler's (None if it is none of these), and whether a new segment has
            begun with the evaluation that the step belongs to.
        """
        if self.course is None:
            return None, False
        expected = self._expected()
        position = self._position(time, expected)
        if self._fresh:  # a second step of the same evaluation, or one before any
            self.apart |= self.i >= 0 and position is not None and position != self.position
            return position, False
        self._fresh = True
        certain = self.course.certain
        back = position is not None and bool(self._places) and position <= self.position
        if back:
            self._leave()
            self.segment, self.i, self._nth = self.segment + 1, 0, {self._component: 0}
        self.position = expected if position is None else position
        self._places.append(self.position)
        if back or self.position != expected or (position is not None and not certain):
            self.course = self._course(certain=position is not None or certain)
        return position, back

    def _goes_back(self, time: Any) -> bool:
        place = self._place_in_memory(time)
        return place is not None and bool(self._places) and place <= self._places[-1]

    def _leave(self) -> None:
        """The segment is over."""
        self.i = self.position = -1
        self._fresh, self._nth, self._places, self.course = True, {}, [], None

    def _set_out(self) -> None:
        """Read the timesteps, now that they are as the pipeline wants them."""
        timesteps = getattr(self._scheduler, "timesteps", None)
        if timesteps is None or len(timesteps) == 0:
            return
        self._timesteps = timesteps
        flat: Tensor = torch.as_tensor(timesteps).reshape(len(timesteps), -1)[:, 0]
        self._times = tuple(float(t) for t in flat.tolist())
        self.course = self._course(certain=False)

    def _expected(self) -> int:
        """Where the next step is, as far as can be foreseen."""
        begin = getattr(self._scheduler, "begin_index", None)
        return self._places[-1] + 1 if self._places else int(begin or 0)

    def _course(self, *, certain: bool) -> Course:
        sigmas = getattr(self._scheduler, "sigmas", None)
        known = isinstance(sigmas, Tensor) and sigmas.ndim == 1 and len(sigmas) >= len(self._times)
        levels: list[float] | None = sigmas.tolist() if isinstance(sigmas, Tensor) and known else None
        seen = (*self._places, *range(self._expected(), len(self._times)))
        places = tuple(place for place in seen if place < len(self._times))
        return Course(
            times=tuple(self._times[place] for place in places),
            sigmas=None if levels is None else tuple(levels[place] for place in places),
            places=places,
            certain=certain,
            scheduler=self._scheduler,
        )

    def _place_in_memory(self, time: Any) -> int | None:
        """The number of a timestep that is a view of the scheduler's; says it without waiting for a device."""
        whole = self._timesteps
        if not isinstance(time, Tensor) or not isinstance(whole, Tensor) or time.dtype != whole.dtype:
            return None
        one = time.numel() == 1 or not any(time.stride())  # expanded to a batch
        if not one or whole.ndim != 1 or time.untyped_storage().data_ptr() != whole.untyped_storage().data_ptr():
            return None
        place, rest = divmod(int(time.storage_offset() - whole.storage_offset()), max(whole.stride(0), 1))
        return place if rest == 0 and 0 <= place < len(self._times) else None

    def _position(self, time: Any, expected: int) -> int | None:
        """The number of a timestep: by where in memory it is, else by its value."""
        if (place := self._place_in_memory(time)) is not None:
            return place
        if isinstance(time, Tensor) and time.numel() != 1:
            return None
        try:
            value = float(time)
        except (TypeError, ValueError):
            return None
        return self._nearest(value, expected)

    def _nearest(self, value: float, expected: int) -> int | None:
        span = max(abs(t) for t in self._times) or 1.0
        off = [abs(t - value) for t in self._times]
        if min(off) > 1e-4 * span:
            return None
        same = [place for place, distance in enumerate(off) if distance <= min(off) + 1e-9 * span]
        if not self._places and expected == 0 and len(same) > 1 and 0 not in same:
            return same[1]  # as diffusers does where a pipeline begins in the midst
        return min(same, key=lambda place: abs(place - expected))
