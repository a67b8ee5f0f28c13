import pytest

from tests.policies.rollout import computed_at, rollout
from tests.policies.stubs import Adds, play, stub_job
from videoaccel.policies.taylorseer import TaylorSeer


def test_every_third_step_after_the_warm_up() -> None:
    _, session = rollout(TaylorSeer(), steps=30)
    assert computed_at(session, "blocks.0-3") == [0, 1, 2, *range(5, 30, 3)]


@pytest.mark.parametrize("order", [0, 1, 2])
def test_forecasts_by_hand(order: int) -> None:
    """With f = i^3: D1 = (f - f')/gap, D2 = (D1 - D1')/gap, forecast f + k D1 + k^2/2 D2."""
    values = [float(i**3) for i in range(12)]
    session = TaylorSeer(period=4, order=order, warmup=3).session(stub_job(12))
    outs = play(session, [Adds(values), Adds([0.0] * 12)], float)
    assert computed_at(session, "blocks.0-1") == [0, 1, 2, 6, 10]
    first = (values[6] - values[2]) / 4
    second = (first - (values[2] - values[1]) / 1) / 4
    for k in (1, 2, 3):
        forecast = values[6] + (k * first if order > 0 else 0) + (k * k / 2 * second if order > 1 else 0)
        assert outs[6 + k] == pytest.approx(6 + k + forecast, rel=1e-5)


def test_a_straight_line_is_forecast_exactly() -> None:
    session = TaylorSeer(period=5, order=1, warmup=2).session(stub_job(20))
    outs = play(session, [Adds([3.0 * i for i in range(20)]), Adds([1.0] * 20)], float)
    assert outs == pytest.approx([4.0 * i + 1 for i in range(20)], rel=1e-5)


def test_modules_as_published_or_all_blocks_as_one() -> None:
    exact, _ = rollout(None, steps=12)
    trunk, one = rollout(TaylorSeer(), steps=12)
    modules, many = rollout(TaylorSeer(scope="modules"), steps=12)
    assert many.counts()["forecast1"] == 12 * one.counts()["forecast1"]
    assert many.peak_bytes > 10 * one.peak_bytes
    for out in (trunk, modules):
        assert 0 < (out - exact).abs().mean() < exact.abs().mean()


def test_what_it_needs() -> None:
    with pytest.raises(ValueError, match="warm-up of 3 needs at least 4 steps, got 3"):
        TaylorSeer().session(stub_job(3))
