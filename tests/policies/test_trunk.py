"""What methods that measure share."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.policies.stubs import SHAPE, stub_job
from videoaccel.policies._trunk import quotients, sums


@given(st.integers(1, 3), st.sampled_from([1.0, 4.0]), st.integers(0, 3))
def test_sums_are_per_sample_over_all_branches_without_padding(batch: int, guidance: float, padding: int) -> None:
    job = stub_job(5, batch=batch, guidance=guidance)
    frames, places, channels = SHAPE
    g = torch.Generator().manual_seed(batch)
    new, old = (torch.randn(job.rows, frames, places + padding, channels, generator=g) for _ in range(2))
    change, size = sums(new, old, job)
    for sample in range(batch):
        rows = range(sample, job.rows, batch)
        expected = sum((new[row, :, :places] - old[row, :, :places]).abs().sum() for row in rows)
        assert change[sample].item() == pytest.approx(float(expected), rel=1e-5)
        assert size[sample].item() == pytest.approx(
            float(sum(old[row, :, :places].abs().sum() for row in rows)), rel=1e-5
        )


def test_sums_of_shards_add_up() -> None:
    job = stub_job(5, batch=2)
    new, old = torch.randn(2, *SHAPE), torch.randn(2, *SHAPE)
    halves = [sums(new[:, :, part], old[:, :, part], job) for part in (slice(0, 2), slice(2, 4))]
    torch.testing.assert_close(halves[0] + halves[1], sums(new, old, job))


def test_quotients() -> None:
    assert quotients([1.0, 6.0, 2.0, 3.0]) == [0.5, 2.0]
    assert quotients([0.0, 1.0, 0.0, 0.0]) == [0.0, math.inf]
    assert math.isnan(quotients([math.nan, 1.0])[0])
