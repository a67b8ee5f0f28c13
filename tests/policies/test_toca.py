import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from tests.policies.rollout import computed_at, rollout
from tests.policies.stubs import stub_job
from videoaccel.models.seam import Site, attention
from videoaccel.policies._refresh import unit_in_groups
from videoaccel.policies.toca import ToCa, attention_with_entropy
from videoaccel.session.action_session import Seen
from videoaccel.session.actions import Partial
from videoaccel.session.columns import choose
from videoaccel.session.job import Job, Mix
from videoaccel.session.policy import Session


def test_published_schedule() -> None:
    _, session = rollout(ToCa(), steps=30)
    full = [0, 1, 2, *range(3, 30, 3)]
    for axis in ("space", "time"):
        assert computed_at(session, f"{axis}.1.attn") == full
        assert computed_at(session, f"{axis}.1.mlp") == full
        assert computed_at(session, f"{axis}.1.cross") == [0, 1, 2, 6, 12, 18, 24]
    counts = session.counts()
    assert counts["partial0.1495"] == 18 * 4 and counts["reuse"] == (18 + 23) * 4


@pytest.mark.parametrize("masked", [False, True])
def test_the_entropy_of_attention(masked: bool) -> None:
    g = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(2, length, 3, 8, generator=g) for length in (5, 7, 7))
    mask = (torch.arange(7) < torch.tensor([[7], [4]]))[:, None, None] if masked else None
    out, entropy = attention_with_entropy(q, k, v, mask)
    torch.testing.assert_close(out, attention(q, k, v, mask))
    scores = torch.einsum("mlnd,mknd->mnlk", q, k) / 8**0.5
    if mask is not None:
        scores = scores.masked_fill(~mask, -math.inf)
    weights = scores.softmax(-1)
    expected = -(weights * weights.clamp(min=1e-30).log()).sum(-1).mean(1)
    torch.testing.assert_close(entropy, expected, atol=1e-5, rtol=1e-5)


def test_attention_that_sees_all_texts_alike_has_the_entropy_of_their_number() -> None:
    _, entropy = attention_with_entropy(torch.zeros(1, 2, 1, 4), torch.randn(1, 9, 1, 4), torch.randn(1, 9, 1, 4), None)
    assert entropy.flatten().tolist() == pytest.approx([math.log(9)] * 2)


@given(st.integers(1, 40), st.integers(1, 9), st.integers(0, 5), st.integers(1, 3))
def test_worth_has_norm_one_in_every_group(places: int, groups: int, padding: int, frames: int) -> None:
    worth = torch.rand(2, frames, places + padding, generator=torch.Generator().manual_seed(places)) + 0.1
    scaled = unit_in_groups(worth, length=-(-places // groups), places=places)
    assert scaled.shape == (2, places + padding) and not scaled[:, places:].any()
    length = -(-places // groups)
    for start in range(0, places, length):
        stop = min(start + length, places)
        group = worth[:, :, start:stop]
        expected = (group / group.square().sum((1, 2), keepdim=True).sqrt()).mean(1)
        torch.testing.assert_close(scaled[:, start:stop], expected)


@given(st.integers(1, 6), st.integers(1, 4), st.floats(0.05, 1.0))
def test_two_ranks_choose_what_one_chooses(length: int, half: int, keep: float) -> None:
    """Groups are whole on a rank: scaling and choosing there gives the same columns."""
    places = 2 * half * length
    worth = torch.rand(2, 3, places, generator=torch.Generator().manual_seed(length + 10 * half))
    ages = torch.arange(places).remainder(3).expand(2, -1) * 0.1

    def chosen(part: slice, groups: int, count: int) -> Tensor:
        scores = unit_in_groups(worth[..., part], length=-(-count // groups), places=count) + ages[..., part]
        columns = choose(scores, keep, frames=3, groups=groups, places=count)
        return columns.flat.view(columns.shape)[:, 0] % count

    alone = chosen(slice(None), 2 * half, places)
    left, right = (chosen(slice(a, a + places // 2), half, places // 2) for a in (0, places // 2))
    assert torch.equal(alone, torch.cat([left, right + places // 2], dim=1))


def watched(policy: ToCa, kept: dict[int, Tensor]) -> Any:
    """A session that notes which columns one MLP keeps."""

    def make(job: Job, mix: Mix) -> Session:
        session: Any = policy.session(job, mix=mix)
        inner = session.columns

        def columns(site: Site, action: Partial, seen: Seen) -> Any:
            chosen = inner(site, action, seen)
            if str(site) == "time.0.mlp":
                kept[session.i] = chosen.places(seen.x.shape[2])
            return chosen

        session.columns = columns
        return session  # type: ignore[no-any-return]

    return make


def test_columns_take_turns_where_age_counts_most() -> None:
    """Half of the columns in each of two steps: the second step takes those that the first left."""
    kept: dict[int, Tensor] = {}
    rollout(watched(ToCa(period=4, keep=0.5, age_weight=100, groups=2), kept), steps=12)
    assert [*kept] == [3, 5, 6, 7, 9, 10, 11]
    both = torch.cat([kept[5], kept[6]], dim=1).sort(dim=1).values
    assert torch.equal(both, torch.arange(16).expand(2, -1))
    assert torch.equal(kept[7], kept[5]), "and the third those of the first again"


def test_where_age_does_not_count_the_least_certain_are_kept() -> None:
    kept: dict[int, Tensor] = {}
    entropies: dict[int, Tensor] = {}

    def make(job: Job, mix: Mix) -> Session:
        def record(site: Site, branch: Any, h: Tensor, cond: Any, **options: Any) -> Tensor:
            if site == Site("cross", "time", 0):
                q = branch.q_linear(h).flatten(1, 2).unflatten(-1, (4, 12))
                _, entropy = attention_with_entropy(q, cond.text.k, cond.text.v, cond.text.mask)
                entropies[session.i] = entropy.view(2, 2, 3, 16).mean((0, 2))  # branches, samples, frames, places
            return mix(site, branch, h, cond, **options)

        session: Any = watched(ToCa(keep=0.25, age_weight=0, groups=1), kept)(job, record)
        return session  # type: ignore[no-any-return]

    rollout(make, steps=6, batch=2)
    assert [*entropies] == [0, 1, 2]
    best = entropies[2].topk(4, dim=-1).indices.sort(-1).values
    assert torch.equal(kept[4], torch.cat([best, best])) and torch.equal(kept[5], kept[4])


def test_without_guidance_and_with_one_group_for_each_column() -> None:
    _, session = rollout(ToCa(groups=64), steps=6, guidance=1.0)
    assert session.counts()["partial0.1495"] == 2 * 4


def test_what_it_needs() -> None:
    with pytest.raises(ValueError, match="warm-up of 3 and a period of 3 needs at least 5 steps, got 4"):
        ToCa().session(stub_job(4))
    ToCa().session(stub_job(5))
