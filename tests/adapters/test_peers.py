"""The comparison with other tools: its standing run tells right from wrong, and a cell is what it should be."""

import copy
import gc
from typing import Any

import pytest
import torch

from benchmarks import adapter
from benchmarks.peer_cases import Case
from benchmarks.peer_cells import Reference, cell, forked, reference
from benchmarks.peer_tools import TOOLS, Tool
from benchmarks.peers import sums, table
from tests.adapters import image_pipes as images
from tests.adapters import video_pipes as videos

FEW = ({"steps": 8}, {"steps": 8, "seed": 1, "other": True})
SMALL = (Case("Wan, UniPC", videos.wan, FEW[:1]), Case("Flux", images.flux, FEW))


class Held:
    """Answers every second call of a network by the answer of the call so many before; a tool that may be wrong."""

    def __init__(self, pipe: Any, back: int, *, forgets: bool = True) -> None:
        self.back, self.network, self.kept, self.count = back, pipe.transformer, [], 0
        self.plain = self.network.forward
        self.network.forward = self
        self.forgets = forgets

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        self.count += 1
        if self.count > 6 and (self.count - 1) // 2 % 2:
            found = self.kept[-self.back]
            self.kept.append(found)
            return found
        self.kept.append(self.plain(*args, **kwargs))
        return copy.copy(self.kept[-1])


def tool(put_on: Any, **fields: Any) -> Tool:
    return Tool("a tool", "nobody", put_on, **fields)


@pytest.fixture(scope="module")
def plain() -> dict[str, tuple[Case, Reference]]:
    torch.set_num_threads(1)
    found = {case.name: (case, reference(case)) for case in SMALL}
    gc.freeze()  # counting what is alive need not look through all that other tests have left
    return found


def test_own_answers_are_right_and_another_branchs_are_not(plain: dict[str, tuple[Case, Reference]]) -> None:
    case, known = plain["Wan, UniPC"]
    assert known.apart > 0.1
    loose = lambda back: tool(lambda pipe, n, strict: None if strict else Held(pipe, back))  # noqa: E731
    right = cell(case, loose(2), known)
    assert right["verdict"] == "right" and right["error"] < 1e-6 and right["evaluations"] == [8]
    assert 0 < right["reused"][0] < 8 and right["work"][0] < 0.8
    swapped = cell(case, loose(1), known)
    assert swapped["verdict"] == "wrong" and swapped["why"] == "values of another call" and swapped["error"] > 0.1
    early = cell(case, tool(lambda pipe, n, strict: None if strict else Held(pipe, 2), may=lambda i, n: i > 6), known)
    assert early["why"] == "in other steps than asked"
    never = cell(case, tool(lambda pipe, n, strict: Held(pipe, 2)), known)
    assert never["why"] == "other bits where nothing may be reused"


def test_what_a_generation_left_behind_is_seen(plain: dict[str, tuple[Case, Reference]]) -> None:
    case, known = plain["Flux"]

    class Stale(Held):
        def __call__(self, *args: Any, **kwargs: Any) -> Any:
            self.count += 1
            self.kept = self.kept or [self.plain(*args, **kwargs)]
            return self.kept[0] if self.count > 8 else self.plain(*args, **kwargs)

    found = cell(case, tool(lambda pipe, n, strict: None if strict else Stale(pipe, 1), may=lambda i, n: True), known)
    assert found["verdict"] == "wrong" and found["reused"] == [0, 8] and found["error"] > 0.1


def test_refusals_errors_crashes_and_silence(plain: dict[str, tuple[Case, Reference]]) -> None:
    case, known = plain["Flux"]

    def refuses(pipe: Any, n: int, strict: bool) -> None:
        raise ValueError("not supported")

    def breaks(pipe: Any, n: int, strict: bool) -> None:
        pipe.transformer.forward = lambda **_: {}["nothing"]

    def dies(pipe: Any, n: int, strict: bool) -> None:
        import os

        os._exit(3)

    assert cell(case, tool(refuses), known)["verdict"] == "refused"
    broken = cell(case, tool(breaks), known)
    assert broken["verdict"] == "error" and broken["why"].startswith("KeyError")
    assert forked(case, tool(dies), known)["why"] == "the process ended with 3"
    assert cell(case, tool(lambda *_: None), known)["verdict"] == "computed all"


def test_ours_on_two_pipelines_and_the_table(plain: dict[str, tuple[Case, Reference]]) -> None:
    ours = [one for one in TOOLS if one.name == "fixed_linear"]
    cells = [cell(case, one, known) for case, known in plain.values() for one in ours]
    assert [one["verdict"] for one in cells] == ["right"] * 2
    assert all(work == pytest.approx(5 / 8, abs=0.01) for one in cells for work in one["work"])
    assert all(one["stored_bytes"] > 0 for one in cells)
    assert sums(cells)["fixed_linear"] == {**dict.fromkeys(sums(cells)["fixed_linear"], 0), "right": 2}
    assert "| Wan, UniPC | ✓ |" in table(cells) and "fixed_linear, videoaccel | 2 | 0 |" in table(cells)


def test_the_adapters_cost_and_memory_in_small(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    found = adapter.compared(adapter.in_turn(0.0, rounds=2, steps=8), calls=16)
    assert list(found) == ["off", "soda, all computed"]
    kept = adapter.growth(adapter.FORECASTING["soda"], warmup=1, generations=3)
    assert kept["tensors_alive_more"] <= 0 and kept["calls_of_the_network_in_the_last"] < 16
