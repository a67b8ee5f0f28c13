"""Attaching and coming off, in whatever order other things are done to a pipeline."""

import copy
import gc
import inspect
import pickle
import threading
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import accelerate as hf_accelerate
import diffusers
import pytest
import torch

from tests.adapters import image_pipes as images
from tests.adapters import video_pipes as videos
from tests.adapters.tiny import Tiny
from videoaccel.adapters.attach import Attachment, attachment_of
from videoaccel.adapters.swap import listeners_of
from videoaccel.common.user_warning import Told
from videoaccel.common.versions import at_least
from videoaccel.generation.accelerate import accelerate

SECOND = [0, 1, 3, 5, 7, 9, 11]


def on(tiny: Tiny, method: str = "fixed_linear") -> Attachment:
    attached = accelerate(tiny.pipe, method)
    assert isinstance(attached, Attachment)
    return attached


def offload(tiny: Tiny) -> None:
    hf_accelerate.cpu_offload_with_hook(tiny.pipe.transformer, "cpu")


def group_offload(tiny: Tiny) -> None:
    if not at_least("diffusers", "0.41") and not torch.accelerator.is_available():
        pytest.skip("diffusers before 0.41 wants an accelerator")
    tiny.pipe.transformer.enable_group_offload(
        onload_device=torch.device("cpu"), offload_device=torch.device("cpu"), offload_type="block_level",
        num_blocks_per_group=1,
    )  # fmt: skip


def sequential_offload(tiny: Tiny) -> None:
    hf_accelerate.cpu_offload(tiny.pipe.transformer, execution_device=torch.device("cpu"))


def layerwise_casting(tiny: Tiny) -> None:
    tiny.pipe.transformer.enable_layerwise_casting(storage_dtype=torch.bfloat16, compute_dtype=torch.float32)


def compile_in_place(tiny: Tiny) -> None:
    tiny.pipe.transformer.compile(backend="eager")


def compile_blocks(tiny: Tiny) -> None:
    tiny.pipe.transformer.compile_repeated_blocks(backend="eager")


def compile_around(tiny: Tiny) -> None:
    tiny.pipe.transformer = torch.compile(tiny.pipe.transformer, backend="eager")


def replace_scheduler(tiny: Tiny) -> None:
    tiny.pipe.scheduler = type(tiny.pipe.scheduler).from_config(tiny.pipe.scheduler.config)


CHANGES: dict[str, Callable[[Tiny], None]] = {
    "model offload": offload,
    "group offload": group_offload,
    "sequential offload": sequential_offload,
    "layerwise casting": layerwise_casting,
    "compiled in place": compile_in_place,
    "blocks compiled": compile_blocks,
    "compiled around": compile_around,
    "scheduler replaced": replace_scheduler,
}
MINUTES = ("compiled in place", "compiled around")


@pytest.mark.parametrize(
    "change", [pytest.param(name, marks=pytest.mark.slow if name in MINUTES else ()) for name in CHANGES]
)
def test_before_and_after(change: str) -> None:
    reference = videos.wan()
    if change == "layerwise casting":  # rounds the weights
        CHANGES[change](reference)
    with on(reference):
        expected = reference()
    plain = reference()
    for before in (True, False):
        tiny = videos.wan()
        if before:
            CHANGES[change](tiny)
        attached = on(tiny)
        if not before:
            CHANGES[change](tiny)
        assert tiny().equals(expected) and attached.computed == SECOND, f"{change}, before: {before}"
        if change == "model offload":
            tiny.pipe.remove_all_hooks()
            assert tiny().equals(expected) and attached.computed == SECOND
        attached.remove()
        for part in (tiny.pipe, tiny.pipe.transformer, tiny.pipe.scheduler):
            assert not listeners_of(part)
        assert tiny().equals(plain)


def test_offload_by_the_pipeline_ends_every_generation_by_taking_hooks_off() -> None:
    """``maybe_free_model_hooks`` runs at the end of every call."""
    tiny = videos.wan()
    plain = tiny()
    hook = hf_accelerate.cpu_offload_with_hook(tiny.pipe.transformer, "cpu")[1]
    tiny.pipe._all_hooks, tiny.pipe._offload_device = [hook], torch.device("cpu")
    with on(tiny) as attached:
        tiny()
        tiny.pipe.remove_all_hooks()
        tiny()
        assert attached.computed == SECOND
    assert tiny().equals(plain)


