import math
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from tests.policies.rollout import computed_at, measure, rollout
from tests.policies.stubs import Adds, play, stub_job
from videoaccel.models.seam import Site
from videoaccel.policies.magcache import PUBLISHED_SQUARES, MagCache, published
from videoaccel.session.policy import Session

TRUNK = "blocks.0-3"


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"threshold": 0.12, "max_skips": 3}, [*range(6), 9, 13, 17, 21, 25, 29]),
        ({"threshold": 0.24, "max_skips": 5}, [*range(6), 11, 17, 23, 29]),
    ],
)
def test_published_schedules(fields: dict[str, float], expected: list[int]) -> None:
    _, session = rollout(MagCache(constants="published", **fields), steps=30)  # type: ignore[arg-type]
    assert computed_at(session, TRUNK) == expected


@pytest.mark.parametrize(("max_skips", "count"), [(1, 18), (2, 14), (3, 12)])
def test_published_counts(max_skips: int, count: int) -> None:
    _, session = rollout(MagCache(constants="published", max_skips=max_skips), steps=30)
    assert len(computed_at(session, TRUNK)) == count


@pytest.mark.parametrize("ratio", [0.9, 1.1])
def test_errors_of_served_steps_add_up(ratio: float) -> None:
    """Each step is 10 % off, its next 19 or 21 %: one step fits under 0.12, the second does not."""
    prior = {"magcache.ratio": torch.full((12,), ratio)}
    session = MagCache(threshold=0.12, max_skips=3).session(stub_job(12, prior=prior))
    play(session, [Adds([1.0] * 12)] * 2, float)
    assert computed_at(session, "blocks.0-1") == [0, 1, 3, 5, 7, 9, 11]
    assert session.reads == [0] * 12


def test_a_missing_number_means_compute() -> None:
    ratios = torch.ones(12)
    ratios[5] = math.nan
    session = MagCache(max_skips=9).session(stub_job(12, prior={"magcache.ratio": ratios}))
    play(session, [Adds([1.0] * 12)] * 2, float)
    assert computed_at(session, "blocks.0-1") == [0, 1, 5]


def test_ratios_of_other_step_counts_shrink_as_much_in_all() -> None:
    assert published(30)[1:] == pytest.approx([math.sqrt(square) for square in PUBLISHED_SQUARES])
    for steps in (10, 17, 60):
        assert len(published(steps)) == steps
        assert math.prod(published(steps)) == pytest.approx(math.prod(published(30)))


def test_the_probe_measures_ratios_of_token_norms() -> None:
    residuals: list[Tensor] = []

    class Watch(Session):
        def run(self, site: Site, branch: object, x: Tensor, cond: object) -> Tensor:
            self.entry = x if str(site) == "space.0.block" else self.entry
            out = super().run(site, branch, x, cond)  # type: ignore[arg-type]
            if str(site) == "time.1.block":
                residuals.append(out - self.entry)
            return out

    def watch(job: object, mix: object) -> Session:
        session = Watch(job, mix=mix)  # type: ignore[arg-type]
        session.entry = torch.zeros(())
        return session

    rollout(watch, steps=4, batch=2, only=[1])
    ratios = [(new.norm(dim=-1) / old.norm(dim=-1)).mean().item() for old, new in pairwise(residuals)]
    table = measure("magcache", steps=4, batch=2, only=[1])["magcache.ratio"]
    torch.testing.assert_close(table, torch.tensor([ratios[0], *ratios]))


def test_what_it_needs() -> None:
    with pytest.raises(ValueError, match=r"no table 'magcache.ratio'.*videoaccel calibrate"):
        MagCache().session(stub_job(30, prior={}))
    with pytest.raises(ValueError, match="needs at least 2 steps, got 1"):
        MagCache(constants="published").session(stub_job(1))
