"""E-DiT: what routers decide is what runs, the model stays as it is, budgets are kept."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.models.image_networks import tiny_dit, tiny_pixart
from tests.models.latte_networks import tiny_latte
from tests.models.networks import stdit_inputs, tiny_stdit
from tests.policies.rollout import SIZE, classes, costs_of, make_job, rollout
from tests.routers.fixtures import close, router_file, saved, straight
from videoaccel.models.fingerprint import fingerprint
from videoaccel.models.router import LOGITS, OPEN, Routers, hard, straight_through
from videoaccel.models.seam import Site
from videoaccel.policies.elastic import Choice, Elastic, budget_of, choices_of, closed_from_the_middle, module_costs
from videoaccel.session.actions import COMPUTE, Compute, Skip

NETWORKS: dict[str, Any] = {
    "stdit": (tiny_stdit, SIZE),
    "latte": (tiny_latte, (4, 8, 8)),
    "dit": (tiny_dit, (1, 8, 8)),
    "pixart": (tiny_pixart, (1, 8, 8)),
}


def conditional(model: Any, run: Any, x: torch.Tensor, t: torch.Tensor, size: Any) -> torch.Tensor:
    """The network on its own, with a run."""
    inputs = stdit_inputs(tuple(size), batch=1, given=False, lengths=None)
    y = classes([0]) if model.reads_classes else inputs["y"][:1]
    context = model.prepare(y, fps=torch.tensor([8.0]), height=64.0, width=64.0, latent_size=size)
    return model(x, t, context=context, run=run)[:, :4]


@torch.inference_mode()
@pytest.mark.parametrize("network", NETWORKS)
def test_closed_modules_are_left_out_and_narrow_mlps_use_the_most_important_neurons(
    network: str, tmp_path: Path
) -> None:
    """Against straight code, one step at a time: the second step's velocities at the second step's latent."""
    make, size = NETWORKS[network]
    model = make()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    there = {str(site) for modules in model.sites.values() for site in modules}
    named = ["space.0.attn", "space.1.attn", "space.1.cross", "space.1.mlp", "time.0.mlp"]
    closed = [name for name in named if name in there]
    file = close(router_file(model, width=0.0), closed)
    with torch.no_grad():
        file.routers.bias[0, 3:] = torch.tensor([0.0, 5.0, 0.0, 0.0])  # half of the neurons of the first block
    file.save(tmp_path / "r.safetensors")
    latents: list[torch.Tensor] = []
    out, session = rollout(
        Elastic(router=str(tmp_path / "r.safetensors"), flops_ratio=1.1),
        model=model, size=size, steps=3, guidance=1.0, callback=lambda i, t, x: latents.append(x) or x,
    )  # fmt: skip
    orders = file.orders["space.0.block"]
    run = straight(model, closed, {"space.0.mlp": (orders, 0.5)})
    velocity = conditional(model, run, latents[0], torch.tensor([2000 / 3]), size)
    torch.testing.assert_close((latents[1] - latents[0]) * 3, velocity, atol=1e-4, rtol=1e-4)
    second = {str(place): action for place, action in session.trace[1].items()}
    assert second["space.1.block"] == Skip() and second["space.0.attn"] == Skip()
    assert "time.0.mlp" not in there or second["time.0.mlp"] == Skip()
    assert second["space.0.mlp"] == Compute(0.5) and str(second["space.0.block"]) == "compute"
    assert all(str(action) == "compute" for action in session.trace[0].values()), "the first step is whole"
    assert session.reads == [0, 1, 1]
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert out.isfinite().all()


@torch.inference_mode()
@pytest.mark.parametrize("network", NETWORKS)
def test_an_ordered_mlp_is_the_same_function(network: str) -> None:
    make, size = NETWORKS[network]
    found = []

    def run(site: Site, branch: Any, x: Any, cond: Any) -> Any:
        if site.kind == "mlp":
            h = branch.pre(x, cond)
            importance = branch.importance(h)
            order = importance.argsort(descending=True)
            made = branch.ordered(order)
            torch.testing.assert_close(made.mix(h, cond), branch.mix(h, cond), atol=1e-5, rtol=1e-5)
            whole = branch.mix(h, cond)
            errors = [
                (b.mix(h, cond, width=0.5) - whole).square().mean() for b in (made, branch.ordered(order.flip(0)))
            ]
            found.append(errors[0] < errors[1])
        return branch.compute(x, cond, run)

    conditional(make(), run, torch.randn(1, 4, *size, generator=torch.manual_seed(0)), torch.tensor([500.0]), size)
    assert found and all(found), "the important half is the better half"


def test_at_first_routers_leave_the_model_as_it_is(tmp_path: Path) -> None:
    """Full-capacity initialisation, bit for bit."""
    model = tiny_stdit()
    exact, _ = rollout(None, model=model, steps=4)
    out, session = rollout(Elastic(router=saved(tmp_path, model), flops_ratio=1.5), model=model, steps=4)
    assert torch.equal(out, exact)
    assert {str(action) for step in session.trace for action in step.values()} == {"compute"}
    assert Routers(2, 8).bias[0, 0].item() == pytest.approx(OPEN)


def test_the_budget_moves_the_same_routers(tmp_path: Path) -> None:
    model = tiny_stdit(depth=4)
    path = saved(tmp_path, model, spread=0.6, budget=0.6)
    costs, spent = costs_of(model), []
    for ratio in (1.1, 1.5, 2.0, 3.0):
        _, session = rollout(Elastic(router=path, flops_ratio=ratio), model=model, steps=6)
        spent.append(costs.total(session.trace, session.shares))
    assert len(set(spent)) > 1


@pytest.mark.parametrize("branches", ["together", "apart"])
def test_a_batch_decides_for_every_sample(tmp_path: Path, branches: Any) -> None:
    model = tiny_stdit()
    policy = Elastic(router=saved(tmp_path, model, spread=0.8, width=1.9), branches=branches, flops_ratio=1.2)
    together, session = rollout(policy, model=model, batch=3, steps=5)
    for b in range(3):
        alone, _ = rollout(policy, model=model, batch=3, only=[b], steps=5)
        torch.testing.assert_close(together[b], alone[0], atol=1e-3, rtol=1e-3)
    assert all(share == pytest.approx(1) for share in session.shares), "every row runs, in one group or another"
    assert max(session.reads) == 1


def test_barely_wanted_blocks_are_served_for_a_while(tmp_path: Path) -> None:
    model = tiny_stdit()
    file = router_file(model)
    with torch.no_grad():
        file.routers.bias[1, :3] = 0.02  # a probability of 0.505
    file.save(tmp_path / "r.safetensors")
    policy = Elastic(router=str(tmp_path / "r.safetensors"), band=0.02, max_age=2, flops_ratio=1.2)
    _, session = rollout(policy, model=model, steps=8)
    actions = [str(step[Site("block", "time", 0)]) for step in session.trace]
    assert actions == ["compute", "reuse", "reuse", "compute", "reuse", "reuse", "compute", "reuse"]
    assert session.peak_bytes > 0
    _, changed = rollout(policy, model=model, steps=4, callback=lambda i, t, x: x + 0.1 if i == 1 else x)
    assert [str(step[Site("block", "time", 0)]) for step in changed.trace] == ["compute", "reuse", "compute", "reuse"]


def test_static_decisions_keep_the_budget_and_need_no_routers() -> None:
    model = tiny_stdit(depth=4)
    costs = costs_of(model)
    for ratio in (1.1, 1.25, 1.5, 2.0):
        _, session = rollout(Elastic(decisions="static", flops_ratio=ratio), model=model, steps=6)
        found = 6 * costs.dense / costs.total(session.trace, session.shares)
        assert ratio <= found < 1.25 * ratio, "whole modules are closed"
        assert session.reads == [0] * 6
    gates = [choice.gates for choice in closed_from_the_middle(costs, 0.5)]
    assert gates[0] == gates[-1] == (True,) * 3 and gates[3] == gates[4] == (False,) * 3


@pytest.mark.parametrize(("start", "whole"), [(0.0, 1), (0.1, 1), (0.5, 4), (0.99, 7)])
def test_the_first_steps_are_whole(start: float, whole: int) -> None:
    model = tiny_stdit()
    costs = costs_of(model)
    policy = Elastic(decisions="static", start=start, flops_ratio=1.1)
    _, session = rollout(policy, model=model, steps=8, costs=lambda unit: costs)
    dense = [all(action == COMPUTE for action in step.values()) for step in session.trace]
    assert dense == [i < whole for i in range(8)]


def test_choices_by_hand() -> None:
    logits = torch.full((2, 1, LOGITS), -1.0)
    logits[0, 0] = torch.tensor([0.04, -2.0, -1.0, 0.0, 3.0, 1.0, 2.0])
    assert choices_of(logits, band=0.02) == [
        (Choice((True, False, False), 0.5, True), Choice((False, False, False), 0.25, False))
    ]
    assert choices_of(logits, band=0.005)[0][0].near is False
    gates, widths = hard(logits)
    soft_gates, soft_widths = straight_through(logits.requires_grad_())
    torch.testing.assert_close(soft_gates.detach(), gates.float())
    assert soft_widths.detach().argmax(-1).tolist() == [[1], [0]] and widths.tolist() == [[0.5], [0.25]]
    (soft_gates.sum() + (soft_widths * torch.arange(4)).sum()).backward()
    assert (logits.grad != 0).all()


def test_sums_of_shards_are_those_of_the_whole() -> None:
    routers = Routers(1, 8, hidden=4, stride=4)
    h = torch.randn(2, 3, 10, 8, generator=torch.manual_seed(0))
    whole = routers.sums(0, h)
    padded = torch.cat([h[:, :, 6:], torch.randn(2, 3, 2, 8)], dim=2)
    parts = routers.sums(0, h[:, :, :6]) + routers.sums(0, padded, first=6, places=4)
    torch.testing.assert_close(parts, whole)
    assert whole[0, -1] == 3 * 3, "places 0, 4 and 8 of three frames"


def test_the_budget_leaves_room_for_a_whole_first_step() -> None:
    costs = costs_of(tiny_stdit())
    share = budget_of(costs, 1.5, steps=10)
    total = costs.dense + 9 * (costs.rest + share * (costs.dense - costs.rest))
    assert 10 * costs.dense / total == pytest.approx(1.5)
    assert sum(map(sum, module_costs(costs))) == pytest.approx(costs.dense - costs.rest)
    late = budget_of(costs, 1.5, steps=10, whole=3)
    total = 3 * costs.dense + 7 * (costs.rest + late * (costs.dense - costs.rest))
    assert 10 * costs.dense / total == pytest.approx(1.5)
    with pytest.raises(ValueError, match=r"50 times fewer FLOPs cannot be reached: without any block it is \d"):
        budget_of(costs, 50, steps=10)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"flops_ratio": 2, "speedup": 2}, "give one of flops_ratio and speedup"),
        ({"decisions": "static", "band": 0.1}, "band changes nothing where decisions are static"),
        ({"max_age": 2}, "max_age changes nothing without a band"),
    ],
)
def test_options_without_effect_are_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Elastic(**fields)


def test_routers_must_be_the_models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    model, other = tiny_stdit(), tiny_stdit(seed=1)
    costs = costs_of(model)
    job = make_job(model, steps=6, costs=lambda unit: costs)
    with pytest.raises(ValueError, match=r"make them with `videoaccel train-router`, or set decisions to 'static'"):
        Elastic().session(job)
    shelf = tmp_path / "videoaccel" / "routers"
    shelf.mkdir(parents=True)
    path = saved(shelf, model)
    assert Elastic().session(job) is not None, "found by the model's hash"
    (shelf / "broken.safetensors").write_bytes(b"no")
    with pytest.warns(UserWarning, match="routers are passed over: .*broken"):
        Elastic().session(job)
    with pytest.raises(ValueError, match=rf"trained for model {fingerprint(model)[:12]}, this is"):
        Elastic(router=path).session(make_job(other, steps=6, costs=lambda unit: costs))
    same_weights = tiny_stdit(input_sq_size=32)
    same_weights.load_state_dict(model.state_dict())
    placed = make_job(same_weights, steps=6, costs=lambda unit: costs)
    with pytest.raises(ValueError, match="the routers were trained for the network's input_sq_size 64, here 32"):
        Elastic(router=path).session(placed)
    with pytest.warns(UserWarning, match="broken"), pytest.raises(ValueError, match="elastic needs routers trained"):
        Elastic().session(placed)
    with pytest.raises(FileNotFoundError, match="train-router makes routers"):
        Elastic(router="none.safetensors").session(job)
    replace(router_file(model), budget=(0.8, 1.0)).save(path)
    with pytest.raises(ValueError, match=r"leaves 0\.\d\d of the blocks' cost, and the routers were trained for 0\.8"):
        Elastic(router=path, flops_ratio=2.0).session(job)
    with pytest.raises(ValueError, match="elastic needs at least 2 steps, got 1"):
        Elastic(decisions="static").session(make_job(model, steps=1))
