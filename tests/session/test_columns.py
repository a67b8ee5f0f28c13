"""Columns are chosen by group, the same number in each, never from the padding."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from videoaccel.session.columns import choose, score


@settings(max_examples=60, deadline=None)
@given(
    rows=st.integers(1, 3),
    frames=st.integers(1, 4),
    places=st.integers(1, 40),
    padding=st.integers(0, 5),
    groups=st.sampled_from([1, 2, 3, 8]),
    keep=st.floats(0.01, 1.0),
)
def test_choice_and_round_trip(rows: int, frames: int, places: int, padding: int, groups: int, keep: float) -> None:
    g = torch.Generator().manual_seed(0)
    x = torch.randn(rows, frames, places + padding, 3, generator=g)
    columns = choose(score(x, "signed"), keep, frames=frames, groups=groups, places=places)
    kept = columns.shape[2]
    assert keep * places - 1e-6 <= kept <= places
    part = columns.take(x)
    assert part.shape == (rows, frames, kept, 3)
    assert torch.equal(columns.put(x, part), x)
    changed = (columns.put(x, part + 1) - x).abs().sum((0, 1, 3)) > 0
    assert not changed[places:].any(), "padding is never chosen"
    assert columns.flat.unique().numel() == columns.flat.numel()


def test_keeps_the_best_of_every_group_and_the_same_place_in_all_frames() -> None:
    scores = torch.tensor([[0.0, 9.0, 1.0, 2.0, 8.0, 7.0, 6.0, 5.0]])
    columns = choose(scores, 0.5, frames=2, groups=2)
    assert columns.flat.view(2, 4).tolist() == [[1, 3, 4, 5], [9, 11, 12, 13]]


def test_groups_decide_alone() -> None:
    """A rank that holds whole groups chooses what one rank with all of them would."""
    scores = torch.randn(2, 64, generator=torch.Generator().manual_seed(1))
    whole = choose(scores, 0.3, frames=1, groups=8).flat.view(2, -1) % 64
    halves = [choose(part, 0.3, frames=1, groups=4).flat.view(2, -1) % 32 for part in scores.chunk(2, dim=1)]
    assert torch.equal(whole, torch.cat([halves[0], halves[1] + 32], dim=1))


def test_rows_choose_for_themselves() -> None:
    scores = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    columns = choose(scores, 0.5, frames=1, groups=1)
    assert columns.flat.tolist() == [0, 3]


def test_scores() -> None:
    x = torch.zeros(1, 2, 3, 4)
    x[0, :, 1] = -2.0
    assert score(x, "signed").tolist() == [[0.0, -2.0, 0.0]]
    assert score(x, "abs").tolist() == [[0.0, 2.0, 0.0]]
    assert score(x, "change", before=torch.zeros_like(x)).tolist() == [[0.0, 2.0, 0.0]]
    with pytest.raises(ValueError, match="earlier step"):
        score(x, "change")
    g = torch.Generator().manual_seed(3)
    assert not torch.equal(score(x, "random", generator=g), score(x, "random", generator=g))
