"""What holds for every method. A new one gets a row in FIRING."""

import gc
import importlib
import weakref
from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.models.image_networks import tiny_dit, tiny_pixart
from tests.models.latte_networks import tiny_latte
from tests.models.networks import tiny_stdit
from tests.policies.rollout import make_job, measure, rollout
from videoaccel.session.actions import SKIP, reads
from videoaccel.session.policy import Probe
from videoaccel.session.registry import make_policy, policy_class, policy_names

STEPS = 12

FIRING: dict[str, dict[str, Any]] = {
    "adacache": {},
    "bwcache": {"threshold": 1.0},
    "delta_dit": {"share": 0.5},
    "duca": {},
    "easycache": {"threshold": 0.5, "warmup": 3},
    "elastic": {"decisions": "static"},
    "fastercache": {},
    "first_block": {"threshold": 0.6},
    "fixed_linear": {},
    "fora": {},
    "lemica": {"budget": 5},
    "magcache": {},
    "pab": {},
    "precisecache": {"factor": 1.5},
    "sada": {"threshold": 2.0},
    "seacache": {"threshold": 0.6},
    "taylorseer": {},
    "teacache": {"threshold": 1.0},
    "tgate": {},
    "toca": {},
}
"""Fields with which a method does something on the tiny network, which changes a lot from step to step."""

ONLINE = {"adacache", "bwcache", "easycache", "first_block", "precisecache", "sada", "seacache", "teacache"}
"""Methods that look at the samples of a batch to decide."""

KEEPS_NOTHING = {"elastic"}
"""Methods that leave out what they do not compute, and serve nothing."""

CONTROLS = {"off", "fewer_steps", "fixed_linear"}
"""No published methods."""

rows = pytest.mark.parametrize("name", FIRING)
every = pytest.mark.parametrize("name", policy_names())


NETWORKS: dict[str, dict[str, Any]] = {
    "stdit": {"model": tiny_stdit()},
    "latte": {"model": tiny_latte(), "size": (4, 8, 8)},  # whose temporal blocks do not read the text
    "dit": {"model": tiny_dit(num_layers=4), "size": (1, 8, 8)},  # an image, in which no block reads a text
    "pixart": {"model": tiny_pixart(num_layers=4), "size": (1, 8, 8)},
}


@cache
def prior(network: str, steps: int = STEPS) -> dict[str, Tensor]:
    """Tables measured on a tiny network; LeMiCa's are made up."""
    tables = {"lemica.error": torch.rand(steps, 8, generator=torch.Generator().manual_seed(0))}
    for name in FIRING:
        if set(policy_class(name).needs) - tables.keys() and steps > 1:
            tables |= measure(name, steps=steps, batch=2, **NETWORKS[network])
    return tables


@cache
def exact_of(network: str) -> Tensor:
    """What every step computed gives."""
    return rollout(None, steps=STEPS, **NETWORKS[network])[0]


def play(name: str, *, steps: int = STEPS, network: str = "stdit", **options: Any) -> Any:
    policy, tables = make_policy(name, **FIRING[name]), prior(network, steps)
    return rollout(policy, steps=steps, prior=tables, **NETWORKS[network], **options)


@every
def test_it_says_where_it_comes_from(name: str) -> None:
    module, found = importlib.import_module(f"videoaccel.policies.{name}"), policy_class(name)
    assert found.__doc__ and found.__doc__.splitlines()[0].endswith(".")
    assert module.__doc__
    assert name in CONTROLS or "Source: " in module.__doc__


@every
def test_it_has_a_knob_with_at_least_six_values(name: str) -> None:
    found = policy_class(name)
    if not found.knob:
        assert name == "off"
        return
    assert found.knob in found.model_fields
    assert len(set(found.sweep)) == len(found.sweep) >= 6
    assert list(found.sweep) in (sorted(found.sweep), sorted(found.sweep, reverse=True))
    for value in found.sweep:
        assert getattr(make_policy(name, **{found.knob: value}), found.knob) == value


@every
def test_an_unknown_field_is_refused_in_one_sentence(name: str) -> None:
    with pytest.raises(ValueError, match=rf"^{name} has no field 'sped'; it has [\w, ]+$"):
        make_policy(name, sped=2)