def test_nothing_shows_from_outside(tmp_path: Path) -> None:
    tiny = videos.wan()
    pipe = tiny.pipe
    kinds = {name: type(getattr(pipe, name)) for name in ("transformer", "scheduler")}
    weights, config = set(pipe.transformer.state_dict()), dict(pipe.config)
    attached = on(tiny)
    for name, kind in kinds.items():
        part = getattr(pipe, name)
        assert isinstance(part, kind) and type(part).__qualname__ == kind.__qualname__
        assert type(part).__module__ == kind.__module__ and part.__doc__ == kind.__doc__
    assert inspect.signature(pipe.scheduler.step) == inspect.signature(kinds["scheduler"].step.__get__(pipe.scheduler))
    assert inspect.signature(pipe.__call__) == inspect.signature(diffusers.WanPipeline.__call__.__get__(pipe))
    assert set(pipe.transformer.state_dict()) == weights and dict(pipe.config) == config
    pipe.transformer.save_pretrained(tmp_path / "transformer")
    pipe.scheduler.save_pretrained(tmp_path / "scheduler")
    loaded = diffusers.WanTransformer3DModel.from_pretrained(tmp_path / "transformer")
    assert type(loaded) is diffusers.WanTransformer3DModel
    pipe.transformer._forward_hooks.clear()  # those that count calls
    saved = pickle.loads(pickle.dumps(pipe.transformer))
    assert type(saved) is diffusers.WanTransformer3DModel
    assert type(pickle.loads(pickle.dumps(pipe.scheduler))) is kinds["scheduler"]
    made = type(pipe.scheduler).from_config(pipe.scheduler.config)
    assert type(made) is kinds["scheduler"]
    attached.remove()
    attached.remove()
    assert type(pipe) is diffusers.WanPipeline
    assert all(type(getattr(pipe, name)) is kind for name, kind in kinds.items())
    assert not attached.attached and attachment_of(pipe) is None


def test_a_pipeline_that_is_saved_loads_as_it_was(tmp_path: Path) -> None:
    tiny = images.dit()
    expected = tiny()
    with on(tiny):
        tiny.pipe.save_pretrained(tmp_path)
    loaded = diffusers.DiTPipeline.from_pretrained(tmp_path)
    assert type(loaded.transformer) is diffusers.DiTTransformer2DModel and not listeners_of(loaded)
    assert Tiny(loaded, tiny.options)().equals(expected)


def test_a_copy_is_plain() -> None:
    tiny = videos.wan()
    plain = tiny()
    attached = on(tiny)
    fast = tiny()
    other = Tiny(copy.deepcopy(tiny.pipe), tiny.options)
    assert type(other.pipe) is diffusers.WanPipeline
    assert other().equals(plain) and type(other.pipe.scheduler) is diffusers.UniPCMultistepScheduler
    assert tiny().equals(fast) and attached.computed == SECOND


def test_pipelines_that_share_their_parts() -> None:
    """What is attached to one leaves the other alone; both may have something."""
    one = images.stable_diffusion(images.dpm())
    plain = one()
    first = on(one)
    pipe = diffusers.StableDiffusionPipeline(
        **{**one.pipe.components, "unet": one.pipe.unet}, requires_safety_checker=False
    )
    other = Tiny(pipe, one.options)
    assert other().equals(plain)
    fast = one()
    second = accelerate(other.pipe, "fora", period=3)
    assert one().equals(fast) and first.computed == SECOND
    held = other()
    assert second.computed == [0, 1, 2, 3, 6, 9]
    first.remove()
    assert one().equals(plain) and other().equals(held), "the other one stays"
    second.remove()
    assert other().equals(plain) and type(pipe.unet) is diffusers.UNet2DConditionModel


def test_from_pipe_gives_a_plain_one() -> None:
    tiny = images.stable_diffusion(images.dpm())
    with on(tiny):
        other = diffusers.StableDiffusionPipeline.from_pipe(tiny.pipe, requires_safety_checker=False)
        assert type(other) is diffusers.StableDiffusionPipeline and other.unet is tiny.pipe.unet
        plain = Tiny(other, tiny.options)()
        fast = tiny()
        assert not fast.equals(plain)
    assert tiny().equals(plain)


