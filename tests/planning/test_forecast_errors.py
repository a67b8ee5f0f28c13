"""Errors of forecasts by evaluation, and how they carry over to other steps."""

import math

import pytest
import torch
from torch import Tensor

from videoaccel.planning.forecast_errors import at_noise_levels, errors_of


def curve(levels: list[float], power: int) -> list[Tensor]:
    return [torch.tensor([[level**power, 2 * level**power]]) for level in levels]


def table(levels: list[float], power: int, *, orders: int = 3, ages: int = 6) -> Tensor:
    values = curve(levels, power)
    return torch.stack([errors_of(values, i, orders=orders, ages=ages)[0] for i in range(len(levels))])


def even(steps: int) -> list[float]:
    return [1 - k / steps for k in range(steps)]


def test_a_forecast_of_enough_terms_has_no_error() -> None:
    found = table(even(20), power=1)
    assert found[12, 1].max() < 1e-10 and found[12, 0].min() > 1e-4
    assert found[12, 0] == pytest.approx([2.5 * (age / 20) ** 2 for age in range(1, 7)], rel=1e-4)


def test_without_an_anchor_an_error_is_infinite() -> None:
    found = errors_of(curve(even(5), 1), 2, orders=2, ages=4)
    assert found.shape == (1, 2, 4)
    assert torch.isfinite(found[..., :2]).all() and torch.isinf(found[..., 2:]).all()


def test_the_same_levels_give_the_same_table() -> None:
    levels = even(12)
    found = table(levels, 3)
    assert torch.equal(at_noise_levels(found, levels, levels), found)


@pytest.mark.parametrize("steps", [10, 25, 40])
def test_other_numbers_of_steps_have_the_errors_that_they_measure(steps: int) -> None:
    """Order 0 of a line: an error that is the square of the distance, whatever the steps."""
    carried = at_noise_levels(table(even(20), 1), even(20), even(steps))
    measured = table(even(steps), 1)
    known = torch.isfinite(carried[:, 0]) & torch.isfinite(measured[:, 0])
    assert known.sum() > steps
    assert torch.allclose(carried[:, 0][known], measured[:, 0][known], rtol=0.02, atol=1e-9)


def test_part_of_the_way_takes_that_part_of_the_table() -> None:
    levels, found = even(20), table(even(20), 3)
    carried = at_noise_levels(found, levels, levels[8:])
    assert torch.allclose(carried[6:, :, :5], found[14:, :, :5])
    assert torch.isinf(carried[2, :, 2:]).all()  # there are no anchors before its first evaluation


def test_ages_that_were_not_measured_are_impossible() -> None:
    carried = at_noise_levels(table(even(40), 1, ages=6), even(40), even(10))
    assert torch.isfinite(carried[5, 0, 0]) and math.isinf(carried[5, 0, 1])  # 4 and 8 steps of the measured run


def test_a_network_that_changes_stays_a_border() -> None:
    levels, found = even(20), table(even(20), 1)
    for i in range(10, 20):
        found[i, :, i - 10 :] = math.inf  # what is older belongs to another network
    carried = at_noise_levels(found, levels, even(40))
    assert torch.isinf(carried[20, :, :]).all() and torch.isfinite(carried[23, 0, 0])


def test_levels_must_be_an_axis() -> None:
    with pytest.raises(ValueError, match="do not fall throughout"):
        at_noise_levels(torch.zeros(3, 1, 1), [1.0, 0.5, 0.5], [1.0, 0.4])
