"""Nothing is computed without a reason that the report counts."""

import warnings
from typing import Any

import pytest

from tests.adapters import image_pipes as images
from tests.adapters import picture_pipes as pictures
from tests.adapters import video_pipes as videos
from tests.adapters.matrix import cases
from tests.adapters.tiny import Tiny
from videoaccel.adapters.methods import available, plans
from videoaccel.adapters.report import Report
from videoaccel.generation.accelerate import accelerate
from videoaccel.session.registry import make_policy

METHODS = [name for name in available() if name not in ("off", "fewer_steps")]


def counted(tiny: Tiny, method: str, **fields: Any) -> Report:
    """The report of a generation by a method, planned from one that was measured, after looking whether it adds up."""
    measures = plans(make_policy(method))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with accelerate(tiny.pipe, method, **fields, **({"calibrate": 1} if measures else {})) as fast:
            for _ in range(1 + measures):
                tiny()
            if measures and "computed whole and measured" in str(fast.report().note):
                tiny()  # the first one changed the scheduler's own configuration, so the second was measured, too
            report = fast.report()
    told = sum(report.reasons.values()) - sum(report.passed.values()) + sum(report.due.values())
    assert told == report.calls_computed > 0
    return report


@pytest.fixture(autouse=True)
def _nothing_is_kept(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))


@pytest.mark.parametrize("method", METHODS)
def test_every_method_counts_what_it_computes(method: str) -> None:
    report = counted(videos.wan(), method)
    if report.calls == report.calls_computed:
        (reason, _), *_ = sorted(report.due.items(), key=lambda item: -item[1])
        assert f"computed by the method: {reason}" in report.summary


def test_sada_says_why_it_computes_a_pixart_whole() -> None:
    tiny = images.pixart()
    with accelerate(tiny.pipe, "sada", threshold=1e-6) as fast:
        with pytest.warns(UserWarning, match="sada computed all of .*: 5 calls: the first, the last.* 7 calls: the er"):
            tiny()
        report = fast.report()
    assert report.due == {
        "the first, the last, or its late period": 5,
        "the error that is foretold is above its threshold": 7,
    }
    assert report.summary.endswith(
        "; 7 calls computed by the method: the error that is foretold is above its threshold"
    )
    assert "\n5 calls computed by the method: the first, the last" in str(report)


@pytest.mark.parametrize("method", ["first_block", "fora"])
def test_a_control_net_counts_with_its_denoiser(method: str) -> None:
    report = counted(pictures.flux_control_net(), method)
    assert {row.component for row in report.streams} == {"transformer", "controlnet"}


@pytest.mark.slow
@pytest.mark.parametrize("name", cases())
def test_on_every_pipeline(name: str) -> None:
    for method in METHODS:
        try:
            counted(cases()[name](), method)
        except ValueError as error:
            assert "decides by what blocks do" in str(error)