def test_a_second_method_is_refused_and_the_first_stays_as_it_was() -> None:
    tiny = videos.wan()
    first = on(tiny)
    assert (
        str(first.report())
        == repr(first)
        == ("WanPipeline, fixed_linear: nothing has been generated since it was attached")
    )
    with pytest.raises(ValueError, match=r"WanPipeline is accelerated by fixed_linear already; remove\(\) that first"):
        accelerate(tiny.pipe, "fora")
    assert first.attached and attachment_of(tiny.pipe) is first
    assert len(listeners_of(tiny.pipe.transformer)) == 1
    tiny()
    assert first.computed == SECOND
    assert repr(first).startswith("WanPipeline, fixed_linear: 14 of 24 calls computed, in 7 of 12 evaluations; ")
    first.remove()
    assert repr(first).startswith("removed; WanPipeline, fixed_linear: 14 of 24")
    second = accelerate(tiny.pipe, "fora")
    tiny()
    assert second.computed == [0, 1, 2, 4, 6, 8, 10] and first.computed == SECOND
    assert accelerate(tiny.pipe, None) is None and not listeners_of(tiny.pipe) and not second.attached


def test_warnings_name_the_users_line() -> None:
    tiny = videos.wan()
    accelerate(tiny.pipe, "fora")
    with pytest.warns(UserWarning, match="fora computed all of WanPipeline: 8 calls: fewer than 8 evaluations") as told:
        tiny.pipe(num_inference_steps=4, **tiny.options)
    assert [one.filename for one in told if issubclass(one.category, Told)] == [__file__]


def test_what_is_no_pipeline_or_prior_is_told_by_name() -> None:
    for given, fields, message in (
        ("wan", {}, "a pipeline that is loaded is accelerated, got the text 'wan'"),
        (videos.wan().pipe, {"prior": 3}, "a prior is a videoaccel.Prior or the name of its file, got 3"),
    ):
        with pytest.raises(ValueError, match=message):
            accelerate(given, "soda", **fields)  # type: ignore[arg-type]
    with pytest.raises(FileNotFoundError, match=r"there is no prior nothing\.safetensors; videoaccel calibrate makes"):
        accelerate(videos.wan().pipe, "soda", prior="nothing.safetensors")


def test_an_error_in_the_midst_leaves_nothing() -> None:
    tiny = videos.wan()
    attached = on(tiny)
    expected = tiny()

    def stop(pipe: Any, i: int, t: Any, kwargs: Any) -> Any:
        if i == 4:
            raise KeyboardInterrupt
        return kwargs

    with pytest.raises(KeyboardInterrupt):
        tiny(callback_on_step_end=stop)
    report = attached.report()
    assert report.failed and report.evaluations == 5 and "raised" in str(report)
    assert not attached.open and tiny().equals(expected)


def test_an_interrupted_generation_ends_early() -> None:
    tiny = videos.wan()
    attached = on(tiny)

    def stop(pipe: Any, i: int, t: Any, kwargs: Any) -> Any:
        pipe._interrupt = i == 4
        return kwargs

    tiny(callback_on_step_end=stop)
    assert attached.report().evaluations == 5


def test_other_sizes_and_guidance_from_run_to_run() -> None:
    tiny = videos.wan()
    attached = on(tiny)
    first = tiny()
    two = tiny(num_videos_per_prompt=2)
    assert two.tensors[0].shape[0] == 2 and attached.computed == SECOND
    alone = tiny(guidance_scale=1.0)
    assert tiny.calls.total() == 7 and attached.computed == SECOND and alone.finite()
    tiny(height=32)
    tiny(steps=20)
    assert attached.report().evaluations == 20
    assert tiny().equals(first)


def test_calls_outside_of_a_generation_are_not_touched() -> None:
    tiny = videos.wan()
    attached = on(tiny)
    x, t, text = torch.randn(1, 4, 2, 8, 8), torch.tensor([5]), torch.randn(1, 6, 16)
    outputs = [tiny.pipe.transformer(x, t, text).sample for _ in range(4)]
    assert all(torch.equal(outputs[0], other) for other in outputs) and outputs[0].requires_grad
    assert attached.report().note == "nothing has been generated since it was attached"


def test_another_thread_is_not_part_of_it() -> None:
    tiny = videos.wan()
    attached = on(tiny)
    seen = []

    def elsewhere(pipe: Any, i: int, t: Any, kwargs: Any) -> Any:
        worker = threading.Thread(target=lambda: seen.append(attached.open))
        worker.start()
        worker.join()
        return kwargs

    tiny(callback_on_step_end=elsewhere)
    assert seen == [False] * 12


