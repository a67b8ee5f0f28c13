"""Compiled parts: the same numbers under every method, and few graphs. Dynamo alone; what a compiler makes of graphs is
looked at in tests/generation/test_compile.py."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._dynamo.utils import counters

from tests.models.networks import tiny_stdit
from tests.policies.test_decisions import KNOWN, decided
from tests.tiny_pipeline import tiny_pipeline
from tests.tiny_run import tiny_run
from videoaccel import VideoPipeline
from videoaccel.common.stages import StageClock
from videoaccel.generation.prepared import plain
from videoaccel.models.compiled import compile_branches, compile_decoders, is_compiled
from videoaccel.models.forms import forms_of, in_plain_form
from videoaccel.session.registry import make_policy

METHODS = sorted(name for name in KNOWN if "-" not in name)
EACH_KIND = ("elastic", "fora", "pab", "sada", "soda", "toca")
"""Methods that leave out neurons and blocks, modules at times, steps, and columns; the others take half a minute."""

DENSE = 10
"""norm, mixing and gate of attention along space and time, of cross-attention and of the MLP."""


@pytest.fixture(scope="module")
def compiled() -> Iterator[VideoPipeline]:
    torch.compiler.reset()
    pipe = VideoPipeline.from_pretrained("demo")
    pipe.set_progress_bar_config(disable=True)
    compile_branches(pipe.transformer, backend="eager")
    yield pipe
    torch.compiler.reset()


@pytest.mark.parametrize(
    "name", [name if name in EACH_KIND else pytest.param(name, marks=pytest.mark.slow) for name in METHODS]
)
def test_every_method_decides_the_same(compiled: VideoPipeline, name: str) -> None:
    assert decided(compiled, name) == KNOWN[name]


def test_methods_share_graphs() -> None:
    torch.compiler.reset()
    counters.clear()
    model = tiny_stdit(depth=3)
    exact = plain(tiny_run(model=model))
    compile_branches(model, backend="eager")
    torch.testing.assert_close(plain(tiny_run(model=model)), exact, atol=0, rtol=0)
    assert counters["stats"]["unique_graphs"] <= DENSE
    made = counters["stats"]["unique_graphs"]
    plain(tiny_run(model=model, steps=7))
    assert counters["stats"]["unique_graphs"] == made, "further steps compile nothing"


class Counted:
    """A tiny pipeline that counts its network's calls, clip by clip."""

    def __init__(self) -> None:
        self.pipe, self.calls = tiny_pipeline(), list[int]()
        self.forward, self.pipe.transformer.forward = self.pipe.transformer.forward, self.call

    def call(self, x: Tensor, *given: Any, **named: Any) -> Tensor:
        self.calls[-1] += 1
        return self.forward(x, *given, **named)

    def made(self, **options: Any) -> Tensor:
        """Frames of one step a loop, unless told otherwise."""
        self.calls.append(0)
        request = self.pipe.request("a red circle", seed=3, **{"loops": 3, "num_inference_steps": 1, **options})
        return torch.cat(list(self.pipe.stream(request)), dim=2)


def test_a_network_is_warmed_up_where_there_is_something_to_compile() -> None:
    """Of three loops for the first, which begins from nothing, and the second; later ones and clips are like these."""
    torch.compiler.reset()
    counters.clear()
    counted = Counted()
    exact = counted.made()
    compile_branches(counted.pipe.transformer, backend="eager")
    assert torch.equal(counted.made(), exact)
    graphs = counters["stats"]["unique_graphs"]
    assert torch.equal(counted.made(), exact)
    counted.made(policy=make_policy("fora"), num_inference_steps=2)
    assert counters["stats"]["unique_graphs"] == graphs > 0, "nothing was left to compile"
    assert counted.calls == [3, 3 + 2, 3, 6]
    torch.compiler.reset()


def test_other_calls_of_a_compiled_network_are_warmed_up() -> None:
    """Sizes, texts, types, attention, and of a network that is compiled whole whether a method runs in it."""
    counted = Counted()
    counted.pipe.to(torch.float32)  # says, too, what may be rounded
    counted.pipe.transformer._compiled_call_impl = counted.call  # as `compile()` leaves it
    once: dict[str, Any] = {"loops": 1, "num_frames": 1}
    other: list[dict[str, Any]] = [
        once, {**once, "num_frames": 5}, {**once, "guidance_scale": 1.0}, {**once, "num_videos_per_prompt": 2},
        {**once, "policy": make_policy("off")},
    ]  # fmt: skip
    for options in other:
        counted.made(**options)
        counted.made(**options)
    counted.pipe.to(torch.bfloat16)
    counted.made(**once)
    counted.pipe.to(torch.float32)
    counted.made(**once)
    assert counted.calls == [2, 1] * len(other) + [2, 1]


def test_plain_form_and_back() -> None:
    model = tiny_stdit()
    compile_branches(model, backend="eager")
    assert is_compiled(model)
    assert forms_of(model)
    with in_plain_form(model):
        assert not is_compiled(model)
        assert not forms_of(model)
    assert is_compiled(model)


def test_reordered_neurons_stay_compiled_and_their_own() -> None:
    """A copy that a method makes of a module runs on its own weights."""
    model = tiny_stdit()
    compile_branches(model, backend="eager")
    mlp = model.blocks[0].mlp
    order = torch.arange(mlp.fc1.out_features).flip(0)
    h = torch.randn(1, 2, 3, mlp.fc1.in_features)
    with torch.inference_mode():
        half = mlp.ordered(order).mix(h, None, width=0.5)
        assert not torch.equal(half, mlp.mix(h, None, width=0.5))
        torch.testing.assert_close(mlp.ordered(order).mix(h, None), mlp.mix(h, None))


def test_decoders_are_a_graph_for_every_size() -> None:
    """One of chunks in time, two of pictures: by fours, and what is left. The same bits; equal chunks share them."""
    torch.compiler.reset()
    counters.clear()
    vae = tiny_pipeline().vae
    z = torch.randn(1, 4, 10, 4, 4, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        exact = vae.decode(z, 34)
        compile_decoders(vae, backend="eager", fullgraph=True)
        assert is_compiled(vae) and forms_of(vae) == {"forms": ["Decoder", "TemporalDecoder"]}
        for _ in range(2):
            assert torch.equal(vae.decode(z, 34), exact)
            assert counters["stats"]["unique_graphs"] == 3
    torch.compiler.reset()


def test_a_clip_meets_its_compiled_decoders_before_it_is_decoded() -> None:
    """Once for every size: `compile` has the time, and the second clip is decoded as before."""
    torch.compiler.reset()
    pipe = tiny_pipeline()
    told: list[list[str]] = []

    def made(frames: int) -> Tensor:
        told.append([])
        clock = StageClock(lambda stage, done, total: told[-1].append(stage) if not done else None)
        request = pipe.request("a red circle", seed=0, num_frames=frames, num_inference_steps=1)
        return torch.cat(list(pipe.stream(request, clock=clock)), dim=2)

    exact = made(4)
    compile_decoders(pipe.vae, backend="eager")
    assert torch.equal(made(4), exact) and torch.equal(made(4), exact)
    made(8)
    assert [(one.count("compile"), one.count("decode")) for one in told] == [(0, 1), (1, 1), (0, 1), (1, 1)]
    torch.compiler.reset()
