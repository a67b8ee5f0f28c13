"""Every tiny pipeline: computing all is exact, forecasts are sound, and the documented table is what runs give."""

from pathlib import Path

import pytest

from tests.adapters.matrix import BEGIN, END, cases, measured

PAGE = Path(__file__).parents[2] / "docs" / "diffusers.md"


@pytest.mark.slow
@pytest.mark.parametrize("name", cases())
def test_exact_sound_and_as_documented(name: str) -> None:
    row = measured(cases()[name])
    assert row.exact and row.sound
    assert row.computed < row.calls or row.refused
    assert str(row) in PAGE.read_text().split(BEGIN)[1].split(END)[0].splitlines()


def test_the_table_has_a_row_for_every_pipeline() -> None:
    rows = PAGE.read_text().split(BEGIN)[1].split(END)[0].strip().splitlines()[2:]
    assert len(rows) == len(cases()) and all("| equal |" in row for row in rows)
    assert len({row.split("|")[1] for row in rows}) >= 25
