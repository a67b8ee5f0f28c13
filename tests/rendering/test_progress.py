"""What a terminal shows of a render, and what a log gets."""

import io
from datetime import datetime, timedelta
from typing import Any

from rich.console import Console

from tests.rendering.studio import FakeRenderer, Studio
from videoaccel.cli.progress import Display
from videoaccel.cli.render_progress import Board
from videoaccel.rendering.plan import Unit
from videoaccel.rendering.state import busy


def fail_once(unit: Unit) -> None:
    if unit.jobs[0].job.settings.seed == 2:
        raise RuntimeError("an illegal `memory` access")


def shown(board: Board) -> str:
    board.display.console.print(board._table())
    assert isinstance(board.display.console.file, io.StringIO)
    return board.display.console.file.getvalue()


def test_a_table_on_a_terminal(studio: Studio) -> None:
    render = studio.many(4)
    console = Console(file=io.StringIO(), force_terminal=True, width=140, color_system=None)
    board, seen = Board(render, Display(console=console), quiet=False, single=True), ""

    def tell(event: str, about: Any) -> None:
        nonlocal seen
        board.tell(event, about)
        if event == "step" and about["done"] == 2 and board.done == 2 and not seen:
            board._looked = float("-inf")
            seen = shown(board)

    studio.work(render, FakeRenderer(before=fail_once), tell=tell)
    assert "2 done, 1 running" in seen and "clips/h" in seen and "denoise, 2 of 3" in seen and "2 of 4" in seen
    board._looked = float("-inf")
    end = shown(board).splitlines()[-6:]
    assert any("3 done, 0 running, 1 failed" in line for line in end), end
    assert any("RuntimeError: an illegal memory access" in line for line in end), end


def test_lines_where_there_is_none(studio: Studio) -> None:
    render = studio.many(3)
    out = io.StringIO()
    with Board(render, Display(console=Console(file=out, width=200)), quiet=False, single=True) as board:
        studio.work(render, FakeRenderer(before=fail_once), tell=board.tell)
    lines = out.getvalue().splitlines()
    assert [line.split(" ")[0] for line in lines].count("done") == 2
    assert "given up: a-red-circle: RuntimeError: an illegal memory access" in lines
    assert any("1 of 3" in line and "left" in line for line in lines)
    assert not any("\x1b" in line for line in lines)


def test_quiet_is_quiet_but_for_what_cannot_wait(studio: Studio) -> None:
    render = studio.many(3)
    out = io.StringIO()
    with Board(render, Display(quiet=True, console=Console(file=out, width=200)), quiet=True, single=True) as board:
        studio.work(render, FakeRenderer(before=fail_once), tell=board.tell)
    assert out.getvalue().splitlines() == ["given up: a-red-circle: RuntimeError: an illegal memory access"]


def test_time_is_counted_while_anybody_is_at_work() -> None:
    """Two workers at once, a pause of a night, and one alone."""
    night, day = datetime(2026, 1, 1, 20), datetime(2026, 1, 2, 6)
    spans = [(0, 30), (15, 60)]
    found = [tuple(night + timedelta(minutes=k) for k in span) for span in spans]
    assert busy([*found, (day, day + timedelta(minutes=10))]) == 60 * (60 + 10)  # type: ignore[list-item]
    assert busy([]) == 0
