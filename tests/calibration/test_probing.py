"""What is measured, against direct arithmetic on the tiny network."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.tiny_run import tiny_run
from videoaccel.calibration import replay
from videoaccel.calibration.probing import (
    SiteInfluence,
    every_site,
    fill_steps,
    measure,
    output_bytes,
    run_probe,
    site_groups,
)
from videoaccel.generation.prepared import Denoising
from videoaccel.models.seam import Site, direct
from videoaccel.policies._soda_errors import ErrorProbe
from videoaccel.sampling.rectified_flow import euler
from videoaccel.session.cosine import cosine_error
from videoaccel.session.policy import Session

MLP = Site("mlp", "time", 1)


def network(run: Denoising, i: int, x: Tensor, seam: Any = direct) -> Tensor:
    """Guided velocity of one step, by hand."""
    out = run.network(seam).at(x, run.timesteps[i], None)()
    return out["uncond"] + 4.0 * (out["cond"] - out["uncond"])


def by_hand(run: Denoising, start: int, x: Tensor) -> list[Tensor]:
    """Latents from a step to the end."""
    path = [x]
    for i in range(start, len(run.timesteps)):
        x = x + network(run, i, x) * (run.sigmas[0, i] - run.sigmas[0, i + 1])
        path.append(x)
    return path


def output_of(run: Denoising, site: Site, i: int, x: Tensor) -> Tensor:
    """A module's output before the gate in a dense call."""
    found: list[Tensor] = []

    def seam(at: Site, branch: Any, h: Tensor, cond: Any) -> Tensor:
        if at == site:
            found.append(branch.mix(branch.pre(h, cond), cond))
        return branch.compute(h, cond, seam)

    network(run, i, x, seam)
    return found[0]


def serving(site: Site, old: Tensor) -> Any:
    """A run in which one module's output is replaced."""

    def seam(at: Site, branch: Any, h: Tensor, cond: Any) -> Tensor:
        return branch.add(h, old, cond) if at == site else branch.compute(h, cond, seam)

    return seam


# -- the cosine


def test_small_cosine_errors_keep_their_digits() -> None:
    a = torch.randn(2, 4096, generator=torch.Generator().manual_seed(0))
    b = a + 1e-4 * torch.randn(2, 4096, generator=torch.Generator().manual_seed(1))
    exact = 1 - torch.cosine_similarity(a.double(), b.double())
    assert torch.allclose(cosine_error(a, b).double(), exact, rtol=1e-3, atol=0), (
        "float32's own 1 - cos has no digit left"
    )
    assert torch.allclose(cosine_error(a, 3 * a), torch.zeros(2), atol=1e-6) and cosine_error(a, -a).tolist() == [2, 2]
    wide = a.to(torch.bfloat16)
    assert torch.equal(cosine_error(wide, b), cosine_error(wide.float(), b)), "in float32 whatever the type"


def test_each_sample_has_its_own_cosine() -> None:
    a, b = torch.randn(3, 5, 7), torch.randn(3, 5, 7)
    together = cosine_error(a, b)
    assert torch.allclose(together, torch.cat([cosine_error(a[k : k + 1], b[k : k + 1]) for k in range(3)]))
    assert torch.allclose(together, 1 - torch.cosine_similarity(a.flatten(1), b.flatten(1)), atol=1e-6)


def test_zero_vectors() -> None:
    zero, one = torch.zeros(1, 4), torch.ones(1, 4)
    assert float(cosine_error(zero, zero)) == 0 and float(cosine_error(zero, one)) == 1


# -- influences


@torch.inference_mode()
def test_site_influence_is_the_change_of_the_velocity_per_error() -> None:
    run = tiny_run(steps=5)
    exact = by_hand(run, 0, run.z)
    probe = SiteInfluence(run.job(), stride=2)
    assert torch.allclose(run.denoise(probe), exact[-1], atol=1e-5), "measuring changes nothing"
    table, m = probe.tables()["influence.site"], every_site(run.job()).index(MLP)
    for i in (1, 2, 4):
        old, new = (output_of(run, MLP, k, exact[k]) for k in (i - 1, i))
        moved = network(run, i, exact[i], serving(MLP, old)) - network(run, i, exact[i])
        error = float((1 - torch.cosine_similarity(old.flatten(1), new.flatten(1))).mean())
        assert float(table[0, i, m]) == pytest.approx(float(moved.square().mean()) / error, rel=1e-2)
    assert torch.allclose(table[:, 3], (table[:, 2] + table[:, 4]) / 2), "steps between are interpolated"
    assert torch.equal(table[:, 0], table[:, 1])


