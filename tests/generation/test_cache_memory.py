"""Memory of stored values: foretold as it turns out, and kept within a limit."""

from dataclasses import replace
from typing import Any

import pytest
import torch

from tests.tiny_run import tiny_run
from videoaccel.generation.cache_memory import fit, foretell
from videoaccel.generation.prepared import plain
from videoaccel.session.policy import Session
from videoaccel.session.registry import make_policy

STATIC = [
    ("fora", {}),
    ("fora", {"slots": "trunk"}),
    ("pab", {}),
    ("toca", {}),
    ("taylorseer", {"scope": "modules", "order": 2}),
    ("taylorseer", {}),
    ("fixed_linear", {}),
    ("tgate", {}),
    ("fastercache", {}),
    ("off", {}),
]
STEPS = 9


def fitted(name: str, fields: dict[str, Any], limit: int | None = None, **run: Any) -> tuple[Session, torch.Tensor]:
    denoising = tiny_run(steps=STEPS, **run)
    job = denoising.job(cache_memory=limit)
    frames, _, _ = denoising.model.token_grid(denoising.z.shape[2:])
    session = fit(make_policy(name, **fields), job, frames=frames, width=denoising.model.width)
    return session, denoising.denoise(session)


def peak(name: str, fields: dict[str, Any], **run: Any) -> int:
    denoising = tiny_run(steps=STEPS, **run)
    frames, _, _ = denoising.model.token_grid(denoising.z.shape[2:])
    return foretell(make_policy(name, **fields), denoising.job(), frames=frames, width=denoising.model.width).peak


@pytest.mark.parametrize(("name", "fields"), STATIC)
@pytest.mark.parametrize("batch", [1, 2])
def test_the_peak_is_foretold_to_the_byte(name: str, fields: dict[str, Any], batch: int) -> None:
    assert peak(name, fields, batch=batch) == fitted(name, fields, batch=batch)[0].peak_bytes


@pytest.mark.parametrize("limit", [None, 10**9])
def test_a_limit_that_is_not_reached_changes_nothing(limit: int | None) -> None:
    session, z = fitted("fora", {"period": 3}, limit)
    denoising = tiny_run(steps=STEPS)
    assert torch.equal(z, denoising.denoise(make_policy("fora", period=3).session(denoising.job())))
    assert session.foretold_bytes == (None if limit is None else session.peak_bytes)


def test_a_coarser_form_is_taken_before_slots_are_left_out() -> None:
    modules, trunk = peak("fora", {}), peak("fora", {"slots": "trunk"})
    assert trunk < modules
    session, z = fitted("fora", {"period": 3}, modules - 1)
    assert session.made_by == make_policy("fora", period=3, slots="trunk")
    assert session.foretold_bytes == session.peak_bytes == trunk
    denoising = tiny_run(steps=STEPS)
    assert torch.equal(z, denoising.denoise(make_policy("fora", period=3, slots="trunk").session(denoising.job())))


def test_places_without_room_are_computed() -> None:
    whole = peak("pab", {})
    session, z = fitted("pab", {}, whole // 2)
    free, loose = fitted("pab", {})
    assert 0 < session.peak_bytes <= whole // 2
    assert session.foretold_bytes is not None and session.peak_bytes <= session.foretold_bytes <= whole // 2
    assert 0 < session.counts()["reuse"] < free.counts()["reuse"]
    exact = plain(tiny_run(steps=STEPS))
    assert 0 < (z - exact).abs().mean() < (loose - exact).abs().mean()


def test_what_cannot_fit_is_refused_with_what_would() -> None:
    with pytest.raises(ValueError, match=r"fora stores at least \d.* here, which is more than `cache_memory=100 B`"):
        fitted("fora", {}, 100)
    trunk = peak("fora", {"slots": "trunk"})
    with pytest.raises(ValueError, match="fora stores at least"):
        fitted("fora", {}, trunk - 1)
    assert fitted("fora", {}, trunk)[0].peak_bytes == trunk


def test_a_plan_stands_or_falls_as_a_whole() -> None:
    denoising = tiny_run(steps=STEPS)
    steps, sites = STEPS, sum(len(modules) for modules in denoising.model.sites.values())
    prior = {
        "soda.cache": torch.rand(steps, sites, 5),
        "soda.prune": torch.rand(steps, sites, 3, 5),
        "soda.forecast": torch.rand(steps, sites, 5),
        "soda.velocity": torch.rand(steps, 4, 8),
    }
    job = replace(denoising.job(), prior=prior)
    frames, _, _ = denoising.model.token_grid(denoising.z.shape[2:])
    size = {"frames": frames, "width": denoising.model.width}
    policy = make_policy("soda", schedule="modules", rule="reuse", anchors=4, order=0, influence=False)
    every, alike, velocity = (
        foretell(form, job, **size).peak
        for form in (
            policy,
            policy.model_copy(update={"slots": "coarsest"}),
            make_policy("soda", order=0, influence=False),
        )
    )
    assert velocity < alike < every
    for limit, schedule, slots in ((every, "modules", "modules"), (alike, "modules", "coarsest")):
        made = fit(policy, replace(job, cache_memory=limit), **size).made_by
        assert made == policy.model_copy(update={"schedule": schedule, "slots": slots})
    made = fit(policy, replace(job, cache_memory=alike - 1), **size).made_by
    assert made is not None and made.model_dump()["schedule"] == "network"
    with pytest.raises(ValueError, match="soda stores at least"):
        fit(policy, replace(job, cache_memory=velocity // 2), **size)
