"""The published ratios of FLOPs follow from the schedules.

Shares of a step of STDiT3-XL/2 at 480p and 51 frames: MLP 51.5 %, spatial attention 22 %, temporal attention 13 %,
cross-attention 13.5 %.
"""

from typing import Any

import pytest

from tests.videoaccel.policies.rollout import rollout
from tests.videoaccel.policies.stubs import stub_job
from videoaccel.actions import Compute, Partial, Span
from videoaccel.policies.pab import Pab
from videoaccel.registry import make_policy

SHARES = {
    ("attn", "space"): 0.22,
    ("attn", "time"): 0.13,
    ("cross", "space"): 0.0675,
    ("cross", "time"): 0.0675,
    ("mlp", "space"): 0.2575,
    ("mlp", "time"): 0.2575,
}


@pytest.mark.parametrize(("name", "ratio"), [("fora", 1.875), ("toca", 2.356), ("duca", 2.49)])
def test_published_ratios(name: str, ratio: float) -> None:
    _, session = rollout(make_policy(name), steps=30)
    spent = 0.0
    for step in session.trace:
        for place, action in step.items():
            if not isinstance(place, Span):
                part = action.keep if isinstance(action, Partial) else float(isinstance(action, Compute))
                spent += part * SHARES[place.kind, place.axis] / 2  # two layers
    assert 30 / spent == pytest.approx(ratio, rel=0.01)


def test_pab_saves_a_fifth() -> None:
    """0.795 of the dense FLOPs, MLPs included."""
    session: Any = Pab().session(stub_job(30, layers=28))
    modules = [site for sites in session.job.blocks.values() for site in sites]
    spent = sum(
        SHARES[site.kind, site.axis] / 28 * (not session.serves(site, i)) for site in modules for i in range(30)
    )
    assert spent / 30 == pytest.approx(0.795, rel=0.01)
