"""Named sizes and durations against the original's tables, and what is not in them."""

from __future__ import annotations

import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests import golden_values
from tests.golden_values import Case
from videoaccel.settings import sizes


@pytest.mark.golden
@pytest.mark.parametrize("golden", golden_values.cases("sizes", "aspect_names"))
def test_aspect_names_are_the_originals(golden: Case) -> None:
    name, label = golden.get()
    assert sizes.ASPECTS[name] == label


@pytest.mark.golden
@pytest.mark.parametrize("golden", golden_values.cases("sizes", "num_frames"))
def test_durations_are_the_originals(golden: Case) -> None:
    name, frames = golden.get()
    assert sizes.resolve_frames(name) == frames


@pytest.mark.golden
@pytest.mark.parametrize("golden", golden_values.cases("sizes", "image_sizes"))
def test_sizes_are_the_originals(golden: Case) -> None:
    resolution, table = golden.get()
    assert {aspect: list(size) for aspect, size in sizes.image_sizes(resolution).items()} == table
    for aspect, size in table.items():
        assert list(sizes.resolve_size(resolution=resolution, aspect=aspect)) == size


@pytest.mark.golden
@pytest.mark.parametrize("golden", golden_values.cases("sizes", "not_available"))
def test_what_the_original_lacks_is_refused(golden: Case) -> None:
    resolution, aspect = golden.get()
    listed = ", ".join(sizes.image_sizes(resolution)) or "none"
    message = re.escape(f"{resolution} has no aspect '{aspect}' (HEIGHT:WIDTH); available: {listed}.")
    with pytest.raises(ValueError, match=message):
        sizes.resolve_size(resolution=resolution, aspect=aspect)


@pytest.mark.golden
@pytest.mark.parametrize("golden", golden_values.cases("sizes", "pixels"))
def test_areas_are_the_originals(golden: Case) -> None:
    resolution, area = golden.get()
    assert sizes.pixels(resolution) == area


def test_every_name_is_listed() -> None:
    for resolution in sizes.RESOLUTIONS:
        assert set(sizes.image_sizes(resolution)) <= set(sizes.ASPECTS)
    areas = [sizes.pixels(resolution) for resolution in sizes.RESOLUTIONS]
    assert areas == sorted(areas)


def test_defaults_are_240p_landscape() -> None:
    assert sizes.resolve_size() == sizes.resolve_size(resolution="240p", aspect="9:16") == (240, 426)
    assert sizes.resolve_size(aspect="16:9") == (426, 240)


@given(st.integers(1, 9999), st.integers(1, 9999))
def test_height_comes_first(height: int, width: int) -> None:
    assert sizes.resolve_size(f"{height}x{width}") == (height, width)
    assert sizes.resolve_size(f" {height} x {width} ") == (height, width)


@given(st.integers(1, 9999))
def test_any_number_of_frames_may_be_asked_for(frames: int) -> None:
    assert sizes.resolve_frames(frames) == sizes.resolve_frames(str(frames)) == frames


@pytest.mark.parametrize(
    "size", ["0x426", "240x0", "-240x426", "240", "240x426x3", "axb", "", "240*426", "24.5x3", "²x3"]
)
def test_a_size_that_cannot_be_is_refused(size: str) -> None:
    with pytest.raises(ValueError, match="HEIGHTxWIDTH"):
        sizes.resolve_size(size)


@pytest.mark.parametrize("frames", [0, -1, "0", "-51", "3s", "2 s", "51.0", 51.0, "", "many", True, None])
def test_a_duration_that_cannot_be_is_refused(frames: Any) -> None:
    with pytest.raises(ValueError, match=r"whatever the fps: 1x or 2s \(51\), .*16x or 32s \(816\); got"):
        sizes.resolve_frames(frames)


def test_unknown_and_conflicting_names_are_refused() -> None:
    with pytest.raises(ValueError, match=r"no resolution '240'; there are 144p, .*4k"):
        sizes.resolve_size(resolution="240")
    with pytest.raises(ValueError, match=r"240p has no aspect '16x9'.*9:16"):
        sizes.resolve_size(aspect="16x9")
    with pytest.raises(ValueError, match="not both; got '240p'"):
        sizes.resolve_size("240x426", resolution="240p")
    with pytest.raises(ValueError, match="not both; got None, '9:16'"):
        sizes.resolve_size("240x426", aspect="9:16")
