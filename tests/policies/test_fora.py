from tests.policies.rollout import computed_at, rollout
from videoaccel.policies.fora import Fora


def test_period_2_computes_16_of_30_steps() -> None:
    _, session = rollout(Fora(), steps=30)
    for site in ("space.0.attn", "time.1.cross", "time.0.mlp"):
        assert computed_at(session, site) == [0, 1, 2, *range(4, 30, 2)]
        assert len(computed_at(session, site)) == 16


def test_period_3_computes_12_of_30_steps() -> None:
    _, session = rollout(Fora(period=3), steps=30)
    assert len(computed_at(session, "space.0.attn")) == 12
