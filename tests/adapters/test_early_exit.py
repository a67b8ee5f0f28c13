"""Methods that decide by what blocks do: networks are left after their first block, and nothing else changes."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import accelerate as hf_accelerate
import diffusers
import pytest
import torch
from torch import Tensor, nn

from tests.adapters import image_pipes as images
from tests.adapters import video_pipes as videos
from tests.adapters.test_attach import CHANGES
from tests.adapters.tiny import Tiny
from videoaccel import Prior, accelerate, calibrate
from videoaccel.adapters.blocks import ADDED, LEFT, MIDDLE, MODULATED, Blocks, main_lists, why_not
from videoaccel.adapters.methods.first_block import FirstBlockRule
from videoaccel.adapters.methods.teacache import TeaCacheRule
from videoaccel.adapters.pipeline_priors import find
from videoaccel.adapters.rule import ASK, NOTHING_BEFORE, Course, Due, Evaluation, Serve
from videoaccel.adapters.signals import Sampler, added
from videoaccel.adapters.streams import Stream
from videoaccel.adapters.swap import listeners_of
from videoaccel.policies.first_block import FirstBlock

METHODS: dict[str, dict[str, Any]] = {"first_block": {"threshold": 0.3}, "teacache": {}, "adacache": {}}


@pytest.fixture(autouse=True)
def shelf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def quiet() -> Iterator[None]:
    with pytest.warns(UserWarning, match="computed whole and measured"):
        yield


def blocks_run(tiny: Tiny) -> list[str]:
    """Names of the blocks of the network that run from now on, as forward hooks see them."""
    seen: list[str] = []
    for number, block in enumerate(main_lists(tiny.pipe.transformer)[0]):
        block.register_forward_hook(lambda *_, n=number: seen.append(str(n)))
    return seen


@pytest.mark.filterwarnings("ignore:first_block computed all")
@pytest.mark.parametrize(
    "make",
    [
        videos.wan_two,
        images.flux_true_guidance,
        images.z_image,
        *(pytest.param(make, marks=pytest.mark.slow) for make in (videos.wan, videos.ltx_2, images.dit)),
    ],
)
def test_a_threshold_of_nothing_is_exact_and_one_of_all_leaves_every_evaluation(make: Callable[[], Tiny]) -> None:
    tiny = make()
    plain = tiny()
    with accelerate(tiny.pipe, "first_block", threshold=0.0) as fast:
        assert tiny().equals(plain)
        assert fast.report().calls_left == 0
    with accelerate(tiny.pipe, "first_block", threshold=1e9) as fast:
        found = tiny()
        report = fast.report()
        firsts = 2 if make is videos.wan_two else 1
        assert len(fast.computed) == firsts and report.calls_left == report.evaluations - firsts
        assert found.finite() and found.same_draws(plain) and tiny.calls.total() == report.calls_computed
        assert f"{report.calls_left} calls left after the first block" in str(report)
    assert tiny().equals(plain)


@pytest.mark.parametrize("method", METHODS)
def test_between_exact_and_nothing(method: str) -> None:
    tiny = videos.wan()
    plain = tiny()
    fields = METHODS[method]
    if method != "first_block":
        fields = {**fields, "prior": calibrate(tiny.pipe, calls=[{**tiny.options, "num_inference_steps": 12}], curve=0)}
    with accelerate(tiny.pipe, method, **fields) as fast:
        found = tiny()
        report = fast.report()
        assert 1 <= len(fast.computed) < 12 and not report.reasons
        assert report.calls_left == (0 if method == "adacache" else 12 - len(fast.computed))
        assert 0 < found.away_from(plain) < 0.3 and found.same_draws(plain)
        assert tiny().equals(found), "nothing is left of the generation before"
    assert tiny().equals(plain) and not any(map(listeners_of, tiny.pipe.transformer.modules()))


def test_one_call_decides_for_both_branches_and_the_other_is_not_made() -> None:
    tiny = videos.wan()
    with accelerate(tiny.pipe, "first_block", threshold=1e9) as fast:
        ran = blocks_run(tiny)
        tiny()
        assert ran == ["0", "1"] * 2 + ["0"] * 11
        cond, uncond = fast.report().streams
        assert (cond.computed, cond.forecast, cond.left) == (1, 11, 11)
        assert (uncond.computed, uncond.forecast, uncond.left) == (1, 11, 0)


def test_the_decision_is_that_of_the_formula() -> None:
    """Against a loop of its own over the same network: what block 0 adds, compared with the last computed one."""
    tiny, threshold = images.flux(), 0.3
    added_now: list[Tensor] = []

    def note(module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        added_now.append(output[1].detach() - kwargs["hidden_states"])

    handle = tiny.pipe.transformer.transformer_blocks[0].register_forward_hook(note, with_kwargs=True)
    with accelerate(tiny.pipe, "first_block", threshold=threshold) as fast:
        tiny()
    handle.remove()
    computed, before = [], None
    for i, now in enumerate(added_now):
        if before is None or (now - before).abs().sum() / before.abs().sum() > threshold:
            computed.append(i)
            before = now
    assert fast.computed == computed and 1 < len(computed) < 12


def test_teacache_adds_up_what_is_to_be_expected() -> None:
    rule = TeaCacheRule(1.0, lambda change: 10 * change)
    stream, course = Stream("transformer", None, (), 0), Course(tuple(range(6)))
    values = (1.0, 1.04, 1.08, 1.13, 1.2)
    served = []
    for i, value in enumerate(values):
        now = Evaluation(i, "transformer", i, i, course)
        asks = rule.decide(now) is ASK
        rule.felt(now, stream, torch.full((1, 4), value))
        serve = rule.judge(now) if asks else None
        served.append(isinstance(serve, Serve))
        rule.ended(now, computed=not served[-1], steps=())
    assert served == [False, True, True, False, True]
    assert rule.decide(Evaluation(5, "transformer", 5, 5, course)) == Due("the first and the last")
    rule.felt(now, Stream("transformer_2", None, (), 0), torch.ones(1, 4))
    assert rule.judge(now) is NOTHING_BEFORE, "another network has nothing to be compared with"


@pytest.mark.parametrize(
    "change",
    [
        "sequential offload",
        *(pytest.param(name, marks=pytest.mark.slow) for name in ("model offload", "group offload", "blocks compiled")),
    ],
)
def test_before_and_after(change: str) -> None:
    reference = videos.wan()
    with accelerate(reference.pipe, "first_block", threshold=0.05) as fast:
        expected, computed = reference(), fast.computed
    assert 1 < len(computed) < 12
    plain = reference()
    for before in (True, False):
        tiny = videos.wan()
        if before:
            CHANGES[change](tiny)
        attached = accelerate(tiny.pipe, "first_block", threshold=0.05)
        if not before:
            CHANGES[change](tiny)
        for _ in range(1 + before):
            assert tiny().equals(expected) and attached.computed == computed, f"{change}, before: {before}"
        attached.remove()
        assert tiny().equals(plain) and not any(map(listeners_of, tiny.pipe.transformer.modules()))


def test_nobody_looks_into_a_block_that_is_compiled(quiet: None) -> None:
    tiny = videos.wan()
    plain = tiny()
    for block in tiny.pipe.transformer.blocks:
        block._compiled_call_impl = block._call_impl  # as compile_repeated_blocks() has it
    with accelerate(tiny.pipe, "teacache", threshold=0.3, calibrate=1) as fast:
        assert tiny().equals(plain)
        assert not any(map(listeners_of, tiny.pipe.transformer.blocks[0].children()))
        assert tiny().finite() and "the first block's own input is compared" in str(fast.report())
    with accelerate(tiny.pipe, "first_block", threshold=1e9) as fast:
        tiny()
        assert fast.report().calls_left == 11 and fast.report().note is None


def lora(tiny: Tiny) -> None:
    """Random adapters on the attention of all blocks."""
    peft = pytest.importorskip("peft")
    torch.manual_seed(5)
    config = peft.LoraConfig(r=2, target_modules=["to_q", "to_v"], init_lora_weights=False)
    tiny.pipe.transformer.add_adapter(config)


@pytest.mark.parametrize("method", ["first_block", "fixed_linear"])
def test_lora_may_be_loaded_before_and_after(method: str) -> None:
    fields = {"threshold": 0.3} if method == "first_block" else {}
    scaled = {"attention_kwargs": {"scale": 0.3}}
    reference = videos.wan()
    bare = reference()
    lora(reference)
    plain, weak = reference(), reference(**scaled)
    assert not plain.equals(bare) and not weak.equals(plain)
    with accelerate(reference.pipe, method, **fields) as fast:
        expected, computed = reference(**scaled), fast.computed
        assert 1 <= len(computed) < 12
    assert reference().equals(plain), "scales are as they were, also after calls that were left"
    tiny = videos.wan()
    with accelerate(tiny.pipe, method, **fields) as fast:
        tiny()
        lora(tiny)
        assert tiny(**scaled).equals(expected) and fast.computed == computed
    assert tiny(**scaled).equals(weak) and tiny().equals(plain)


def test_weights_are_put_away_after_a_call_that_was_left() -> None:
    tiny = videos.wan()
    hf_accelerate.cpu_offload(tiny.pipe.transformer, execution_device=torch.device("cpu"))
    with accelerate(tiny.pipe, "first_block", threshold=1e9) as fast:
        tiny()
        assert fast.report().calls_left == 11
    assert {parameter.device.type for parameter in tiny.pipe.transformer.parameters()} == {"meta"}


def test_a_network_compiled_as_a_whole_is_refused_or_computed(quiet: None) -> None:
    tiny = images.flux()
    attached = accelerate(tiny.pipe, "first_block", threshold=1e9)
    tiny.pipe.transformer._compiled_call_impl = tiny.pipe.transformer._call_impl  # as compile() has it
    with pytest.warns(UserWarning, match="transformer is compiled as a whole"):
        tiny()
    assert attached.computed == list(range(12)) and not attached._blocks
    with pytest.raises(ValueError, match=r"first_block decides by what blocks do.*compile_repeated_blocks.*taylorseer"):
        accelerate(tiny.pipe, "first_block")
    tiny.pipe.transformer._compiled_call_impl = None
    attached.remove()
    accelerate(tiny.pipe, "teacache", calibrate=1)
    tiny()


def test_what_cannot_be_had_says_which_can() -> None:
    tiny = images.stable_diffusion()
    for method in METHODS:
        with pytest.raises(
            ValueError, match=rf"{method} .*unet is a UNet.*these can be had: fewer_steps, .*taylorseer$"
        ):
            accelerate(tiny.pipe, method)
    flux = images.flux()
    with pytest.raises(ValueError, match="published constants are Open-Sora's"):
        accelerate(flux.pipe, "teacache", constants="published")
    with pytest.raises(ValueError, match="adacache with `motion`"):
        accelerate(flux.pipe, "adacache", motion=True)
    assert why_not(nn.ModuleDict({"a": nn.ModuleList([nn.Linear(2, 2)])})) == "has no list of blocks"


def test_constants_are_measured_on_the_first_generations_and_serve_other_numbers_of_steps(quiet: None) -> None:
    tiny = images.flux()
    plain = tiny()
    with accelerate(tiny.pipe, "teacache", calibrate=2, threshold=0.1) as fast:
        assert tiny().equals(plain) and tiny().equals(plain)
        tiny()
        assert 2 < len(fast.computed) < 12 and "planned from 2 measured generations" in str(fast.report())
        tiny(steps=20)
        assert 2 < len(fast.computed) < 20 and fast.report().evaluations == 20
    with accelerate(tiny.pipe, "soda", speedup=2.0, calibrate=False) as fast:  # one prior for all methods
        tiny()
        assert len(fast.computed) == 6


def test_a_prior_without_the_table_is_measured_anew_and_keeps_what_else_it_knew(quiet: None) -> None:
    tiny = images.flux()
    calls = [{**tiny.options, "num_inference_steps": 12}]
    prior = calibrate(tiny.pipe, calls=calls, curve=1)
    assert {"teacache.probe", "teacache.output", "adacache.distance", "soda.psnr"} <= set(prior.tables)
    kept = {name: table for name, table in prior.tables.items() if not name.startswith(("teacache", "adacache"))}
    short = Prior(prior.setting, kept, {name: 1 for name in kept}, prior.info)
    assert prior.path is not None
    short.save(prior.path)
    with pytest.raises(ValueError, match=r"the prior has no table teacache\.probe"):
        accelerate(tiny.pipe, "teacache", prior=short)
    with accelerate(tiny.pipe, "teacache", calibrate=1):
        tiny()
    found, _ = find(prior.setting, needs=("teacache.probe",))
    assert found is not None and "soda.psnr" in found.tables


def test_two_calls_that_overlap_in_a_network_that_is_shared() -> None:
    """What listens for one pipeline's call is deaf to the other's."""
    one = videos.wan()
    pipe = diffusers.WanPipeline(**{**one.pipe.components})
    other = Tiny(pipe, one.options)
    plain = other()
    with accelerate(one.pipe, "first_block", threshold=1e9) as first:
        assert other().equals(plain)
        one()
        assert len(first.computed) == 1 and other().equals(plain)


class Net(nn.Module):
    """Two streams in one order, out in the other."""

    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.lin, self.Attention = nn.Linear(4, 4), nn.Identity()
            self.scaling: dict[str, float] = {}

        def forward(self, text: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
            return x + self.lin(x), text

    def __init__(self) -> None:
        super().__init__()
        self.refiner = nn.ModuleList(nn.Linear(2, 1) for _ in range(2))
        self.blocks = nn.ModuleList(self.Block() for _ in range(3))

    def forward(self, x: Tensor, scales: Any = None) -> Tensor:
        for layer in self.refiner:
            layer(x[..., :2])
        for block in self.blocks if scales is None else []:
            x, _ = block(torch.zeros(1, 3, 4), x)
        if scales is not None:  # as networks of diffusers whose scaling is not undone in a finally
            for block in self.blocks:
                block.scaling["a"] *= scales["scale"]
            for block in self.blocks:
                x, _ = block(torch.zeros(1, 3, 4), x)
            for block in self.blocks:
                block.scaling["a"] /= scales["scale"]
        return x


@torch.no_grad()
def test_blocks_are_found_by_their_size_and_streams_by_their_shape() -> None:
    net, x = Net(), torch.randn(2, 5, 4)
    assert [len(one) for one in main_lists(net)] == [3], "the refiner is small"
    blocks = Blocks(net, frozenset({ADDED, MIDDLE, MODULATED}))
    told: list[set[str]] = []
    out = blocks.run(net, (x,), {}, rows=2, leaves=lambda signals: bool(told.append(set(signals))))
    assert (
        torch.equal(out, net(x)) and told == [{ADDED, MODULATED}] and set(blocks.signals) == {ADDED, MODULATED, MIDDLE}
    )
    torch.testing.assert_close(blocks.signals[ADDED], net.blocks[0].lin(x).reshape(2, -1))
    assert blocks.remark is not None, "there is no attention in it"
    assert blocks.run(net, (x,), {}, rows=2, leaves=lambda _: True) is LEFT
    blocks.remove()
    assert not any(map(listeners_of, net.modules()))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("network", "names"),
    [
        ("FluxTransformer2DModel", ["transformer_blocks", "single_transformer_blocks"]),
        ("HunyuanVideoTransformer3DModel", ["transformer_blocks", "single_transformer_blocks"]),
        ("Kandinsky5Transformer3DModel", ["visual_transformer_blocks"]),
        ("Lumina2Transformer2DModel", ["layers"]),
        ("AuraFlowTransformer2DModel", ["joint_transformer_blocks", "single_transformer_blocks"]),
        ("WanVACETransformer3DModel", ["blocks", "vace_blocks"]),
        ("ZImageTransformer2DModel", ["layers"]),
    ],
)
def test_blocks_are_found_at_the_size_of_releases(network: str, names: list[str]) -> None:
    with torch.device("meta"):
        net = getattr(diffusers, network)()
    assert [next(name for name, part in net.named_modules() if part is one) for one in main_lists(net)] == names


@torch.no_grad()
def test_scales_of_lora_are_as_before_after_a_call_that_was_left() -> None:
    net, x = Net(), torch.randn(1, 5, 4)
    for block in net.blocks:
        block.scaling["a"] = 1.5
    blocks = Blocks(net, frozenset({ADDED}))
    for leaves in (True, False):
        blocks.run(net, (x,), {"scales": {"scale": 0.3}}, rows=1, leaves=lambda _, leaves=leaves: leaves)
        assert [block.scaling["a"] for block in net.blocks] == pytest.approx([1.5] * 3)


def test_large_signals_are_sampled_at_the_same_places() -> None:
    sampler = Sampler()
    x = torch.randn(2, 2**11, 2**10)
    one, two = sampler(x, 2), sampler(x + 1, 2)
    assert one.shape == (2, 2**20) and torch.equal(one + 1, two)
    assert abs(float(one.abs().mean() / x.abs().mean()) - 1) < 3e-3
    assert sampler(torch.ones(6, 5), 4).shape == (1, 30)


def test_a_part_of_a_stream_is_compared_with_the_same_part() -> None:
    """Ranks that share the work have a part of a block's output."""
    x = torch.randn(1, 8, 4)
    found = added((x,), {}, x[:, :4] + 2)
    assert found is not None and torch.allclose(found, torch.full((1, 4, 4), 2.0))


@pytest.mark.parametrize("threshold", [0.0, 0.1])
def test_at_a_threshold_of_nothing_nothing_is_served(threshold: float) -> None:
    """Not even where a signal has not changed at all: random networks have such first blocks."""
    same = torch.ones(1, 8)
    for rule in (FirstBlockRule(FirstBlock(threshold=threshold)), TeaCacheRule(threshold, lambda change: change)):
        for _ in range(2):
            rule.felt(None, "stream", same)  # type: ignore[arg-type]
            found = rule.judge(None)  # type: ignore[arg-type]
            rule.ended(None, computed=not isinstance(found, Serve), steps=())  # type: ignore[arg-type]
        assert isinstance(found, Serve) == (threshold > 0)
