"""How ranks share the work."""

import pytest

from videoaccel.parallel.degrees import Degrees, choose_degrees, possible_degrees, why_these
from videoaccel.parallel.schemes import choose_scheme


@pytest.mark.parametrize(
    "ranks, given, expected",
    [
        (1, {}, (1, 1, 1)),
        (2, {}, (1, 2, 1)),
        (3, {}, (1, 1, 3)),
        (8, {}, (1, 2, 4)),
        (8, {"sequence": 8}, (1, 1, 8)),
        (8, {"data": 4}, (4, 2, 1)),
        (6, {"guidance": 1, "sequence": 2}, (3, 1, 2)),
        (4, {"whole": "so it is"}, (1, 1, 4)),
    ],
)
def test_guidance_is_split_first_then_places(ranks: int, given: dict, expected: tuple[int, int, int]) -> None:
    assert choose_degrees(ranks, **given) == Degrees(*expected)


@pytest.mark.parametrize("ranks", range(1, 17))
def test_every_choice_multiplies(ranks: int) -> None:
    every = possible_degrees(ranks, splits_guidance=True)
    assert len(set(every)) == len(every) and all(degrees.ranks == ranks for degrees in every)


def test_what_does_not_multiply_is_told_with_what_would() -> None:
    with pytest.raises(ValueError, match=r"`sp=3` does not divide 4 ranks; these would: .*dp 1 x cfg_parallel 2"):
        choose_degrees(4, sequence=3)
    with pytest.raises(ValueError, match=r"`cfg_parallel=2` cannot be: no guidance"):
        choose_degrees(4, guidance=2, whole="no guidance")
    with pytest.raises(ValueError, match=r"`cfg_parallel` is 1 or 2.*got 3"):
        choose_degrees(3, guidance=3)
    with pytest.raises(ValueError, match=r"`dp` must be a whole number of at least 1, got 0"):
        choose_degrees(4, data=0)


def test_the_choice_explains_itself() -> None:
    text = why_these(Degrees(2, 2, 2), whole=None, scheme="dsp")
    assert text.startswith("8 ranks as data 2 x guidance 2 x sequence 2: 2 groups make clips side by side; each")
    assert "switch to frames" in text
    assert "guidance is not split: so" in why_these(Degrees(1, 1, 2), whole="so", scheme="ulysses")


def test_single_frames_are_shared_by_heads() -> None:
    assert (choose_scheme("auto", frames=1), choose_scheme("auto", frames=2)) == ("ulysses", "dsp")
    assert choose_scheme("dsp", frames=1) == "dsp"
    with pytest.raises(ValueError, match="'ring'; there are dsp, ulysses and auto"):
        choose_scheme("ring", frames=2)