def test_gradients_are_wanted() -> None:
    """A pipeline that takes gradients in its loop gets them."""
    tiny = videos.wan()
    attached = on(tiny)
    x, text = torch.randn(1, 4, 2, 8, 8), torch.randn(1, 6, 16)

    def look(pipe: Any, i: int, t: Any, kwargs: Any) -> Any:
        with torch.enable_grad():
            assert pipe.transformer(x, t[None], text).sample.requires_grad
        return kwargs

    tiny(callback_on_step_end=look)
    assert attached.computed == SECOND and attached.report().passed == {"gradients are wanted": 12}


@pytest.mark.parametrize("name", ["LCMScheduler", "TCDScheduler", "FlowMatchLCMScheduler"])
def test_solvers_that_put_noise_anew_are_left_alone(name: str) -> None:
    make = videos.wan if name.startswith("Flow") else images.stable_diffusion
    tiny = make(getattr(diffusers, name)())
    plain = tiny()
    attached = on(tiny)
    with pytest.warns(UserWarning, match=f"fixed_linear computed all of .*: {name} puts new noise over"):
        assert tiny().equals(plain)
    assert attached.report().reasons == {f"{name} puts new noise over every prediction": tiny.calls.total()}


def test_few_evaluations_are_left_alone() -> None:
    tiny = videos.wan()
    plain = tiny(steps=7)
    attached = on(tiny)
    with pytest.warns(UserWarning, match="fewer than 8 evaluations"):
        assert tiny(steps=7).equals(plain)
    assert attached.report().reasons == {"fewer than 8 evaluations": 14}
    tiny(steps=8)
    assert attached.computed == [0, 1, 3, 5, 7]


def test_a_cache_of_diffusers_is_refused_or_noticed() -> None:
    tiny = videos.wan()
    config = diffusers.FirstBlockCacheConfig(threshold=1e-9)
    tiny.pipe.transformer.enable_cache(config)
    with pytest.raises(ValueError, match="transformer of WanPipeline has a cache of its own"):
        on(tiny)
    tiny.pipe.transformer.disable_cache()
    attached = on(tiny)
    tiny.pipe.transformer.enable_cache(config)
    with pytest.warns(UserWarning, match="transformer has a cache of its own enabled"):
        tiny()
    assert attached.computed == list(range(12))


def test_what_cannot_be_attached_to_says_so() -> None:
    with pytest.raises(ValueError, match="takes no acceleration"):
        accelerate(object(), "sada")
    tiny = videos.wan()
    with pytest.raises(ValueError, match="pab has to look into the network; on pipelines of diffusers"):
        accelerate(tiny.pipe, "pab")
    with pytest.raises(ValueError, match=r"fora\+sada: a pipeline of diffusers has one method at a time; .*adacache"):
        accelerate(tiny.pipe, "fora-sada")
    with pytest.raises(ValueError, match="a method is a name such as 'soda', or a YAML file, got 3"):
        accelerate(tiny.pipe, 3)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="`slots=modules` has to look into blocks"):
        accelerate(tiny.pipe, "fora", slots="modules")
    object.__setattr__(tiny.pipe, "scheduler", None)
    with pytest.raises(ValueError, match="WanPipeline has no scheduler"):
        accelerate(tiny.pipe, "fora")


def test_nothing_is_retained() -> None:
    tiny = videos.wan()
    attached = on(tiny)
    tiny()
    network, scheduler, pipe = (weakref.ref(part) for part in (tiny.pipe.transformer, tiny.pipe.scheduler, tiny.pipe))
    attached.remove()
    del tiny
    gc.collect()
    assert network() is None and scheduler() is None and pipe() is None
    tiny = videos.wan()
    held = weakref.ref(on(tiny))
    assert held() is not None, "the pipeline holds it"
    del tiny
    gc.collect()
    assert held() is None


@pytest.mark.parametrize("generations", [10, pytest.param(200, marks=pytest.mark.slow)])
def test_memory_does_not_grow(generations: int) -> None:
    tiny = images.flux()
    attached = on(tiny)
    tiny(steps=8)
    gc.collect()
    before = len([one for one in gc.get_objects() if isinstance(one, torch.Tensor)])
    for _ in range(generations):
        tiny(steps=8)
    gc.collect()
    assert len([one for one in gc.get_objects() if isinstance(one, torch.Tensor)]) <= before
    assert attached.report().stored_bytes == 2 * 64 * 4 * 4 // 4