@torch.inference_mode()
def test_step_influence_is_the_change_of_the_result_per_error() -> None:
    run = tiny_run(steps=5)
    exact = by_hand(run, 0, run.z)
    path = replay.dense_path(run)
    assert torch.allclose(path.end, exact[-1], atol=1e-5) and len(path.latents) == 6 and len(path.velocities) == 5
    table = replay.step_influence(run, path, stride=2)
    for i in (1, 2, 4):
        stale = network(run, i - 1, exact[i - 1])
        error = float((stale - network(run, i, exact[i])).square().mean())
        end = by_hand(run, i + 1, exact[i] + stale * 0.2)[-1]
        assert float(table[0, i]) == pytest.approx(float((end - exact[-1]).square().mean()) / error, rel=1e-2)
    assert float(table[0, 4]) == pytest.approx(0.04, rel=1e-3), "the last velocity's error is scaled by its step"


@torch.inference_mode()
def test_stretches_are_served_by_what_all_blocks_added() -> None:
    run = tiny_run(steps=4)
    path = replay.dense_path(run)
    calls: list[int] = []
    table = replay.stretch_errors(run, path, gaps=3, tick=calls.append)
    added: list[Tensor] = []

    def keep(at: Site, branch: Any, h: Tensor, cond: Any) -> Tensor:
        if at.kind == "body":
            return branch.compute(h, cond, keep)
        if (at.axis, at.layer) == ("space", 0):
            added.append(h)
        out = branch.compute(h, cond, direct)
        if (at.axis, at.layer) == ("time", 1):
            added.append(out)
        return out

    def serve(at: Site, branch: Any, h: Tensor, cond: Any) -> Tensor:
        if at.kind == "body":
            return branch.compute(h, cond, serve)
        return h + added[1] - added[0] if (at.axis, at.layer) == ("space", 0) else h

    x = path.latents[1] + 0.25 * network(run, 1, path.latents[1], keep)
    x = x + 0.25 * network(run, 2, x, serve)
    end = by_hand(run, 3, x)[-1]
    assert float(table[0, 1, 1]) == pytest.approx(float((end - path.end).abs().mean()), rel=1e-2)
    assert (
        table[0, :, 0].eq(0).all() and table[0, 3, 1].isinf() and table[0, 2, 1].isfinite() and table[0, 2, 2].isinf()
    )
    assert sum(calls) == sum(4 - i - gap for i, gap in replay.stretches(4, 3))


def test_samples_of_a_batch_are_measured_apart() -> None:
    both = tiny_run(steps=4, batch=2)

    def alone(row: int) -> Denoising:
        times, part = both.timesteps[:, row : row + 1], slice(row, row + 1)
        rows = both.context.rows([row, 2 + row])
        own = {"context": rows, "z": both.z[part], "timesteps": times, "sigmas": both.sigmas[part]}
        return Denoising(**{**vars(both), **own, "update": euler(times)})

    def measured(run: Denoising) -> list[Tensor]:
        path = replay.dense_path(run)
        site = run_probe(run, SiteInfluence)["influence.site"]
        return [site, replay.step_influence(run, path), replay.stretch_errors(run, path, gaps=3)]

    for whole, *parts in zip(measured(both), measured(alone(0)), measured(alone(1)), strict=True):
        assert torch.allclose(whole, torch.cat(parts), rtol=2e-2, atol=1e-6)


# -- the product of both


