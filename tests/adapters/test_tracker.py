"""Evaluations and segments from calls, steps and timesteps."""

import copy
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from videoaccel.adapters.tracker import Tracker


def scheduler(*times: float, begin: int | None = None) -> Any:
    return SimpleNamespace(timesteps=torch.tensor(times), sigmas=torch.tensor([*times, 0.0]) / 1000, begin_index=begin)


def play(tracker: Tracker, made: Any, positions: list[int]) -> list[tuple[int, int]]:
    """Calls and steps at these places of the timesteps; returns segment and number of each evaluation."""
    found = []
    for place in positions:
        assert tracker.called("unet") is not None and tracker.called("unet") is None
        tracker.stepped(made.timesteps[place])
        found.append((tracker.segment, tracker.i))
    return found


def test_an_evaluation_begins_with_the_first_call_after_a_step() -> None:
    tracker, made = Tracker(), scheduler(900, 600, 300)
    tracker.scheduled(made)
    first = tracker.called("unet")
    assert first is not None and (first.i, first.n, first.course.certain) == (0, 3, False)
    assert tracker.called("unet") is None, "the other branch"
    assert tracker.stepped(made.timesteps[0]) == (0, False)
    second = tracker.called("unet")
    assert second is not None and (second.i, second.nth, second.course.certain) == (1, 1, True)
    assert second.course.sigmas == pytest.approx((0.9, 0.6, 0.3)) and second.course.times == (900, 600, 300)


def test_several_steps_without_a_call_are_one_evaluation() -> None:
    tracker, made = Tracker(), scheduler(900, 600, 300)
    tracker.scheduled(made)
    tracker.called("unet")
    tracker.stepped(made.timesteps[0])
    tracker.stepped(made.timesteps[0])
    assert not tracker.apart and tracker.called("unet").i == 1
    tracker.stepped(made.timesteps[1])
    tracker.stepped(made.timesteps[0])
    assert tracker.apart, "frames on courses of their own"


@pytest.mark.parametrize("begin", [None, 2])
def test_a_tail_is_known_after_its_first_step(begin: int | None) -> None:
    tracker, made = Tracker(), scheduler(900, 700, 500, 300, begin=begin)
    tracker.scheduled(made)
    assert tracker.called("unet").n == (4 if begin is None else 2), "an upper bound"
    tracker.stepped(made.timesteps[2:][0])
    course = tracker.called("unet").course
    assert (course.n, course.places, course.certain, course.times) == (2, (2, 3), True, (500, 300))


def test_timesteps_left_out_correct_the_course() -> None:
    tracker, made = Tracker(), scheduler(900, 700, 500, 300)
    tracker.scheduled(made)
    assert play(tracker, made, [0, 2]) == [(0, 0), (0, 1)]
    course = tracker.called("unet").course
    assert course.places == (0, 2, 3) and course.times == (900, 500, 300)


def test_new_segments() -> None:
    tracker, made = Tracker(), scheduler(900, 700, 500, 300)
    tracker.scheduled(made)
    assert play(tracker, made, [0, 1, 2, 3]) == [(0, 0), (0, 1), (0, 2), (0, 3)]
    assert play(tracker, made, [0, 1]) == [(1, 0), (1, 1)], "after the last one"
    assert play(tracker, made, [0, 1]) == [(2, 0), (2, 1)], "back"
    tracker.scheduled(made)
    assert play(tracker, made, [0]) == [(3, 0)], "timesteps anew"
    assert tracker.number == 8


def test_a_timestep_that_occurs_twice_is_told_apart() -> None:
    tracker, made = Tracker(), scheduler(900, 700, 700, 300, 300)
    tracker.scheduled(made)
    assert play(tracker, made, [0, 1, 2, 3, 4])[-1] == (0, 4), "by where it is in memory"
    values = Tracker()
    values.scheduled(made)
    for i in range(5):
        assert values.called("unet").i == i
        assert values.stepped(float(made.timesteps[i])) == (i, False), "by its value"


def test_time_may_run_upwards_and_be_unknown() -> None:
    tracker, made = Tracker(), scheduler(0, 300, 600)
    tracker.scheduled(made)
    assert play(tracker, made, [0, 1, 2])[-1] == (0, 2)
    other = Tracker()
    other.scheduled(made)
    for i in range(3):
        assert other.called("unet").i == i and other.stepped(torch.ones(2)) == (None, False)
    nothing = Tracker()
    assert nothing.called("unet").n == 0 and nothing.stepped(3.0) == (None, False)


def test_a_scheduler_for_every_frame_is_noticed_and_copies_share_the_tracker() -> None:
    tracker = Tracker()
    assert copy.deepcopy({"a": tracker})["a"] is tracker
    many = [scheduler(900, 700) for _ in range(4)]
    for made in many[:3]:
        tracker.scheduled(made)
    assert not tracker.apart
    tracker.scheduled(many[3])
    assert tracker.apart
    play(tracker, many[3], [0, 1, 0])
    assert tracker.apart, "for the rest of the loop, whatever goes back"
    tracker.scheduled(many[3])
    assert not tracker.apart
