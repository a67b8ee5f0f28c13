"""Mask strategies against the original's masks, and on their own: round trips, bounds, what is malformed."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from tests import golden_values
from tests.golden_values import Case
from videoaccel.sampling.conditioning import (
    Group,
    append_generated,
    apply_mask_strategy,
    format_mask_strategy,
    nearest_point,
    parse_mask_strategy,
    size_numbers,
)
from videoaccel.settings.latent_frames import frames_of


def counting(frames: int, first: float) -> Tensor:
    """A reference latent [4, frames, 2, 3] whose frames hold first, first + 1, ..."""
    return (first + torch.arange(frames)).float()[None, :, None, None].expand(4, -1, 2, 3)


@pytest.mark.golden
@pytest.mark.parametrize("golden", golden_values.cases("rflow", "mask_strategy"))
def test_masks_are_the_originals(golden: Case) -> None:
    case = golden.get()
    references = [counting(*sizes) for sizes in zip(case["ref_frames"], case["ref_first_values"], strict=True)]
    noise = torch.zeros(1, 4, case["latent_frames"], 2, 3)
    z, mask = apply_mask_strategy(
        noise, references=[references], strategies=[case["strategy"]], loop=case["loop"], align=case["align"]
    )
    assert mask.dtype == torch.float32
    assert mask.tolist() == [torch.tensor(case["mask"]).tolist()]
    assert torch.equal(z, torch.tensor(case["z"])[None, None, :, None, None].expand_as(z))
    assert not noise.any()


@pytest.mark.golden
@pytest.mark.parametrize("golden", golden_values.cases("rflow", "parse_mask"))
def test_parsing_is_the_originals(golden: Case) -> None:
    case = golden.get()
    assert [list(group) for group in parse_mask_strategy(case["strategy"])] == case["out"]


@pytest.mark.golden
@pytest.mark.parametrize("golden", golden_values.cases("rflow", "nearest_point"))
def test_snapping_is_the_originals(golden: Case) -> None:
    case = golden.get()
    assert nearest_point(case["value"], point=case["point"], max_value=case["max_value"]) == case["out"]


@pytest.mark.golden
def test_appending_is_the_originals() -> None:
    case = golden_values.load_json("rflow")["append_generated"]
    length = case["condition_frame_length"]
    before = [[counting(1, 0)] * count for count in case["refs_in"]]
    generated = torch.stack([counting(length, 1 + row) for row in range(len(before))])
    references, strategies = append_generated(
        generated,
        references=before,
        strategies=case["strategy_in"],
        loop=case["loop"],
        length=length,
        edit=case["condition_frame_edit"],
    )
    assert strategies == case["strategy_out"]
    assert [len(row) for row in references] == case["refs_out"]
    assert [len(row) for row in before] == case["refs_in"]
    assert all(torch.equal(row[-1], clip) for row, clip in zip(references, generated, strict=True))


@pytest.mark.golden
@pytest.mark.parametrize("golden", golden_values.cases("rflow", "multi_resolution"))
def test_numbers_told_are_the_originals(golden: Case) -> None:
    case = golden.get()
    height, width = case["size"]
    numbers = size_numbers(
        2,
        height=height,
        width=width,
        num_frames=case["num_frames"],
        fps=case["fps"],
        dtype=getattr(torch, case["dtype"]),
    )
    expected = {name: [case[f"{name}_out"]] * 2 for name in ("height", "width", "num_frames", "ar", "fps")}
    assert {name: number.tolist() for name, number in numbers.items()} == expected


@pytest.mark.golden
@pytest.mark.parametrize("golden", golden_values.cases("pipeline_tiny", "cases"))
def test_starts_of_whole_runs_are_the_originals(golden: Case) -> None:
    name, case = golden.get()
    tensors = golden_values.load_tensors("pipeline_tiny")
    references = [[tensors["common.out.ref_image_latent"], tensors["common.out.ref_video_latent"]]]
    align = golden_values.load_json("pipeline_tiny")["align"]
    z, mask = apply_mask_strategy(
        tensors["common.in.z"], references=references, strategies=[case["mask_strategy"]], align=align
    )
    assert torch.equal(z, tensors[f"{name}.in.start"])
    assert torch.equal(mask, tensors.get(f"{name}.in.mask", torch.ones_like(mask)))


def test_rows_have_their_own_strategies() -> None:
    z = torch.zeros(3, 4, 10, 2, 3)
    references = [[counting(1, 7)], [], [counting(5, 1), counting(6, 30)]]
    out, mask = apply_mask_strategy(z, references=references, strategies=["0", None, "0,1,-1,-5,3,0.25"], align=None)
    assert mask.tolist() == [[0] + [1] * 9, [1] * 10, [1] * 5 + [0.25] + [1] * 4]
    assert out[:, 0, :, 0, 0].tolist() == [[7] + [0] * 9, [0] * 10, [0] * 5 + [35] + [0] * 4]


def test_references_take_the_latents_type() -> None:
    z = torch.zeros(1, 4, 5, 2, 3, dtype=torch.bfloat16)
    out, mask = apply_mask_strategy(z, references=[[counting(1, 7)]], strategies=["0"])
    assert out.dtype == torch.bfloat16 and mask.dtype == torch.float32


def test_a_looped_video_begins_with_the_last_clips_end() -> None:
    references, strategies = append_generated(counting(15, 1)[None], references=[[]], strategies=[""], loop=1)
    z = torch.full((1, 4, 15, 2, 3), -1.0)
    for loop, first in [(0, -1), (1, 11), (2, -1)]:
        out, mask = apply_mask_strategy(z, references=references, strategies=strategies, loop=loop)
        assert out[0, 0, 0, 0, 0] == first and bool((mask == 1).all()) == (loop != 1)
    references, strategies = append_generated(
        counting(15, 101)[None], references=references, strategies=strategies, loop=2
    )
    out, mask = apply_mask_strategy(z, references=references, strategies=strategies, loop=2)
    assert out[0, 0, :6, 0, 0].tolist() == [111, 112, 113, 114, 115, -1]
    assert mask[0].tolist() == [0] * 5 + [1] * 10
    assert frames_of(0) == 0 and frames_of(5) == 17 and frames_of(10) == 34


groups = st.builds(
    Group,
    loop=st.integers(0, 3),
    reference=st.integers(0, 5),
    reference_start=st.integers(-20, 20),
    target_start=st.integers(-20, 20),
    length=st.integers(1, 20),
    edit=st.floats(0, 1),
)


@given(st.lists(groups, max_size=4))
def test_strategies_survive_being_written(written: list[Group]) -> None:
    assert parse_mask_strategy(format_mask_strategy(written)) == written


@given(groups, st.integers(1, 5))
def test_trailing_defaults_may_be_left_out(group: Group, kept: int) -> None:
    text = ",".join(str(field) for field in group[:kept])
    assert parse_mask_strategy(text) == [Group(**dict(list(group._asdict().items())[:kept]))]
    defaults = parse_mask_strategy("0")[0]
    assert defaults == (0, 0, 0, 0, 1, 0.0)


@given(groups, st.integers(1, 12), st.integers(1, 12), st.sampled_from([None, 3, 5]))
def test_any_group_that_fits_writes_what_it_says(group: Group, known: int, frames: int, align: int | None) -> None:
    group = group._replace(loop=0, reference=0, edit=0.5)
    z = torch.full((1, 4, frames, 2, 3), -1.0)
    given_: dict[str, Any] = {"references": [[counting(known, 0)]], "strategies": [format_mask_strategy([group])]}
    if not (-known <= group.reference_start < known and -frames <= group.target_start < frames):
        with pytest.raises(ValueError, match="must lie in"):
            apply_mask_strategy(z, **given_, align=align)
        return
    out, mask = apply_mask_strategy(z, **given_, align=align)
    written = mask[0] == 0.5
    assert 1 <= int(written.sum()) <= group.length
    assert bool((out[0, 0, ~written] == -1).all())
    values = out[0, 0, written, 0, 0]
    assert bool((values.diff() == 1).all()) and 0 <= values[0] <= values[-1] < known
    if align:
        assert int(written.int().argmax()) % align == 0 and int(values[0]) % align == 0


@pytest.mark.parametrize(
    ("strategy", "message"),
    [
        ("0;a", r"group 1 \(a\).*loop must be a whole number; got 'a'"),
        ("0,0,0,0,1.5", "length must be a whole number; got '1.5'"),
        ("0,0,0,0,1,x", "edit must be a number; got 'x'"),
        ("0,,1", "reference must be a whole number; got ''"),
        ("0;", r"group 1 \(\).*loop must be"),
        ("0,0,0,0,1,0,9", "group 0 .*has 7 fields; there are six"),
        ("-1", "loop must be 0 or more; got -1"),
        ("0,-1", "reference must be 0 or more; got -1"),
        ("0,0,0,0,0", "length must be at least 1; got 0"),
        ("0,0,0,0,1,1.5", "edit must be between 0 and 1; got 1.5"),
        ("0,0,0,0,1,nan", "edit must be between 0 and 1; got nan"),
        ("0,2", r"group 0 \(0,2\) of the mask strategy: there is no reference 2; loop 0 has 2"),
        ("3,5", "there is no reference 5; loop 3 has 5"),
        ("0,0,1", r"reference_start must lie in -1..0, .*got 1"),
        ("0;0,0,0,10", r"group 1 .*target_start must lie in -10..9, .*got 10"),
        ("0,0,0,-11", "target_start must lie in -10..9, .*got -11"),
        ("0,1", r"reference \[4, 1, 9, 3\] must be .*\[4, 10, 2, 3\]"),
    ],
)
def test_a_malformed_strategy_is_refused(strategy: str, message: str) -> None:
    references = [[counting(1, 0), torch.zeros(4, 1, 9, 3)]]
    with pytest.raises(ValueError, match=message):
        apply_mask_strategy(torch.zeros(1, 4, 10, 2, 3), references=references, strategies=[strategy])


def test_rows_must_match_and_loops_must_go_on_from_something() -> None:
    z = torch.zeros(2, 4, 5, 2, 3)
    with pytest.raises(ValueError, match="references must have one entry per row: 2; got 1"):
        apply_mask_strategy(z, references=[[]], strategies=["", ""])
    with pytest.raises(ValueError, match="strategies must have one entry per row: 2; got 3"):
        apply_mask_strategy(z, references=[[], []], strategies=["", "", ""])
    with pytest.raises(ValueError, match="2 clips, 2 references, 1 strategies"):
        append_generated(z, references=[[], []], strategies=[""], loop=1)
    kept: dict[str, Any] = {"references": [[], []], "strategies": ["", ""]}
    mistakes: list[tuple[dict[str, Any], str]] = [
        ({"loop": 0}, "loop must be at least 1"),
        ({"loop": 1, "length": 6}, "length must be between 1 and the clip's 5 latents; got 6"),
        ({"loop": 1, "edit": 2}, "edit must be between 0 and 1; got 2.0"),
    ]
    for wrong, message in mistakes:
        with pytest.raises(ValueError, match=message):
            append_generated(z, **kept, **wrong)
