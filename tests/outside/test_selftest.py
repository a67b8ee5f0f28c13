"""The self-test of a pipeline."""

from pathlib import Path
from typing import Any

import pytest

from videoaccel.adapters.guidance_fit import Fit
from videoaccel.outside import selftest
from videoaccel.outside.selftest import guidance_text, self_test
from videoaccel.settings.generate import GenerateSettings


def test_of_a_pipeline_with_two_branches(wan_folder: Path) -> None:
    found = self_test(GenerateSettings(model=str(wan_folder), guidance=3, size="32x32"))
    assert found.holds and found.pipeline == "WanPipeline" and found.schedulers == ("UniPCMultistepScheduler",)
    assert found.networks["transformer"][0] == "WanTransformer3DModel"
    assert found.guidance == "+3 x cond -2 x uncond"
    assert found.arguments == {"num_inference_steps": 10, "height": 32, "width": 32, "num_frames": 5,
                               "guidance_scale": 3.0}  # fmt: skip
    assert (found.report.calls, found.forecast.calls_computed) == (20, 12)
    assert found.methods["soda"].startswith("can be had; errors")
    assert found.methods["fora"] == found.methods["taylorseer"] == "can be had; residual: body"
    assert found.forecast.method == "fora" and found.methods["sada"] == "can be had"
    assert found.methods["uncalibrated (fixed_linear)"] == "can be had" and "soda-published (soda)" not in found.methods
    assert "pab" in found.refused and "fora" not in found.refused


def test_of_one_with_too_few_evaluations(dit_folder: Path) -> None:
    found = self_test(GenerateSettings(model=str(dit_folder), steps=4))
    assert found.holds and "fora" in found.refused and "fewer_steps" not in found.refused
    assert found.methods["fora"] == "would compute everything: fewer than 8 evaluations"


def test_a_pipeline_that_is_not_made_twice_alike_does_not_hold(
    dit_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def shaken(pipe: Any, *rest: Any, **more: Any) -> Any:
        attached = plain(pipe, *rest, **more)
        pipe.transformer.proj_out_2.weight.data.mul_(1.0001)
        return attached

    plain = selftest.attach
    monkeypatch.setattr(selftest, "attach", shaken)
    found = self_test(GenerateSettings(model=str(dit_folder), prompt="3"))
    assert not found.exact and found.draws and not found.holds


def test_guidance_in_words(wan_folder: Path) -> None:
    report = self_test(GenerateSettings(model=str(wan_folder), steps=3)).report
    fits = [Fit(weights, 0.0, None) for weights in ((5.0, -4.0), (5.0, -4.0), (3.0, -2.0))]  # type: ignore[arg-type]
    assert guidance_text(fits, report) == (
        "+5 x cond -4 x uncond (2 evaluations), then +3 x cond -2 x uncond (1 evaluation)"
    )
    assert guidance_text([Fit((1.0,), 0.5, None)], report) is None  # type: ignore[arg-type]
    assert guidance_text([], report) is None


def test_what_cannot_be_tested(wan_folder: Path) -> None:
    with pytest.raises(ValueError, match="demo is one of our own models"):
        self_test(GenerateSettings())
    with pytest.raises(ValueError, match="WanPipeline took no call: `height` and `width` have to be divisible by 16"):
        self_test(GenerateSettings(model=str(wan_folder), size="30x30"))
