from typing import Any

import pytest

from tests.policies.rollout import computed_at, rollout
from tests.policies.stubs import stub_job
from videoaccel.models.seam import Site
from videoaccel.policies.pab import Pab
from videoaccel.session.registry import make_policy


def computed(spatial: int, steps: int = 30) -> dict[str, list[int]]:
    session: Any = Pab(spatial=spatial).session(stub_job(steps, layers=28))
    sites = {"space": Site("attn", "space", 3), "time": Site("attn", "time", 20), "cross": Site("cross", "time", 0)}
    return {name: [i for i in range(steps) if not session.serves(site, i)] for name, site in sites.items()}


@pytest.mark.parametrize(("spatial", "counts"), [(2, [21, 17, 16]), (3, [19, 17, 15]), (5, [17, 15, 15])])
def test_published_settings(spatial: int, counts: list[int]) -> None:
    assert [len(steps) for steps in computed(spatial).values()] == counts


def test_the_window_holds_steps_9_to_25_of_30() -> None:
    outside = [*range(9), *range(26, 30)]
    assert computed(2) == {
        "space": sorted([*outside, *range(10, 26, 2)]),
        "time": sorted([*outside, 12, 16, 20, 24]),
        "cross": sorted([*outside, 12, 18, 24]),
    }


def test_the_window_is_a_share_of_the_steps() -> None:
    assert [i for i in range(60) if i not in computed(60, 60)["space"]] == [*range(18, 52)]
    assert [i for i in range(10) if i not in computed(60, 10)["space"]] == [*range(3, 9)]


def test_mlps_of_the_first_layers_are_served_after_three_points() -> None:
    session: Any = Pab().session(stub_job(30, layers=28))
    for layer, expected in [(0, [14, 15, 18, 19, 22, 23]), (4, [14, 15, 18, 19, 22, 23]), (5, [])]:
        for axis in ("space", "time"):
            assert [i for i in range(30) if session.serves(Site("mlp", axis, layer), i)] == expected  # type: ignore[arg-type]


def test_on_a_network() -> None:
    _, session = rollout(Pab(), steps=30)
    assert computed_at(session, "space.1.attn") == computed(2)["space"]
    assert computed_at(session, "time.0.attn") == computed(2)["time"]
    assert computed_at(session, "time.1.cross") == computed(2)["cross"]
    assert computed_at(session, "time.1.mlp") == [*range(30)]
    assert len(computed_at(session, "time.0.mlp")) == 24
    assert not session.slots, "nothing is kept that no step will ask for"  # type: ignore[attr-defined]


def test_fields_that_make_no_sense() -> None:
    with pytest.raises(ValueError, match=r"pab: fields: the window starts at 0.9 and stops at 0.5"):
        make_policy("pab", start=0.9, stop=0.5)
    with pytest.raises(ValueError, match="mlp_points are shares"):
        make_policy("pab", mlp_points=(864,))
    with pytest.raises(ValueError, match="pab needs at least 2 steps, got 1"):
        Pab().session(stub_job(1))
