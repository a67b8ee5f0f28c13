"""Ranks that render together stop together, and say what went wrong on any of them."""

import pytest

from tests.parallel import render_work
from tests.ranks import RankPools
from videoaccel.jobs.memory_advice import OutOfMemoryError

ALL = [name for unit in ("first", "second", "third") for name in (unit, f"made {unit}")]


def test_they_make_one_clip_after_the_other(ranks: RankPools) -> None:
    (leader, results), *others = ranks(3).run(render_work.render, {}, None)
    assert results == ["['first']", "['second']", "['third']"]
    assert leader == ALL and all(log == ALL for log, _ in others)


@pytest.mark.parametrize("where", [("denoise", 0), ("denoise", 3)])
def test_all_stop_at_the_same_step(ranks: RankPools, where: tuple[str, int]) -> None:
    (leader, results), (other, _) = ranks(2).run(render_work.render, {}, where)
    assert results == ["['first']", "CancelledError: second was cancelled", "['third']"]
    assert leader == other == [name for name in ALL if name != "made second"]


def test_what_stops_them_late_waits_for_the_clip(ranks: RankPools) -> None:
    """The others are in the middle of decoding, and count on the first one."""
    (leader, results), (other, _) = ranks(2).run(render_work.render, {}, ("write", 1))
    assert results[1] == "CancelledError: second was cancelled"
    assert leader == other == ALL


@pytest.mark.parametrize("rank", [0, 1])
def test_an_error_on_any_rank_is_the_clips(ranks: RankPools, rank: int) -> None:
    (leader, results), (other, _) = ranks(2).run(render_work.render, {rank: ValueError("no such thing")}, None)
    expected = "ValueError: no such thing" if rank == 0 else "RuntimeError: rank 1: no such thing"
    assert results == [expected] * 3
    made = [name for name in ALL if name.startswith("made")]
    assert all((name in leader) == (rank == 1) and (name in other) == (rank == 0) for name in made)


@pytest.mark.parametrize("rank", [0, 1])
def test_all_save_memory_where_one_has_too_little(ranks: RankPools, rank: int) -> None:
    short = {rank: OutOfMemoryError("too little")}
    (leader, results), (other, _) = ranks(2).run(render_work.render, short, None)
    said = "too little" if rank == 0 else "rank 1: too little"
    assert results == [f"less: {said}"] * 3
    assert [line for line in other if line.startswith("eased")] == [f"eased {u.id}: {said}" for u in render_work.UNITS]
    assert [line for line in leader if line.startswith("eased")] == [line for line in other if "eased" in line]
