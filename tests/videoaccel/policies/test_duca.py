from typing import Any

import pytest
import torch
from torch import Tensor

from tests.videoaccel.policies.rollout import computed_at, rollout
from tests.videoaccel.policies.stubs import stub_job
from videoaccel.action_session import Seen
from videoaccel.models.seam import Site
from videoaccel.policies.duca import DuCa, value_worth
from videoaccel.policy import Job, Mix, Session

TRUNK = "blocks.0-3"


def actions(session: Session, name: str) -> list[str]:
    return [{str(place): str(action) for place, action in step.items()}.get(name, "-") for step in session.trace]


def test_published_phases() -> None:
    """12 full, 9 careful and 9 bold steps, the last one bold."""
    _, session = rollout(DuCa(), steps=30)
    mlp = ["compute"] * 3 + ["compute", "partial0.1495", "-"] * 9
    assert actions(session, "space.0.mlp") == mlp
    assert actions(session, "time.1.attn") == [action.replace("partial0.1495", "reuse") for action in mlp]
    assert actions(session, TRUNK) == ["compute"] * 3 + ["compute", "compute", "reuse"] * 9
    assert computed_at(session, "time.0.cross") == [0, 1, 2, 6, 12, 18, 24]


def test_longer_periods_take_turns() -> None:
    _, session = rollout(DuCa(period=5), steps=15)
    assert (
        actions(session, "time.1.attn")
        == ["compute"] * 3 + ["reuse", "-"] + ["compute", "reuse", "-", "reuse", "-"] * 2
    )


def test_a_bold_step_repeats_the_stream_itself() -> None:
    """Not what the blocks added: the new latent is passed over. No module runs."""
    outs: dict[int, Tensor] = {}
    calls: list[int] = []

    def make(job: Job, mix: Mix) -> Session:
        def count(site: Site, branch: Any, h: Tensor, cond: Any, **options: Any) -> Tensor:
            calls.append(session.i)
            return mix(site, branch, h, cond, **options)

        session: Any = DuCa().session(job, mix=count)
        inner = session.run

        def run(site: Site, branch: Any, x: Tensor, cond: Any) -> Tensor:
            out: Tensor = inner(site, branch, x, cond)
            if site == Site("block", "time", 1):
                outs[session.i] = out
            return out

        session.run = run
        return session  # type: ignore[no-any-return]

    rollout(make, steps=7)
    assert torch.equal(outs[5], outs[4]) and not torch.equal(outs[4], outs[3])
    assert set(calls) == {0, 1, 2, 3, 4, 6}


def test_a_token_is_worth_more_the_smaller_its_values() -> None:
    """The values are those that attention sees, in every fourth frame."""
    seen: dict[str, Tensor] = {}

    class Watch(Session):
        def run(self, site: Any, branch: Any, x: Tensor, cond: Any) -> Tensor:
            if str(site) == "space.0.attn" and not seen:

                def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
                    seen["v"] = v
                    return q

                branch.mix(branch.pre(x, cond), cond, attend=attend)
                seen["worth"] = value_worth(Seen(branch, x, cond))
            return super().run(site, branch, x, cond)

    rollout(lambda job, mix: Watch(job, mix=mix), steps=1, size=(6, 8, 8))
    values = seen["v"].unflatten(0, (2, 6))  # [R, T, S, N, D]
    expected = (1 - values.norm(dim=-1)).sum(-1)[:, [0, 4]]
    torch.testing.assert_close(seen["worth"], expected)


def test_a_changed_latent_is_computed() -> None:
    _, session = rollout(DuCa(), steps=12, callback=lambda i, t, x: x + 0.01 if i == 4 else x)
    assert set(map(str, session.trace[5].values())) == {"compute"}
    assert actions(session, TRUNK)[5:9] == ["compute", "compute", "compute", "reuse"]


def test_what_it_needs() -> None:
    with pytest.raises(ValueError, match="warm-up of 1 and a period of 2 needs at least 2 steps, got 1"):
        DuCa(warmup=1, period=2).session(stub_job(1))
