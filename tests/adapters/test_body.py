"""What is forecast of a network: what its blocks add, with everything around them computed, or its output."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.adapters import image_pipes as images
from tests.adapters import video_pipes as videos
from tests.adapters.test_attach import CHANGES
from tests.adapters.tiny import Run, Tiny
from videoaccel import accelerate
from videoaccel.adapters.blocks import LEFT
from videoaccel.adapters.body import Body
from videoaccel.adapters.outputs import Output
from videoaccel.adapters.swap import listeners_of
from videoaccel.policies._trunk import require_auto
from videoaccel.policies.fora import Fora
from videoaccel.policies.taylorseer import TaylorSeer
from videoaccel.settings.config import settled


class Adds(nn.Module):
    """In the place of all blocks of a list."""

    def __init__(self, added: list[Tensor]) -> None:
        super().__init__()
        self.added = added

    def forward(self, hidden_states: Tensor, encoder_hidden_states: Tensor, *rest: Any, **named: Any) -> Any:
        streams = (hidden_states,) if len(self.added) == 1 else (encoder_hidden_states, hidden_states)
        found = tuple(stream + more for stream, more in zip(streams, self.added, strict=True))
        return found if len(found) > 1 else found[0]


def by_hand(tiny: Tiny, lists: list[str], calls: int, policy: Fora | TaylorSeer) -> Run:
    """The method with nothing of this project: blocks are taken out of the network where they are not to run."""
    network, order = tiny.pipe.transformer, getattr(policy, "order", 0)
    plain, number = network.forward, 0
    known: dict[int, list[tuple[int, list[list[Tensor]]]]] = {}

    def computed(*args: Any, **kwargs: Any) -> tuple[Any, list[list[Tensor]]]:
        found: list[list[Tensor]] = []
        hooks = []
        for name in lists:
            blocks, into = getattr(network, name), list[Tensor]()

            def first(_: Any, args: Any, kwargs: Any, into: list[Tensor] = into) -> None:
                given = {**dict(zip(("hidden_states", "encoder_hidden_states"), args, strict=False)), **kwargs}
                into.extend((given["encoder_hidden_states"], given["hidden_states"]))

            def last(_: Any, args: Any, output: Any, into: list[Tensor] = into) -> None:
                outs = output if isinstance(output, tuple) else (output,)
                found.append([out - one for out, one in zip(outs, into[-len(outs) :], strict=True)])

            hooks += [blocks[0].register_forward_pre_hook(first, with_kwargs=True)]
            hooks += [blocks[-1].register_forward_hook(last)]
        output = plain(*args, **kwargs)
        for hook in hooks:
            hook.remove()
        return output, found

    def forward(*args: Any, **kwargs: Any) -> Any:
        nonlocal number
        i, stream = divmod(number, calls)
        number += 1
        before = known.setdefault(stream, [])
        if policy.due(i):
            output, found = computed(*args, **kwargs)
            before.insert(0, (i, found))
            return output
        (i1, new), (i0, old) = before[0], before[min(order, len(before) - 1)]
        rate = (i - i1) / (i1 - i0) if i1 != i0 else 0.0
        own = {name: getattr(network, name) for name in lists}
        for place, name in enumerate(lists):
            pairs = zip(new[place], old[place], strict=True)
            added = [one + (one - two) * rate if rate else one for one, two in pairs]
            setattr(network, name, nn.ModuleList([Adds(added)]))
        try:
            return plain(*args, **kwargs)
        finally:
            for name, blocks in own.items():
                setattr(network, name, blocks)

    network.forward = forward
    try:
        return tiny()
    finally:
        del network.forward


@pytest.mark.parametrize(
    ("make", "lists", "calls"),
    [
        (videos.wan, ["blocks"], 2),
        (images.flux_true_guidance, ["transformer_blocks", "single_transformer_blocks"], 2),
    ],
)
def test_it_is_what_one_gets_by_hand(make: Callable[[], Tiny], lists: list[str], calls: int) -> None:
    tiny = make()
    plain = tiny()
    held, line = by_hand(tiny, lists, calls, Fora()), by_hand(tiny, lists, calls, TaylorSeer())
    assert held.away_from(plain) > 1e-4
    with accelerate(tiny.pipe, "fora") as fast:
        found, report = tiny(), fast.report()
        assert found.equals(held) and report.residual == "body" and "; residual: body" in report.summary
        assert fast.computed == [i for i in range(12) if Fora().due(i)] and not report.reasons
        assert tiny().equals(found), "nothing is left of the generation before"
    with accelerate(tiny.pipe, "taylorseer", residual="body"):
        assert tiny().away_from(line) < 1e-5
    with accelerate(tiny.pipe, "fora", residual="output") as fast:
        other = tiny()
        assert not other.equals(held) and fast.report().residual == "output"
    assert tiny().equals(plain) and not any(map(listeners_of, tiny.pipe.transformer.modules()))


@pytest.mark.filterwarnings("ignore:fora computed all")
@pytest.mark.parametrize("make", [images.flux, images.stable_diffusion_3, videos.latte])
def test_computing_everything_gives_the_bits_of_a_plain_run(make: Callable[[], Tiny]) -> None:
    tiny = make()
    plain = tiny()
    with accelerate(tiny.pipe, "fora", period=1) as fast:
        assert tiny().equals(plain) and fast.report().residual == "body"


def test_the_report_tells_the_memory() -> None:
    tiny = videos.wan()
    with accelerate(tiny.pipe, "taylorseer", order=1) as fast:
        network, seen = tiny.pipe.transformer, list[int]()
        hook = network.blocks[0].register_forward_hook(lambda _, args, output: seen.append(output.nbytes))
        tiny()
        hook.remove()
        assert fast.report().stored_bytes == 2 * 2 * seen[0], "two of each of two branches"


def test_without_lists_of_blocks_the_output_is_forecast_or_it_is_refused() -> None:
    tiny = images.stable_diffusion()
    with accelerate(tiny.pipe, "taylorseer", residual="output"):
        expected = tiny()
    with accelerate(tiny.pipe, "taylorseer") as fast:
        assert tiny().equals(expected)
        assert fast.report().residual == "output (unet is a UNet, whose blocks differ)"
    with pytest.raises(ValueError, match=r"fora forecasts what blocks add, and unet is a UNet.*residual=output"):
        accelerate(tiny.pipe, "fora", residual="body")


def leaking(tiny: Tiny) -> None:
    """Have the last layer use what the first block returned."""
    network, kept = tiny.pipe.transformer, list[Tensor]()
    network.blocks[0].register_forward_hook(lambda _, args, output: kept.append(output))
    network.proj_out.register_forward_pre_hook(lambda _, args: (args[0] + 0.1 * kept.pop(),))


def test_where_more_of_the_blocks_is_used_the_output_is_forecast_and_the_report_says_so() -> None:
    tiny = videos.wan()
    leaking(tiny)
    plain = tiny()
    with accelerate(tiny.pipe, "fora", residual="output"):
        expected = tiny()
    with accelerate(tiny.pipe, "fora") as fast:
        assert tiny().equals(expected)
        said = "of transformer more of its blocks is used than what comes out of the last"
        assert fast.report().residual == f"output ({said})"
    with accelerate(tiny.pipe, "fora", residual="body") as fast, pytest.warns(UserWarning, match=said):
        assert tiny().equals(plain) and fast.computed == list(range(12))


def test_blocks_that_are_called_in_another_way_are_computed() -> None:
    """A layer is left out in the evaluation that would be served."""
    tiny = videos.wan()
    network, calls = tiny.pipe.transformer, 0
    plain = network.forward

    def forward(*args: Any, **kwargs: Any) -> Any:
        nonlocal calls
        calls += 1
        own = network.blocks
        if calls in (9, 10):  # the first call of the fourth evaluation, after three with two calls that were tried out
            network.blocks = own[:1]
        try:
            return plain(*args, **kwargs)
        finally:
            network.blocks = own

    network.forward = forward
    with accelerate(tiny.pipe, "fora") as fast:
        assert tiny().finite()
        assert fast.report().reasons["its blocks were called in another way"] == 2, "one branch has the other computed"
        assert fast.computed == [0, 1, 2, 3, 4, 5, 6, 8, 10], "the third was of another form: history began anew"


def test_two_networks_have_their_own() -> None:
    tiny = videos.wan_two()
    with accelerate(tiny.pipe, "fora") as fast:
        assert tiny().finite() and fast.report().residual == "body"
        network = tiny.pipe.transformer_2
        network._compiled_call_impl = network._call_impl  # as compile() has it
        tiny()
        assert fast.report().residual == (
            "body; output (transformer_2 is compiled as a whole (compile_repeated_blocks() may be used in its place))"
        )


def test_half_precision() -> None:
    tiny = videos.wan()
    tiny.pipe.transformer.to(torch.bfloat16)
    options = {k: v.bfloat16() if isinstance(v, Tensor) else v for k, v in tiny.options.items()}
    with accelerate(tiny.pipe, "fora") as fast:
        assert tiny(**options).finite() and fast.report().residual == "body"


@pytest.mark.parametrize(
    "change",
    [
        "sequential offload",
        *(pytest.param(name, marks=pytest.mark.slow) for name in ("model offload", "group offload", "blocks compiled")),
    ],
)
def test_before_and_after(change: str) -> None:
    reference = videos.wan()
    with accelerate(reference.pipe, "fora"):
        expected = reference()
    for before in (True, False):
        tiny = videos.wan()
        if before:
            CHANGES[change](tiny)
        with accelerate(tiny.pipe, "fora") as fast:
            if not before:
                CHANGES[change](tiny)
            assert tiny().equals(expected) and fast.report().residual == "body", f"{change}, before: {before}"


def test_identities_of_before_stay_and_our_own_models_have_other_words() -> None:
    for policy in (Fora, TaylorSeer):
        assert "residual" not in settled(policy()) and settled(policy(residual="output"))["residual"] == "output"
    with pytest.raises(ValueError, match=r"fora with `residual=body` is for pipelines of diffusers.*`slots` says"):
        require_auto("body", "fora", "slots")


class Net(nn.Module):
    """Two lists that may take turns, between what is around them."""

    def __init__(self, *, turns: bool = False, leaks: bool = False) -> None:
        super().__init__()
        self.turns, self.leaks = turns, leaks
        self.a = nn.ModuleList(nn.Linear(4, 4) for _ in range(3))
        self.b = nn.ModuleList(nn.Linear(4, 4) for _ in range(3))
        self.head = nn.Linear(4, 2)

    def forward(self, x: Tensor, *, layers: int = 3) -> Tensor:
        order = [m for pair in zip(self.a, self.b, strict=True) for m in pair] if self.turns else [*self.a, *self.b]
        seen = []
        for block in order[: 2 * layers]:
            seen.append(x := block(x))
        out: Tensor = self.head(x.tanh() + (seen[1] if self.leaks else 0))
        return out


@torch.no_grad()
def test_stretches() -> None:
    net, x = Net(), torch.randn(2, 5, 4)
    body = Body(net)
    output, found = body.record(net, (x,), {}, check=True)
    assert torch.equal(output, net(x)) and isinstance(found, Output)
    middle = net.a[2](net.a[1](net.a[0](x)))
    end = net.b[2](net.b[1](net.b[0](middle)))
    assert [torch.allclose(*pair) for pair in zip(found.leaves, (middle - x, end - middle), strict=True)] == [True] * 2
    other = torch.randn(2, 5, 4)
    torch.testing.assert_close(body.serve(net, (other,), {}, found), net.head((other + end - x).tanh()))
    for layers in (2, 1):
        assert body.serve(net, (x,), {"layers": layers}, found) is LEFT
    body.remove()
    assert not any(map(listeners_of, net.modules()))


@torch.no_grad()
def test_what_cannot_be_told() -> None:
    x = torch.randn(2, 5, 4)
    turns = Net(turns=True)
    assert Body(turns).record(turns, (x,), {}, check=True)[1] == "its lists of blocks take turns"
    net = Net()
    assert Body(net).record(net, (x,), {"layers": 0}, check=True)[1] == "none of its blocks was called"
    net = Net()
    for block in net.a:
        block.forward = lambda x: x.add_(1)  # its input is gone when its output is there
    for whole in (lambda x: net(x.clone()), Net(leaks=True)):
        listens = Body(whole if isinstance(whole, Net) else net)
        found = listens.record(whole, (x,), {}, check=True)[1]
        assert found == "more of its blocks is used than what comes out of the last"
