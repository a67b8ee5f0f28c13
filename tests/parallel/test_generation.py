"""Whole generations by several ranks against one: latents within 1e-4, frames within a grey level, equal decisions."""

from functools import cache, partial
from typing import Any

import pytest
import torch

from tests.parallel import pipelines
from tests.ranks import RankPools
from videoaccel.session.registry import policy_names

FIELDS: dict[str, dict[str, Any]] = {
    "bwcache": {"threshold": 1.0},
    "first_block": {"threshold": 0.6},
    "precisecache": {"factor": 1.5, "pivotal": 0.5},
    "seacache": {"threshold": 0.6},
    "elastic": {"decisions": "static"},
    "lemica": {"budget": 3},
    "delta_dit+sada": {"sada": {"threshold": 2.0}, "delta_dit": {"share": 0.5}},
    "soda+fixed_linear": {"soda": {"flops_ratio": 1.3}},
    "teacache": {"threshold": 1.0},
    "toca": {"period": 2, "warmup": 1, "keep": 0.4},
    "duca": {"period": 2, "warmup": 1, "keep": 0.4},
    "soda": {"schedule": "modules", "flops_ratio": 1.3},
}
"""So that they do something in so few steps."""

APART = {"fastercache", "sada", "tgate", "toca", "delta_dit+sada"}
"""Methods that need both guidance branches on one rank."""

SHARED = [(1, 1, 2), (1, 2, 1), (1, 1, 3)]


ALONE: dict[str, Any] = {}


def alone(options: dict[str, Any]) -> Any:
    """What one rank makes, for whatever number of ranks it is compared with."""
    key = repr(sorted(options.items()))
    if key not in ALONE:
        ALONE[key] = pipelines.made(None, **options)
    return ALONE[key]


def check(ranks: RankPools, degrees: tuple[int, int, int], options: dict[str, Any]) -> None:
    expected, digests, actions = alone(options)
    pool = ranks(degrees[0] * degrees[1] * degrees[2])
    for out, found, decided in pool.run(pipelines.run_made, degrees, options):
        assert decided == actions and found == digests
        torch.testing.assert_close(out, expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize("degrees", [*SHARED, (1, 2, 2)])
@pytest.mark.parametrize(
    "options",
    [{}, {"given": True, "samples": 2}, {"num_frames": 1}, {"guidance_scale": 1.0, "sequence_parallel": "ulysses"}],
)
def test_latents_are_those_of_one_rank(ranks: RankPools, degrees: tuple[int, int, int], options: dict) -> None:
    if degrees[1] == 2 and options.get("guidance_scale") == 1.0:
        pytest.skip("one branch cannot be split")
    check(ranks, degrees, options)


@pytest.mark.parametrize("method", [None, "first_block"])
def test_replayed_calls_keep_the_bits_of_ranks(ranks: RankPools, method: str | None) -> None:
    options = {"method": method, "fields": FIELDS.get(method or "")}
    plain = ranks(2).run(pipelines.run_made, (1, 1, 2), options)
    for (out, *decided), (wanted, *expected) in zip(
        ranks(2).run(pipelines.run_made, (1, 1, 2), {**options, "replayed": True}), plain, strict=True
    ):
        assert decided == expected
        assert torch.equal(out, wanted)


one_image = cache(partial(pipelines.image, None))


@pytest.mark.parametrize("degrees", SHARED)
@pytest.mark.parametrize("kind", ["dit", "pixart"])
@pytest.mark.parametrize("method", [None, "duca"])
def test_images_are_those_of_one_rank(
    ranks: RankPools, degrees: tuple[int, int, int], kind: str, method: str | None
) -> None:
    """With noise in every step, and a solver that looks back."""
    expected, digest = one_image(kind, method)
    for out, found in ranks(degrees[1] * degrees[2]).run(pipelines.image, degrees, kind, method):
        assert found == digest
        torch.testing.assert_close(out, expected, atol=1e-6 * float(expected.abs().max()), rtol=1e-4)


@pytest.mark.parametrize("degrees", [*SHARED[:2], pytest.param(SHARED[2], marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    "method", [*policy_names(), "delta_dit+sada", pytest.param("soda+fixed_linear", marks=pytest.mark.slow)]
)
def test_every_method_decides_and_computes_as_on_one_rank(
    ranks: RankPools, method: str, degrees: tuple[int, int, int]
) -> None:
    options = {"method": method, "fields": FIELDS.get(method, {}), "num_inference_steps": 12}
    if degrees[1] == 2 and method in APART:
        with pytest.raises(AssertionError, match="needs both guidance branches on one rank"):
            ranks(2).run(pipelines.run_made, degrees, options)
        return
    check(ranks, degrees, options)


@pytest.mark.parametrize("degrees", [(1, 1, 2), (1, 1, 3)])
def test_sada_computes_the_same_columns(ranks: RankPools, degrees: tuple[int, int, int]) -> None:
    fields = {"threshold": 1e-6, "keep": 0.5, "start": 0.1}
    options = {"method": "sada", "fields": fields, "num_inference_steps": 12}
    _, _, actions = alone(options)
    assert any("partial" in action for step in actions for action in step.values()), "some columns only were computed"
    check(ranks, degrees, options)


@pytest.mark.parametrize("degrees", [(1, 1, 2), (1, 1, 3)])
def test_frames_are_those_of_one_rank(ranks: RankPools, degrees: tuple[int, int, int]) -> None:
    """Decoded in turn, and the second loop goes on from what was decoded."""
    options = {"num_frames": 34, "loops": 2, "latents": False, "num_inference_steps": 2}
    expected, _, _ = alone(options)
    for out, _, _ in ranks(degrees[2]).run(pipelines.run_made, degrees, options):
        assert out.shape == expected.shape
        assert ((out - expected).abs().max() * 127.5).item() < 1


def test_clips_side_by_side_wait_for_nobody(ranks: RankPools) -> None:
    expected, _, _ = pipelines.made(None, method="first_block", fields={"threshold": 0.6})
    found = ranks(2).run(pipelines.made_by_half, {"method": "first_block", "fields": {"threshold": 0.6}})
    assert found[1] is None and torch.equal(found[0], expected)


def test_few_chunks_are_cut_into_frames(ranks: RankPools) -> None:
    """One chunk of 9 frames on 2 ranks: each decodes some of them."""
    options = {"latents": False, "num_inference_steps": 2}
    expected, _, _ = alone(options)
    for out, _, _ in ranks(2).run(pipelines.run_made, (1, 1, 2), options):
        assert ((out - expected).abs().max() * 127.5).item() < 1


@pytest.mark.parametrize("count", [2, 3])
def test_encoding_is_shared_out_with_the_same_bits(ranks: RankPools, count: int) -> None:
    """Posterior samples too: every rank draws them all."""
    expected, _ = pipelines.encoded(1)
    found = ranks(count).run(pipelines.encoded, count)
    assert all(torch.equal(latent, expected) for latent, _ in found)
    worked = [pieces for _, pieces in found]
    assert sum(worked) == 9 + 3 and max(worked) - min(worked) <= 2, "nine micro batches and three chunks"
