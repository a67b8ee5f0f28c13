"""Proof that ranks make one rank's clip, and that the machinery changes no bit, on pipelines of diffusers."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.ranks import RankPools
from videoaccel import GenerateSettings
from videoaccel.adapters.pipeline_priors import NoPriorError
from videoaccel.cli.verify import as_data, gather, table
from videoaccel.verification import outside, verdict
from videoaccel.verification.verdict import TOLERANCES, Made, Verdict
from videoaccel.verification.verify import make_as_rank, verify

SMALL = {"prompt": ("a cat",), "size": "32x32", "frames": 5, "steps": 8, "device": "cpu"}

Start = Callable[..., int]


@pytest.fixture
def start(ranks: RankPools, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ranks of the session's pools do what processes of their own would."""
    monkeypatch.setattr(verdict, "start_ranks", started_in(ranks))


def started_in(ranks: RankPools) -> Start:
    def start(command: Sequence[str], **more: Any) -> int:
        count = more["ranks"]
        if count == 1:
            make_as_rank(command[-1])
        else:
            ranks(count).run(make_as_rank, command[-1])
        return 0

    return start


def test_two_ranks_make_the_clip_of_one_with_every_method(start: None, wan_folder: Path) -> None:
    found = verify(GenerateSettings(model=str(wan_folder), **SMALL), ranks=[1, 2], methods=["off", "fora"])
    assert [(one.method, one.degrees.sequence) for one in found] == [
        ("exact", 1), ("off", 1), ("fora", 1), ("exact", 2), ("off", 2), ("fora", 2),
    ]  # fmt: skip
    assert all(one.holds and {*one.differences} == {*TOLERANCES} for one in found)
    assert [one.bits for one in found] == [None, True, None] * 2
    assert "all 6 hold" in table(found) and json.dumps([as_data(one) for one in found])


def test_a_clip_that_is_another_does_not_hold(
    ranks: RankPools, wan_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def start(command: Sequence[str], **more: Any) -> int:
        if more["ranks"] == 2:
            file = Path(f"{command[-1]}.yaml")
            told = yaml.safe_load(file.read_text())
            told["settings"]["seed"] += 1
            file.write_text(yaml.safe_dump(told))
        return started_in(ranks)(command, **more)

    monkeypatch.setattr(verdict, "start_ranks", start)
    one, two = verify(GenerateSettings(model=str(wan_folder), **SMALL), ranks=[2])
    assert one.holds and not two.holds and all(two.differences[stage] > 0 for stage in ("noise", "pass", "latents"))


def test_machinery_that_changes_a_bit_does_not_hold(
    start: None, dit_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def shaken(order: Any, pipe: Any) -> Made:
        if order.policy is not None:
            pipe.transformer.proj_out_2.weight.data.mul_(1.000001)
        return plain(order, pipe)

    plain = outside.make
    settings = GenerateSettings(model=str(dit_folder), device="cpu")
    assert all(one.holds for one in verify(settings, ranks=[1], methods=["off"]))
    monkeypatch.setattr(outside, "make", shaken)
    exact, off = verify(settings, ranks=[1], methods=["off"])
    assert exact.holds and off.bits is False and not off.holds


def test_sound_is_compared_too(start: None, sound_folder: Path) -> None:
    settings = GenerateSettings(model=str(sound_folder), prompt=("rain",), steps=8, device="cpu")
    found = verify(settings, ranks=[1], methods=["off", "fixed_linear"])
    assert len(found) == 3 and all(one.holds for one in found)


def test_a_stage_that_is_not_seen_is_said() -> None:
    unseen = Verdict("exact", outside.Degrees(), {"frames": 0.0}, decisions=True)
    assert unseen.holds and table([unseen]).count("not seen") == 4


def test_networks_without_a_plan_are_refused_by_more_than_one_rank(dit_folder: Path) -> None:
    settings = GenerateSettings(model=str(dit_folder), device="cpu")
    with pytest.raises(ValueError, match="the transformer of a DiTPipeline is a DiTTransformer2DModel, and diffusers"):
        verify(settings, ranks=[1, 2])


def test_a_method_that_plans_needs_errors_that_were_measured(
    start: None, wan_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    settings = GenerateSettings(model=str(wan_folder), speedup=2, **SMALL)
    with pytest.raises(
        NoPriorError, match=r"no prior of this pipeline for this call; videoaccel calibrate measures one$"
    ):
        verify(settings, ranks=[1], methods=["soda"])


def test_arguments_of_the_call_are_read_as_by_generate(wan_folder: Path) -> None:
    told = {"model": str(wan_folder), "args": ["max_sequence_length=8", "attention_kwargs={}"], "set_": ["seed=3"]}
    found = gather(told)
    assert found.args == {"max_sequence_length": 8, "attention_kwargs": {}} and found.seed == 3
    with pytest.raises(ValueError, match="--arg"):
        gather({**told, "args": ["max_sequence_length"]})