@rows
@pytest.mark.parametrize("network", NETWORKS)
def test_it_fires(name: str, network: str) -> None:
    exact = exact_of(network)
    out, session = play(name, network=network)
    if name in KEEPS_NOTHING:
        assert any(action == SKIP for step in session.trace for action in step.values())
    else:
        assert any(reads(action) for step in session.trace for action in step.values())
    assert sum(map(len, session.trace)) and not torch.equal(out, exact)
    assert (out - exact).abs().mean() < exact.abs().mean()
    assert max(session.reads) == (name in ONLINE)
    assert (session.peak_bytes > 0) == (name not in KEEPS_NOTHING)


@rows
def test_decisions_repeat(name: str) -> None:
    (one, first), (other, second) = play(name), play(name)
    assert torch.equal(one, other) and first.digest() == second.digest()


@rows
@pytest.mark.parametrize("guidance", [1.0, 4.0])
def test_a_batch_of_two_gives_what_each_gives_alone(name: str, guidance: float) -> None:
    """Of a method that looks at the samples: what two equal ones give."""
    if name in ONLINE:
        pair, together = play(name, batch=2, only=[1, 1], guidance=guidance)
        alone, apart = play(name, batch=2, only=[1], guidance=guidance)
        assert together.digest() == apart.digest()
        expected = torch.cat([alone, alone])
    else:
        pair, _ = play(name, batch=2, guidance=guidance)
        expected = torch.cat([play(name, batch=2, only=[row], guidance=guidance)[0] for row in (0, 1)])
    torch.testing.assert_close(pair, expected, atol=1e-4, rtol=1e-4)


@rows
def test_nothing_old_is_served_after_a_change_of_the_latent(name: str) -> None:
    for changed in (3, 6):
        _, session = play(name, callback=lambda i, t, x, changed=changed: x + 0.1 if i == changed else x)
        assert session.trace[changed + 1]
        assert not any(reads(action) for action in session.trace[changed + 1].values())


@rows
def test_it_runs_or_says_how_many_steps_it_needs(name: str) -> None:
    """In however few steps."""
    refused = []
    for steps in range(1, 9):
        try:
            out, _ = play(name, steps=steps)
        except ValueError as error:
            assert f"steps, got {steps}" in str(error)
            refused.append(steps)
        else:
            assert out.isfinite().all()
    assert refused == [*range(1, len(refused) + 1)], "only too few are too few"
    assert len(refused) <= 5


@rows
def test_what_it_needs_is_measured_or_asked_for(name: str) -> None:
    found = policy_class(name)
    if not found.needs:
        return
    with pytest.raises(ValueError, match=rf"'{found.needs[0]}'.*`videoaccel calibrate`"):
        make_policy(name).session(make_job(tiny_stdit(), steps=30))
    if name == "lemica":  # measured by replays, not in a dense run
        return
    exact, _ = rollout(None, steps=4, batch=2)
    out, probe = rollout(lambda job, mix: found.probe(job, mix=mix), steps=4, batch=2)  # type: ignore[arg-type,return-value]
    assert torch.equal(out, exact), "measuring changes nothing"
    assert isinstance(probe, Probe)
    tables = probe.tables()
    assert set(tables) == set(found.needs)
    assert all(table.shape == (2, 4) and table.isfinite().all() for table in tables.values())
    if "constants" in found.model_fields:
        rollout(make_policy(name, constants="published"), steps=30)


@every
def test_a_finished_session_is_freed_at_once(name: str) -> None:
    """Not when Python next looks for cycles: until then a GPU would hold what it stores beside the next one's."""
    fields: dict[str, Any] = FIRING.get(name, {"anchors": 5} if name == "soda" else {})
    tables = prior("stdit")
    if name == "soda":
        tables = tables | measure(name, steps=STEPS, batch=2, **NETWORKS["stdit"])
    gc.collect()
    gc.disable()
    try:
        _, session = rollout(make_policy(name, **fields), steps=STEPS, prior=tables, **NETWORKS["stdit"])
        alive = weakref.ref(session)
        del session
        assert alive() is None
    finally:
        gc.enable()
