import numpy as np
import pytest

from tests.clips import render
from videoaccel.media.contact_sheet import contact_sheet, evenly_spaced


def test_evenly_spaced_has_first_and_last() -> None:
    for total, limit in ((51, 16), (2, 16), (1, 4), (17, 17), (100, 2)):
        numbers = evenly_spaced(total, limit)
        assert len(numbers) == min(total, limit) == len(set(numbers))
        assert numbers[0] == 0 and numbers[-1] == (total - 1 if limit > 1 else 0)


def test_contact_sheet_lays_frames_out_in_order() -> None:
    clip = np.arange(0, 250, 10, dtype=np.uint8)[:, None, None, None].repeat(60, 1).repeat(80, 2).repeat(3, 3)
    sheet = contact_sheet(clip, columns=3, rows=2)
    assert sheet.size == (3 * 80 + 4, 2 * 60 + 2)
    middles = [sheet.getpixel((82 * column + 60, 62 * row + 45)) for row in range(2) for column in range(3)]
    assert middles == [(10 * number,) * 3 for number in evenly_spaced(25, 6)]
    assert sheet.getpixel((80, 30)) == sheet.getpixel((30, 60)) == (24, 24, 24)


def test_contact_sheet_numbers_its_frames() -> None:
    clip = np.full((25, 60, 80, 3), 128, np.uint8)
    tiles = [np.array(contact_sheet(clip[:1], numbers=[number]))[:24, :32] for number in (0, 1, 24)]
    assert not np.array_equal(tiles[0], tiles[1])
    for tile in tiles:
        assert tile.min() == 0 and tile.max() > 180  # light on dark, on a grey ground
        assert tile[-1, -1].tolist() == [128] * 3
    alone = contact_sheet(clip[[0, 8, 16, 24]], columns=2, rows=2, numbers=[0, 8, 16, 24])
    assert alone == contact_sheet(clip, columns=2, rows=2)


def test_contact_sheet_of_few_frames_is_small() -> None:
    assert contact_sheet(render(2), columns=4, rows=4).size == (2 * 48 + 2, 32)
    assert contact_sheet(render(5), columns=4, rows=4, scale=0.5).size == (4 * 26 - 2, 2 * 18 - 2)
    assert contact_sheet(render(1, 300, 200), scale=2).size == (400, 600)
    assert contact_sheet(render(1, 2, 2), scale=0.1).size == (1, 1)


def test_contact_sheet_refuses_nonsense() -> None:
    with pytest.raises(ValueError, match="not empty"):
        contact_sheet(render(1)[:0])
    for wrong in ({"columns": 0}, {"rows": 0}, {"scale": 0}):
        with pytest.raises(ValueError, match="must be at least 1 and scale above 0"):
            contact_sheet(render(1), **wrong)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="3 numbers for 2 frames"):
        contact_sheet(render(2), numbers=[0, 1, 2])
