"""Slots keep and forecast what was computed, row by row."""

import pytest
import torch

from videoaccel.session.slots import Slot


def filled(values: list[tuple[int, float]], *, order: int, rows: int = 2) -> Slot:
    slot = Slot(rows, order=order)
    for step, value in values:
        slot.write(step, torch.full((rows, 1, 1, 1), value))
    return slot


def test_order_zero_serves_the_very_tensor() -> None:
    slot, value = Slot(2), torch.randn(2, 3, 4, 5)
    slot.write(0, value)
    assert slot.read(3) is value
    assert slot.age(3) == 3


@pytest.mark.parametrize("order", [1, 2, 3])
def test_a_line_is_forecast_exactly_at_uneven_gaps(order: int) -> None:
    slot = filled([(0, 1.0), (1, 3.0), (4, 9.0)], order=order)
    assert torch.allclose(slot.read(6, order=1), torch.tensor(13.0))


def test_second_order_is_the_published_recurrence() -> None:
    """D1 = (f - f_prev) / gap, D2 = (D1 - D1_prev) / gap, forecast f + k D1 + k^2/2 D2."""
    slot = filled([(0, 0.0), (2, 4.0), (5, 25.0)], order=2)
    first, previous = (25.0 - 4.0) / 3, (4.0 - 0.0) / 2
    second = (first - previous) / 3
    assert slot.read(7, order=2).flatten()[0].item() == pytest.approx(25 + 2 * first + 2 * second)


def test_order_grows_with_history_and_gain_scales_the_slope() -> None:
    slot = filled([(0, 5.0)], order=2)
    assert slot.read(2, order=2).flatten()[0] == 5.0
    slot.write(1, torch.full((2, 1, 1, 1), 7.0))
    assert slot.read(2, order=2).flatten()[0] == 9.0
    assert slot.read(2, order=2, gain=0.5).flatten()[0] == 8.0


def test_rows_have_ages_of_their_own() -> None:
    slot = Slot(2, order=1)
    assert slot.age(0) is None
    slot.write(0, torch.tensor([1.0, 10.0]).view(2, 1, 1, 1))
    slot.write(2, torch.tensor([3.0]).view(1, 1, 1, 1), rows=[0])
    assert slot.age(2, rows=[0]) == 0 and slot.age(2, rows=[1]) == 2 and slot.age(2) == 2
    assert slot.read(3, rows=[0], order=1).item() == 4.0
    assert slot.read(3, rows=[1], order=1).item() == 10.0
    assert slot.read(3).flatten().tolist() == [3.0, 10.0]


def test_a_row_never_computed_is_not_known() -> None:
    slot = Slot(2)
    slot.write(0, torch.ones(1, 1, 1, 1), rows=[1])
    assert slot.age(1) is None and slot.age(1, rows=[1]) == 1


def test_a_patch_changes_the_value_but_not_the_age() -> None:
    slot = filled([(0, 1.0), (1, 2.0)], order=1)
    slot.patch(torch.full((2, 1, 1, 1), 6.0))
    assert slot.age(3) == 2
    assert slot.read(3).flatten()[0] == 6.0


def test_nothing_is_known_after_invalidation() -> None:
    slot = filled([(0, 1.0), (1, 2.0)], order=1)
    slot.invalidate()
    assert slot.age(2) is None and slot.nbytes == 0
    slot.write(3, torch.zeros(2, 1, 1, 1))
    assert slot.read(4, order=1).flatten()[0] == 0.0, "no slope across the break"


def test_change_is_that_of_the_last_two_values_whatever_their_gap() -> None:
    slot = filled([(0, 1.0)], order=1)
    assert not slot.change().any()
    slot.write(1, torch.full((2, 1, 1, 1), 3.0))
    slot.write(5, torch.full((1, 1, 1, 1), 9.0), [1])
    assert slot.change().flatten().tolist() == [2.0, 6.0]
    assert slot.change([1]).flatten().tolist() == [6.0]


def test_an_open_value_is_the_stored_one_where_it_lies_in_one_part() -> None:
    slot = Slot(4)
    slot.write(0, torch.zeros(4, 3, 2, 1))
    for rows, lies_in_one in ((None, True), ([1, 2], True), ([0, 2], False)):
        value = slot.open(rows)
        assert (value is not None) == lies_in_one
        if value is not None:
            value += 1
            assert torch.equal(slot.read(1, rows), value)
    assert slot.read(1).flatten(1)[:, 0].tolist() == [1.0, 2.0, 2.0, 1.0]
    slot.write(1, torch.zeros(4, 2, 3, 1).transpose(1, 2))
    assert slot.open() is None, "a transposed value would be written into a copy"
