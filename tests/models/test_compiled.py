"""Compiled parts: the same numbers under every method, and few graphs. Dynamo alone; what a compiler makes of graphs is
looked at in tests/generation/test_compile.py."""

from collections.abc import Iterator

import pytest
import torch
from torch._dynamo.utils import counters

from tests.models.networks import tiny_stdit
from tests.policies.test_decisions import KNOWN, decided
from tests.tiny_run import tiny_run
from videoaccel import VideoPipeline
from videoaccel.generation.prepared import plain
from videoaccel.models.compiled import compile_branches, is_compiled
from videoaccel.models.forms import forms_of, in_plain_form

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
