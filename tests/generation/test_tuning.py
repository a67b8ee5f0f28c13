"""What a pipeline is tuned to: refusals before anything is loaded, trials, and what is never silent."""

import math
import warnings
from dataclasses import replace
from typing import Any

import pytest
import torch

from tests.models.networks import tiny_stdit
from tests.tiny_pipeline import tiny_pipeline
from tests.tiny_run import SIZE, tiny_run
from videoaccel.generation import tuning
from videoaccel.generation.cache_memory import MOST_TERMS, SHARE, foretell, spare
from videoaccel.generation.tuning import Tuned, check_fp8, distance, tune
from videoaccel.session.registry import make_policy

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


@pytest.fixture
def networks() -> dict[str, Any]:
    return {"transformer": torch.nn.Linear(2, 2), "vae": torch.nn.Linear(2, 2)}


def test_a_cpu_runs_what_it_ran(networks: dict[str, Any]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert tune(**networks, device=CPU, dtype=torch.float32) == Tuned()
    with pytest.raises(ValueError, match=r"kernels=triton.*need a CUDA device.*kernels=torch"):
        tune(**networks, device=CPU, dtype=torch.float32, kernels="triton")


@pytest.mark.parametrize(
    ("device", "dtype", "kernels", "capability", "reason"),
    [
        (CPU, torch.bfloat16, "auto", (9, 0), "needs a CUDA device"),
        (CUDA, torch.bfloat16, "auto", (8, 0), "A100 has no 8-bit products"),
        (CUDA, torch.float16, "auto", (9, 0), "in float16; give `dtype=bfloat16`"),
        (CUDA, torch.bfloat16, "torch", (9, 0), "leave out `kernels=torch`"),
    ],
)
def test_eight_bit_products_are_refused(
    monkeypatch: pytest.MonkeyPatch, device: Any, dtype: Any, kernels: Any, capability: Any, reason: str
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: capability)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "A100")
    with pytest.raises(ValueError, match=reason):
        check_fp8(device, dtype, kernels=kernels)


@pytest.mark.parametrize("outcome", ["they disagree", "they fail"])
def test_kernels_that_cannot_be_trusted(
    monkeypatch: pytest.MonkeyPatch, networks: dict[str, Any], outcome: str
) -> None:
    def tried(device: Any, dtype: Any) -> float:
        if outcome == "they fail":
            raise OSError("no C compiler")
        return 0.5

    monkeypatch.setattr(tuning, "distance", tried)
    monkeypatch.setattr(tuning, "why_no_kernels", lambda device: None)
    networks["transformer"] = tiny_stdit()
    said = "fail: no C compiler" if outcome == "they fail" else "off by 0.5"
    with pytest.warns(UserWarning, match=said):
        assert tune(**networks, device=CUDA, dtype=torch.bfloat16).kernels == "packed"
    with pytest.raises(ValueError, match=said):
        tune(**networks, device=CUDA, dtype=torch.bfloat16, kernels="triton")


def test_the_trial_compares_kernels_with_modules() -> None:
    pytest.importorskip("triton")
    assert 0 < distance(CPU, torch.float32) < tuning.TOLERANCE[torch.float32]


@pytest.mark.parametrize("wrong", ["add_columns", "choose_columns", "score_columns", "nothing"])
def test_the_trial_tries_kernels_for_some_columns(monkeypatch: pytest.MonkeyPatch, wrong: str) -> None:
    pytest.importorskip("triton")
    from videoaccel.models import fused

    form = fused.FusedCrossAttention
    monkeypatch.setattr(fused, "FUSED", {form.form_of: form})  # nothing else of it has kernels
    choose_columns, score_columns = form.choose_columns, form.score_columns
    made: dict[str, Any] = {
        "add_columns": lambda self, x, *_, **__: x.clone(),
        "choose_columns": lambda self, scores, **options: choose_columns(-scores, **options),
        "score_columns": lambda self, x, **options: -score_columns(self, x, **options),
    }
    if wrong != "nothing":
        monkeypatch.setattr(form, wrong, made[wrong])
    assert (distance(CPU, torch.float32) > tuning.TOLERANCE[torch.bfloat16]) == (wrong != "nothing")


@pytest.mark.parametrize(
    ("form", "factor", "off"),
    [("FusedGroupNorm", 1.1, 0.1), ("FusedGroupNormSilu", 1.1, 0.1), ("FusedGroupNormSilu", math.nan, math.inf)],
)
def test_the_trial_tries_the_norms_of_vaes(
    monkeypatch: pytest.MonkeyPatch, form: str, factor: float, off: float
) -> None:
    pytest.importorskip("triton")
    from videoaccel.models import fused

    group_norm, asked = fused.group_norm, list[tuple[int, bool]]()

    def wrong(x: torch.Tensor, *weights: torch.Tensor, silu: bool, **options: Any) -> torch.Tensor:
        asked.append((x.ndim, silu))
        out = group_norm(x, *weights, silu=silu, **options)
        return out * factor if silu == getattr(fused, form).silu else out

    with torch.inference_mode():
        assert 0 < tuning._norms_off(CPU, torch.float32) < 1e-6
    monkeypatch.setattr(fused, "group_norm", wrong)
    assert distance(CPU, torch.float32) == pytest.approx(off, rel=1e-4)
    assert asked == [(4, False), (5, False), (4, True), (5, True)]


def test_float32_stays_float32() -> None:
    before = torch.backends.cudnn.allow_tf32
    try:
        torch.backends.cudnn.allow_tf32 = True
        pipe = tiny_pipeline().to("cpu")
        assert not torch.backends.cudnn.allow_tf32
        assert pipe.tune(tf32=True).tuned.tf32
        assert torch.backends.cudnn.allow_tf32
        pipe.to("cpu")
        assert torch.backends.cudnn.allow_tf32, "what was asked for stays"
    finally:
        torch.backends.cudnn.allow_tf32 = before


def test_methods_are_limited_only_where_memory_could_run_out() -> None:
    run = tiny_run()
    frames, rows, columns = run.model.token_grid(SIZE)
    job, size = run.job(), {"frames": frames, "width": run.model.width}
    most = max(foretell(make_policy(name), job, **size).peak for name in ("fora", "pab", "taylorseer", "toca"))
    assert spare(job, most * 100, **size) is None
    assert spare(job, most, **size) == int(SHARE * most)
    everything = MOST_TERMS * sum(map(len, job.blocks.values())) * 2 * frames * rows * columns * run.model.width * 4
    assert most <= everything, "nothing stores more than what is reckoned with"
    assert spare(replace(job, blocks={}), 1, **size) is None


def test_a_full_gpu_limits_a_method(monkeypatch: pytest.MonkeyPatch) -> None:
    """The maker asks the device where nobody has said what may be stored; of a CPU nothing is asked."""
    from videoaccel.generation import cache_memory as module

    assert module.free_on_gpu(torch.device("cpu")) is None
    pipe = tiny_pipeline()
    asked: list[Any] = []
    monkeypatch.setattr(module, "free_on_gpu", lambda device: asked.append(device) or 160_000)
    request = pipe.request("a red circle", policy=make_policy("fora"))
    made = pipe._maker(request, None)
    with torch.inference_mode():
        denoising = made.denoising(request.references)
        session = made._session(denoising)
        monkeypatch.setattr(module, "free_on_gpu", lambda device: 1000)
        with pytest.raises(ValueError, match=r"fora stores at least .* four fifths of the memory that is free"):
            made._session(denoising)
    assert asked
    assert session.foretold_bytes is not None
    assert session.foretold_bytes <= SHARE * 160_000