@torch.inference_mode()
def test_a_replay_serves_one_module_once() -> None:
    run = tiny_run(steps=4)
    path = replay.dense_path(run)
    session = replay.ServeOnce(run.job(start=1), site=MLP)
    end = run.denoise(session, start=1, z=path.latents[1])
    old, new = (output_of(run, MLP, k, path.latents[k]) for k in (1, 2))
    x = path.latents[2] + 0.25 * network(run, 2, path.latents[2], serving(MLP, old))
    assert torch.allclose(end, by_hand(run, 3, x)[-1], atol=1e-5)
    assert session.error == pytest.approx(float(cosine_error(old, new).mean()), rel=1e-4)


def test_influences_foretell_replays() -> None:
    run = tiny_run(steps=6)
    path = replay.dense_path(run)
    tables = run_probe(run, lambda job: SiteInfluence(job, stride=1))
    tables["influence.step"] = replay.step_influence(run, path, stride=1)
    calls: list[int] = []
    checked = replay.check_influence(run, path, tables, pairs=20, seed=1, tick=calls.append)
    assert len(checked) == len(calls) == 20 and len({pair[:2] for pair in checked}) == 20
    last = [pair for pair in checked if pair.step == 5]
    assert all(pair.predicted == pytest.approx(pair.measured, rel=0.05) for pair in last), "exact in the last step"
    found = replay.correlation(checked)
    assert found is not None and found > 0.8


def test_correlation() -> None:
    pairs = [replay.Checked(1, "x", 10.0**k, 3 * 10.0**k) for k in range(4)]
    assert replay.correlation(pairs) == pytest.approx(1.0)
    assert replay.correlation(pairs[:2]) is None and replay.correlation([]) is None


# -- memory


def test_groups_of_sites_fit_into_memory_and_measure_the_same() -> None:
    run = tiny_run(steps=4)
    sizes = output_bytes(run)
    assert set(sizes) == set(every_site(run.job())) and len(set(sizes.values())) == 1
    one = ErrorProbe.held * next(iter(sizes.values()))
    peaks: list[int] = []

    class Watched(ErrorProbe):
        def network(self, *args: Any, **kwargs: Any) -> Any:
            out = super().network(*args, **kwargs)
            peaks.append(self.cache_bytes)
            return out

    whole = run_probe(run, Watched)
    assert max(peaks) > 5 * one / 4, "more than the limit below"
    peaks.clear()
    calls: list[int] = []
    parts = run_probe(run, Watched, memory=5 * one, tick=calls.append)
    assert max(peaks) <= 5 * one and sum(calls) == 3 * 4, "12 sites, 5 at a time, take 3 passes"
    assert whole.keys() == parts.keys() and all(torch.equal(parts[name], table) for name, table in whole.items())
    influence = [run_probe(run, SiteInfluence, memory=limit) for limit in (None, 2 * one)]
    assert torch.equal(influence[0]["influence.site"], influence[1]["influence.site"])


def test_too_little_memory_is_refused() -> None:
    with pytest.raises(ValueError, match=r"one module's outputs alone take .* KiB, more than the `memory` of 10 B"):
        site_groups(tiny_run(), ErrorProbe(tiny_run().job()), 10)


def test_probes_that_keep_nothing_run_once() -> None:
    class Light(ErrorProbe):
        held = 0

    assert len(site_groups(tiny_run(), Light(tiny_run().job()), 10)) == 1


def test_methods_give_their_tables_in_one_dense_run_each() -> None:
    calls: list[int] = []
    tables = measure(tiny_run(steps=4), ["soda", "fora"], tick=calls.append)
    assert sum(calls) == 4 and {"soda.cache", "soda.velocity"} <= tables.keys()
    assert all(table.shape[0] == 1 for table in tables.values())


def test_steps_between_are_filled() -> None:
    table = torch.tensor([math.nan, 1.0, math.nan, math.nan, 4.0, math.nan])[None, :, None]
    assert fill_steps(table)[0, :, 0].tolist() == [1, 1, 2, 3, 4, 4]
    assert fill_steps(torch.full((1, 2, 1), math.nan)).isnan().all()


def test_a_plain_session_is_what_replays_run() -> None:
    run = tiny_run(steps=3)
    path = replay.dense_path(run)
    assert torch.equal(run.denoise(Session(run.job(start=1)), run=direct, start=1, z=path.latents[1]), path.end)
