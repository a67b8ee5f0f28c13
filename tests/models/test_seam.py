"""The seam proven: nothing attached is free of error, and guests of 30 lines can prune, reuse and observe."""

from typing import Any

import pytest
import torch
from torch import Tensor

from tests.models.guests import PruneColumns, ReuseStack, job
from tests.models.table import NETWORKS, Row
from videoaccel.models.seam import BODY, Site, Work, direct
from videoaccel.session.policy import Session

PASSES = [(name, options) for name, row in NETWORKS.items() for options in row.passes]


@pytest.fixture(params=NETWORKS)
def row(request: pytest.FixtureRequest) -> Row:
    return NETWORKS[request.param]


@pytest.mark.parametrize("name, options", PASSES)
@torch.inference_mode()
def test_default_run_is_straight_code_bit_for_bit(name: str, options: dict[str, Any]) -> None:
    row = NETWORKS[name]
    model, inputs = row.make(2), row.inputs(**options)
    assert torch.equal(model(**inputs), row.straight(model, **inputs))


@torch.inference_mode()
def test_a_session_that_changes_nothing_is_bit_identical(row: Row) -> None:
    model, inputs = row.make(2), row.inputs()
    assert torch.equal(model(**inputs, run=Session(job(model, inputs)).run), model(**inputs))


@torch.inference_mode()
def test_context_made_once_is_bit_identical(row: Row) -> None:
    model, inputs = row.make(2), row.inputs()
    shared = {key: inputs[key] for key in row.shared}
    context = model.prepare(**shared, latent_size=inputs["x"].shape[2:])
    step = {key: value for key, value in inputs.items() if key not in row.shared}
    assert torch.equal(model(**step, context=context), model(**inputs))
    rows = [2, 0]
    part = model(**{key: value[rows] for key, value in step.items()}, context=context.rows(rows))
    torch.testing.assert_close(part, model(**inputs)[rows], atol=1e-5, rtol=1e-5)


@torch.inference_mode()
def test_sites_are_called_in_order_with_the_stream_in_four_axes(row: Row) -> None:
    model, inputs = row.make(2), row.inputs()
    seen: list[tuple[str, int]] = []

    def run(site: Site, branch: Work, x: Tensor, cond: Any) -> Tensor:
        seen.append((str(site), x.ndim))
        return branch.compute(x, cond, run)

    model(**inputs, run=run)
    expected = ["body"]
    for index in range(2):
        for axis in row.kinds:
            expected += [f"{axis}.{index}.{kind}" for kind in ("block", *row.kinds[axis])]
    assert seen == [(name, 4) for name in expected]
    assert expected[1:] == [str(site) for block, modules in model.sites.items() for site in (block, *modules)]


@pytest.mark.parametrize("kv", ["all", "kept"])
@torch.inference_mode()
def test_pruning_is_exact_where_it_must_be(row: Row, kv: str) -> None:
    """Kept columns of every site but spatial attention over kept keys equal the dense run's, site by site."""
    model, inputs = row.make(1), row.inputs((row.frames, 8, 8))
    everything = torch.arange(16)
    pruned = PruneColumns(job(model, inputs), keep=everything, kv=kv)
    torch.testing.assert_close(model(**inputs, run=pruned.run), model(**inputs), atol=1e-5, rtol=1e-5)
    keep = torch.tensor([0, 3, 4, 11, 15])
    wrong = []

    def run(site: Site, branch: Any, x: Tensor, cond: Any) -> Tensor:
        dense = branch.compute(x, cond, run)
        if site.kind in ("attn", "cross", "mlp"):
            part = PruneColumns(job(model, inputs), keep=keep, kv=kv).run(site, branch, x, cond)
            rest = [place for place in range(16) if place not in keep]
            assert torch.equal(part[:, :, rest], x[:, :, rest])
            if (part[:, :, keep] - dense[:, :, keep]).abs().max() > 1e-5:
                wrong.append(str(site))
        return dense

    model(**inputs, run=run)
    assert wrong == ([] if kv == "all" else ["space.0.attn"])


@torch.inference_mode()
def test_reuse_of_the_whole_stack(row: Row) -> None:
    model, inputs = row.make(2), row.inputs()
    session = ReuseStack(job(model, inputs), last=list(model.sites)[-1])
    dense = model(**inputs, run=session.run)
    assert torch.equal(dense, model(**inputs))
    assert session.computed == len(model.sites) == 2 * len(row.kinds)
    session.serve = True
    torch.testing.assert_close(model(**inputs, run=session.run), dense, atol=1e-5, rtol=1e-5)
    assert session.computed == len(model.sites), "a served stack computes no block"
    other = inputs | {"x": inputs["x"] + 0.1}
    served, computed = model(**other, run=session.run), model(**other)
    assert (served - computed).abs().max() > 1e-3, "reuse must be an approximation on a changed latent"


@torch.inference_mode()
def test_mlp_width_and_a_named_attention_reach_the_branch(row: Row) -> None:
    model, inputs = row.make(1), row.inputs()
    calls = []

    def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
        calls.append(q.shape)
        weights = torch.einsum("mlnd,mknd->mnlk", q, k) * q.shape[-1] ** -0.5
        if mask is not None:
            weights = weights.masked_fill(~mask, float("-inf"))
        return torch.einsum("mnlk,mknd->mlnd", weights.softmax(-1), v)

    def run(site: Site, branch: Any, x: Tensor, cond: Any) -> Tensor:
        if site.kind in ("attn", "cross"):
            return branch.add(x, branch.mix(branch.pre(x, cond), cond, attend=attend), cond)
        if site.kind == "mlp":
            full = branch.mix(branch.pre(x, cond), cond)
            assert torch.equal(full, branch.mix(branch.pre(x, cond), cond, width=1.0))
            half = branch.mix(branch.pre(x, cond), cond, width=0.5)
            assert half.shape == full.shape and not torch.equal(half, full)
        return branch.compute(x, cond, run)

    torch.testing.assert_close(model(**inputs, run=run), model(**inputs), atol=1e-5, rtol=1e-5)
    assert len(calls) == sum(kind != "mlp" for kinds in row.kinds.values() for kind in kinds)
    assert direct(BODY, type("Work", (), {"compute": lambda self, x, cond, run: x})(), inputs["x"], None) is inputs["x"]
