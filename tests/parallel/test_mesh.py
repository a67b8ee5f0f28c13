"""Meshes: groups of ranks, what they compare, and who makes them."""

import importlib.util
import json
from typing import Any

import pytest
import torch
import torch.distributed as dist

from tests.parallel.work import mesh_of
from tests.ranks import RankPools
from videoaccel.parallel.comm import RankError
from videoaccel.parallel.decode import cut_pieces
from videoaccel.parallel.degrees import Degrees
from videoaccel.parallel.mesh import Mesh
from videoaccel.parallel.providers import find_provider


def members(degrees: tuple[int, int, int]) -> dict[str, Any]:
    mesh = mesh_of(*degrees)
    found = {name: getattr(mesh, name).each(mesh.rank) for name in ("sequence", "guidance", "clip", "control", "calm")}
    return {**found, "everyone": mesh.everyone.each(mesh.rank), "leads": mesh.leads, "replica": mesh.replica}


def test_groups_are_rows_of_the_mesh(ranks: RankPools) -> None:
    found = ranks(4).run(members, (1, 2, 2))
    assert [one["sequence"] for one in found] == [[0, 1], [0, 1], [2, 3], [2, 3]]
    assert [one["guidance"] for one in found] == [[0, 2], [1, 3], [0, 2], [1, 3]]
    assert all(one["clip"] == one["control"] == one["calm"] == [0, 1, 2, 3] for one in found)
    assert [one["leads"] for one in found] == [True, False, False, False]


def test_clips_side_by_side_share_nothing(ranks: RankPools) -> None:
    found = ranks(4).run(members, (2, 1, 2))
    assert [one["clip"] for one in found] == [[0, 1], [0, 1], [2, 3], [2, 3]]
    assert [one["replica"] for one in found] == [0, 0, 1, 1]
    assert [one["leads"] for one in found] == [True, False, True, False]
    assert all(one["everyone"] == [0, 1, 2, 3] for one in found)


def compared(decisions: list[dict[str, str]]) -> str:
    mesh = mesh_of(1, 1, len(decisions))
    mesh.where.step = 5
    try:
        mesh.compare(decisions[mesh.rank])
    except RankError as error:
        return str(error)
    return f"step {mesh.where.step}"


def test_decisions_are_compared_every_step(ranks: RankPools) -> None:
    same = {"space.0.attn": "compute"}
    assert ranks(2).run(compared, [same, same]) == ["step 6", "step 6"]
    for said in ranks(2).run(compared, [same, {"space.0.attn": "reuse"}]):
        assert said == "ranks decided differently in step 5 at space.0.attn: rank 1 reuse, rank 0 compute"


def told(values: list[dict[str, int]]) -> str:
    mesh = mesh_of(1, 1, len(values))
    try:
        mesh.require_alike(values[mesh.rank])
    except ValueError as error:
        return str(error)
    return "alike"


def test_all_are_told_the_same(ranks: RankPools) -> None:
    assert ranks(2).run(told, [{"steps": 3}, {"steps": 3}]) == ["alike", "alike"]
    expected = "rank 1 was told `steps` 4, rank 0 3; all ranks need the same"
    assert ranks(2).run(told, [{"steps": 3}, {"steps": 4}]) == [expected, expected]


def summed(numbers: list[float]) -> tuple[float, bool]:
    comm = mesh_of(1, 1, len(numbers)).clip
    total = comm.total(torch.tensor(numbers[comm.rank]))
    return float(total), bool(total.isfinite())


def test_one_number_that_is_none_spoils_the_sum_everywhere(ranks: RankPools) -> None:
    assert ranks(3).run(summed, [1.0, 2.0, 4.0]) == [(7.0, True)] * 3
    assert [finite for _, finite in ranks(3).run(summed, [1.0, float("nan"), 4.0])] == [False] * 3


def test_degrees_must_be_those_of_the_ranks(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="makes 4 ranks, but 1 were started"):
        Mesh.from_env(Degrees(1, 2, 2))
    monkeypatch.setenv("WORLD_SIZE", "1")
    mesh = Mesh.from_env()
    assert mesh.degrees == Degrees() and mesh.leads and mesh.first and not dist.is_initialized()


def test_a_provider_that_is_not_there_says_how_to_get_it() -> None:
    with pytest.raises(ValueError, match=r"unknown `provider` 'mpi'; there are torch, colossalai"):
        find_provider("mpi")
    if importlib.util.find_spec("colossalai") is None:
        with pytest.raises(ValueError, match=r"pip install --no-deps colossalai==0\.5\.0"):
            find_provider("colossalai")


def colossal(degrees: tuple[int, int, int]) -> str:
    mesh = Mesh.from_env(Degrees(*degrees), provider="colossalai")
    return json.dumps({name: getattr(mesh, name).each(mesh.rank) for name in ("sequence", "guidance", "clip")})


@pytest.mark.skipif(importlib.util.find_spec("colossalai") is None, reason="colossalai is not installed")
@pytest.mark.parametrize("degrees", [(1, 2, 2), (2, 1, 2), (1, 1, 4)])
def test_colossalai_makes_the_same_groups(ranks: RankPools, degrees: tuple[int, int, int]) -> None:
    expected = ranks(4).run(members, degrees)
    for one, found in zip(expected, ranks(4).run(colossal, degrees), strict=True):
        assert json.loads(found) == {name: one[name] for name in ("sequence", "guidance", "clip")}


@pytest.mark.parametrize("frames", [[17, 17, 3], [17], [1]])
@pytest.mark.parametrize("ranks_", [1, 2, 3, 8])
def test_pieces_cover_every_frame_once(frames: list[int], ranks_: int) -> None:
    chunks = [(torch.full((1,), float(number)), count) for number, count in enumerate(frames)]
    pieces = cut_pieces(chunks, ranks_)
    covered = [(int(piece.chunk), frame) for piece in pieces for frame in range(piece.start, piece.stop)]
    assert covered == [(number, frame) for number, count in enumerate(frames) for frame in range(count)]
    longest = max(piece.stop - piece.start for piece in pieces)
    assert longest == -(-max(frames) // -(-ranks_ // len(frames)))
