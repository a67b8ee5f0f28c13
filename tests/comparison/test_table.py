"""What a comparison sums up of its rows, and draws."""

import math
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import pytest

from videoaccel.comparison.settings import Setting
from videoaccel.comparison.table import Result, at_speedups, curve_of, psnr_at, quartiles, summarise
from videoaccel.comparison.values import CONTROLS
from videoaccel.session.registry import make_policy


def result(method: str, speedup: float, psnr: float, **fields: Any) -> Result:
    return Result(method, f"x={speedup}", speedup_latency=speedup, speedup_flops=2 * speedup, psnr=psnr, **fields)


def test_psnr_at_a_speedup_is_read_off_the_curve() -> None:
    curve = [(1.5, 40.0), (2.5, 30.0), (3.0, 20.0)]
    assert psnr_at(curve, 1.75) == 37.5 and psnr_at(curve, 2.5) == 30.0 and psnr_at(curve, 2.9) == pytest.approx(22.0)
    assert psnr_at(curve, 1.49) is None and psnr_at(curve, 3.01) is None
    assert psnr_at([], 2.0) is None and psnr_at([(2.0, 30.0)], 2.0) == 30.0
    assert psnr_at([(2.0, 30.0), (2.0, 31.0)], 2.0) == 31.0


def test_curves_are_a_methods_own() -> None:
    results = [result("a", 2.0, 30.0), result("b", 1.2, 50.0), result("a", 1.0, math.inf)]
    results += [result("a", 1.5, 40.0), result("a", 4.0, 10.0, error="never fired")]
    assert curve_of(results, "a", by="latency") == [(1.5, 40.0), (2.0, 30.0)]
    found = {(at.method, at.by, at.speedup): at for at in at_speedups(results, [1.75, 3.5])}
    assert found["a", "latency", 1.75].psnr == 35.0 and found["a", "latency", 3.5].text == "not reached"
    assert found["a", "flops", 3.5].psnr == 35.0 and found["a", "flops", 3.5].text == "35.00"
    assert (found["b", "latency", 1.75].slowest, found["b", "latency", 1.75].fastest) == (1.2, 1.2)
    untimed = at_speedups([Result("c", "x=2", speedup_flops=2.0, psnr=30.0)], [2.0, 3.0])
    assert [at.text for at in untimed] == ["not measured", "not measured", "30.00", "not reached"]


def rows() -> Iterator[dict[str, Any]]:
    """Two prompts, two seeds; the method is twice as fast in one round and four times in another."""
    psnr = {("p", 0): 30.0, ("p", 1): 20.0, ("q", 0): 40.0, ("q", 1): "inf"}
    for method, setting in (("exact", ""), ("m", "k=1")):
        same = {"method": method, "setting": setting}
        for prompt, seed in psnr:
            value = "inf" if method == "exact" else psnr[prompt, seed]
            world = {"colour": (int(seed == 0), 1)}
            flops = 12.0 if method == "exact" else 4.0
            yield {**same, "kind": "quality", "prompt": prompt, "seed": seed, "psnr": value, "ssim": 0.5, "fired": True,
                   "flops": flops, "digest": f"{method}{seed}", "cache_bytes": 7, "world": world}  # fmt: skip
        for repeat, exact in enumerate((4.0, 6.0)):
            seconds = exact if method == "exact" else exact / (2 + 2 * repeat)
            yield {**same, "kind": "timing", "prompt": "p", "seed": 0, "repeat": repeat, "seconds": seconds,
                   "exact_seconds": exact, "plan_seconds": 0.5, "peak_memory": 100 + repeat}  # fmt: skip


def test_a_result_sums_up_its_rows() -> None:
    settings = [Setting("exact"), Setting("m", "k=1", make_policy("fora"))]
    _, found = summarise(settings, rows(), skipped={})
    assert found.psnr == (30 + 20 + 40 + 100) / 4 and found.ssim == 0.5
    assert (found.worst_prompt, found.worst_seed, found.worst_psnr) == ("p", 1, 20.0)
    assert found.latency_s == (2.0 + 1.5) / 2 and found.speedup_latency == 3.0
    assert (found.speedup_latency_low, found.speedup_latency_high) == (2.5, 3.5)
    assert (found.flops, found.speedup_flops, found.peak_memory, found.plan_s) == (4.0, 3.0, 101, 0.5)
    assert found.world == {"colour": 0.5} and found.error is None
    _, skipped = summarise(settings, rows(), skipped={("m", "k=1"): "no prior"})
    assert skipped.error == "not run: no prior" and skipped.psnr is None


def test_quartiles_of_few_values() -> None:
    assert quartiles([]) == (None, None, None) and quartiles([2.0]) == (2.0, 2.0, 2.0)
    assert quartiles([1.0, 2.0, 3.0, 4.0, 5.0]) == (2.0, 3.0, 4.0)


def test_pictures_are_drawn_of_whatever_there_is() -> None:
    pytest.importorskip("matplotlib")
    from videoaccel.comparison.plot import plot, plot_each

    results = [result(method, x, 50 - 10 * x) for method in ("fora", "$\\frac$", *CONTROLS) for x in (1.2, 1.5, 2.0)]
    for drawn in (plot, plot_each):
        assert drawn(results, title="a$b$c $\\frac$").startswith(b"\x89PNG"), "a $ begins no formula"
        assert drawn([result("exact", 1.0, math.inf)], title="nothing to show").startswith(b"\x89PNG")


def test_the_best_methods_are_named_and_the_rest_is_grey() -> None:
    pytest.importorskip("matplotlib")
    from videoaccel.comparison.plot import _glance, best_methods, methods_of

    levels = {"a": 60.0, "b": 55.0, "c": 50.0, "d": 45.0, "e": 40.0, "f": 35.0, CONTROLS[0]: 70.0, CONTROLS[1]: 20.0}
    results = [result(method, x, at - 5 * x) for method, at in levels.items() for x in (1.2, 2.0, 3.5, 9.0)]
    results += [result("short", x, 58 - 5 * x) for x in (1.4, 2.1)]  # the second best where it reaches
    curves = {method: curve_of(results, method, by="latency") for method in methods_of(results)}
    assert best_methods(curves) == ["a", "b", "c", "short"]
    assert methods_of(results)[-2:] == list(CONTROLS)
    panel = _glance(results, "title").axes[0]
    names = {text.get_text() for text in panel.texts}
    assert {"a", "b", "c", "short", *CONTROLS} <= names and not {"d", "e", "f"} & names
    assert "3 other methods" in panel.get_title(loc="right"), "above the curves, over none of them"
    assert max(max(line.get_xdata()) for line in panel.lines) <= 4.05, "beyond four times nothing is shown"


def test_names_at_ends_keep_their_order_and_a_gap() -> None:
    from videoaccel.comparison.plot import spread

    heights = [3.0, 3.1, 3.05, 9.0, 2.9]
    found = spread(heights, 1.0)
    order = sorted(range(5), key=heights.__getitem__)
    assert sorted(range(5), key=found.__getitem__) == order and found[3] == 9.0
    assert all(found[b] - found[a] >= 1 - 1e-6 for a, b in pairwise(order))
