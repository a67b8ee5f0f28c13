"""Recorded calls give the bits of calls that run, for every kind of method and request; or run, and say why.

A stand-in does the work again in place of a CUDA graph; all around it is the product's.
"""

import warnings
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.generation.stand_in_graphs import Again, StandIn, stand_in
from tests.models.table import NETWORKS
from tests.parallel.work import job_of
from tests.policies.test_decisions import KNOWN, PROMPT, SHAPE, SMALL, SOME_FIRE, load
from tests.session.test_host import Counter
from tests.tiny_pipeline import tiny_pipeline
from videoaccel.generation.cuda_graph import why_no_graphs
from videoaccel.generation.graphs import Graphs, why_not_recorded
from videoaccel.generation.pipeline import VideoPipeline
from videoaccel.generation.places import Places, place_for, signature
from videoaccel.generation.references import first_frame
from videoaccel.generation.replay import INSIDE, Replay
from videoaccel.models.compiled import compile_branches
from videoaccel.parallel.layout import Layout
from videoaccel.parallel.mesh import Mesh
from videoaccel.policies._trunk import TrunkSession
from videoaccel.session.actions import COMPUTE
from videoaccel.session.policy import Session

WHOLE = {"exact": 12, "soda": 6, "sada": 9, "easycache": 5, "fixed_linear": 7, "fewer_steps": 6}
"""No method, and methods that decide about steps, with the calls of 12 steps that they make."""

BLOCKS = {"lemica": 1, "fora-sada": 1, "first_block": 2, "delta_dit": 5, "delta_dit+sada": 5}
"""Methods that decide about the stack of blocks, and pieces of it that they have recorded."""

MODULES = ("adacache", "off", "pab", "toca")
"""Methods that decide about modules, or look at one; `off` is there to ask at each of them."""

QUICK = {"soda", "sada", "lemica", "delta_dit+sada", "adacache"}


@pytest.fixture(scope="module")
def demo() -> VideoPipeline:
    return load()


@pytest.fixture
def pipe() -> VideoPipeline:
    return tiny_pipeline()


def latents(pipe: VideoPipeline, graphs: Graphs | None, **options: Any) -> Tensor:
    pipe.graphs = graphs
    return pipe.latents(pipe.request("a red circle", **{"seed": 3, **options}))


def both(pipe: VideoPipeline, graphs: Graphs, **options: Any) -> dict[str, Any]:
    """What a clip told of graphs that has the bits of one without."""
    wanted = latents(pipe, None, **options)
    assert torch.equal(latents(pipe, graphs, **options), wanted)
    return graphs.told()


@pytest.mark.parametrize(
    "name",
    [
        name if name in QUICK else pytest.param(name, marks=pytest.mark.slow)
        for name in sorted(KNOWN.keys() | {"exact"})
        if name not in ("soda-published", "soda-dit-ddim", "soda-dit-ddpm", "soda-pixart-7", "soda-pixart-8")
    ],
)
def test_every_method_keeps_its_bits(demo: VideoPipeline, name: str) -> None:
    noise = torch.randn(SHAPE, generator=torch.Generator().manual_seed(1))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        given = {} if name == "exact" else {"foreign_prior": True, **SOME_FIRE.get(name, {})}
        demo.accelerate(None if name == "exact" else name, **given)
        made, sessions = [], list[Any]()
        for graphs in (None, stand_in()):
            demo.graphs = graphs
            maker = demo._maker(demo.request(PROMPT, latents=noise, **SMALL), None)
            with torch.inference_mode():
                made.append(maker.latents(maker.request.references))
            sessions += maker.sessions
    assert torch.equal(*made)
    assert sessions[0].digest() == sessions[1].digest()
    assert graphs is not None
    if name in WHOLE:
        assert graphs.told() == {"recorded": 1, "replayed": WHOLE[name]}
    if name in BLOCKS:
        assert graphs.told().keys() == {"recorded", "replayed"}
        assert graphs.recorded == BLOCKS[name]
    if name == "lemica":
        computed = sum(action == COMPUTE for step in sessions[1].trace for action in step.values())
        assert graphs.replayed == computed == 6
    if name in MODULES:
        assert graphs.told() == {"plain": {INSIDE: 12}}


class Strict(StandIn):
    """Records only what asks nothing of the host and is sent nothing from it, as a CUDA graph does."""

    def record(self, work: Callable[[], Tensor]) -> Again:
        with Counter() as counter:
            work()
        assert (counter.reads, counter.sends) == (0, 0)
        return super().record(work)


@pytest.mark.parametrize("kind", [Session, TrunkSession])
@pytest.mark.parametrize("given", [False, True])
@pytest.mark.parametrize("name", NETWORKS)
@torch.inference_mode()
def test_every_network_can_be_recorded(name: str, given: bool, kind: type[Session]) -> None:
    """Whole and as a stretch of blocks, on latents, texts and masks of their own in every call."""
    if given and not NETWORKS[name].make(1).keeps_frames:
        pytest.skip("it keeps no given frames")
    row, graphs = NETWORKS[name], Graphs(Strict(), asked="on")
    model, size = row.make(2), (row.frames, 8, 8)
    graphs.check(model, torch.device("cpu"))
    _, rows, columns = model.token_grid(size)
    for seed in (1, 2):
        inputs = row.inputs(size, seed=seed, **({"given": given} if name == "stdit" else {}))
        context = model.prepare(**{key: inputs[key] for key in row.shared}, latent_size=size)
        call = inputs["x"], inputs["timestep"], inputs.get("x_mask"), context
        session = kind(job_of(model, Layout(), rows * columns, len(inputs["x"])))
        session.begin(0)
        replay = Replay(graphs, model=model, layout=Layout(), job=session.job, session=session)
        wanted = model(call[0], call[1], x_mask=call[2], context=context)
        assert torch.equal(replay.call(session, session.run, *call), wanted)
    assert graphs.told() == {"recorded": 1, "replayed": 2}


def test_other_requests(pipe: VideoPipeline) -> None:
    """Sizes in turn, without guidance, a given frame, batches: graphs of their own, and the old ones again."""
    graphs = stand_in()
    once = {"recorded": 1, "replayed": 3}
    picture = torch.linspace(-1, 0.5, 32).expand(3, 1, 32, 32)
    assert both(pipe, graphs) == once
    assert both(pipe, graphs, num_frames=5) == once
    assert both(pipe, graphs, guidance_scale=1.0) == once
    assert both(pipe, graphs, references=first_frame(picture)) == once
    assert both(pipe, graphs, num_videos_per_prompt=2) == once
    assert both(pipe, graphs, seed=4) == {"replayed": 3}
    assert both(pipe, graphs, references=first_frame(-picture), num_inference_steps=4) == {"replayed": 4}
    assert graphs.kept == 5


def test_texts_come_to_their_places(pipe: VideoPipeline) -> None:
    graphs = stand_in()
    made = []
    for text in ("a red circle", "a cat meows x"):
        pipe.graphs = graphs
        made.append(pipe.latents(pipe.request(text, seed=3)))
        pipe.graphs = None
        assert torch.equal(made[-1], pipe.latents(pipe.request(text, seed=3)))
    assert not torch.equal(*made)


def test_the_oldest_goes(pipe: VideoPipeline) -> None:
    graphs = stand_in(most=2)
    for frames in (5, 9, 5, 17):
        told = both(pipe, graphs, num_frames=frames)
    assert told == {"recorded": 1, "replayed": 3, "dropped": 1}
    assert both(pipe, graphs, num_frames=5) == {"replayed": 3}, "it was used after the one of 9 frames"
    assert isinstance(graphs.recorder, StandIn)
    assert [made.released for made in graphs.recorder.made] == [False, True, False]


def _in_place(pipe: VideoPipeline) -> None:
    pipe.transformer.spatial_blocks[0].mlp.fc1.weight.data.mul_(1.5)


def _moved(pipe: VideoPipeline) -> None:
    layer = pipe.transformer.spatial_blocks[0].mlp.fc1
    layer.weight = nn.Parameter(1.5 * layer.weight.detach())


def _other_form(pipe: VideoPipeline) -> None:
    torch.compiler.reset()
    compile_branches(pipe.transformer, backend="eager")


@pytest.mark.parametrize(
    ("change", "stays"),
    [
        (_in_place, True),
        (_moved, False),
        (lambda pipe: pipe.to(torch.bfloat16), False),
        pytest.param(_other_form, False, marks=pytest.mark.slow),
    ],
    ids=["in place", "moved", "another type", "another form"],
)
def test_changed_weights(pipe: VideoPipeline, change: Callable[[VideoPipeline], None], stays: bool) -> None:
    graphs = stand_in()
    before = latents(pipe, graphs)
    change(pipe)
    told = both(pipe, graphs)
    assert told["replayed"] == 3
    assert ("recorded" not in told) == stays
    assert graphs.kept == 1
    assert change is _other_form or not torch.equal(latents(pipe, graphs), before)


def test_weights_changed_by_a_callback(pipe: VideoPipeline) -> None:
    def tell(pipeline: Any, step: int, timestep: Tensor, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        if step == 0:
            _moved(pipe)
        return tensors

    before = pipe.transformer.spatial_blocks[0].mlp.fc1.weight
    made = []
    for graphs in (None, stand_in()):
        pipe.transformer.spatial_blocks[0].mlp.fc1.weight = before
        made.append(latents(pipe, graphs, callback_on_step_end=tell))
    assert torch.equal(*made)
    assert graphs is not None
    assert graphs.told() == {"recorded": 2, "replayed": 3, "dropped": 1}


def test_what_cannot_be_recorded_runs_and_is_said(pipe: VideoPipeline) -> None:
    graphs = stand_in()
    assert isinstance(graphs.recorder, StandIn)
    graphs.recorder.failure = RuntimeError("operation not permitted when stream is capturing")
    wanted = latents(pipe, None)
    with pytest.warns(UserWarning) as said:
        assert torch.equal(latents(pipe, graphs), wanted)
    assert [str(one.message)[:70] for one in said] == [
        "CUDA graphs are not used: recording failed: RuntimeError: operation no",
        "not all was run by `graphs=on`: recording failed: RuntimeError: operat",
    ]
    reason = "recording failed: RuntimeError: operation not permitted when stream is capturing"
    assert graphs.told() == {"plain": {reason: 3}}
    graphs.recorder.failure = None
    graphs.asked = "auto"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert torch.equal(latents(pipe, graphs), wanted), "and nothing is tried again, or said again"
    assert graphs.told() == {"plain": {reason: 3}}


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"times": (2.0, 1.99)}, "a graph gains too little: 2.0 ms in place of 2.0"),
        ({"room": "no room"}, "no room"),
        ({"limit": 1}, "a call is large enough to keep the device busy"),
    ],
)
def test_auto_takes_what_gains(pipe: VideoPipeline, fields: dict[str, Any], reason: str) -> None:
    assert both(pipe, stand_in(asked="auto")) == {"recorded": 1, "replayed": 3}
    graphs = stand_in(asked="auto", **fields)
    assert both(pipe, graphs) == {"plain": {reason: 3}}
    made = graphs.recorder.made  # type: ignore[attr-defined]
    assert both(pipe, graphs, seed=4) == {"plain": {reason: 3}}
    assert len(made) == ("times" in fields), "decided once"
    assert all(one.released for one in made)
    assert both(pipe, stand_in(**fields)) == {"recorded": 1, "replayed": 3}, "`on` asks nothing"


def test_networks_that_are_not_recorded(pipe: VideoPipeline) -> None:
    graphs = stand_in(asked="auto")
    handle = pipe.transformer.spatial_blocks[0].register_forward_hook(lambda *_: None)
    assert both(pipe, graphs) == {"plain": {"modules have hooks, which a graph would not call": 3}}
    handle.remove()
    pipe.transformer.train()
    assert both(pipe, graphs) == {"plain": {"the network is in training mode": 3}}
    pipe.transformer.eval()
    graphs.recorder.device = torch.device("cuda", 0)
    assert both(pipe, graphs) == {"plain": {"it was tuned for cuda:0": 3}}


def test_gradients_are_not_recorded(pipe: VideoPipeline) -> None:
    pipe.graphs = graphs = stand_in()
    with torch.inference_mode():
        denoising = pipe.denoising(pipe.request("a red circle", seed=3))
    with pytest.raises(RuntimeError, match=r"[Ii]nference tensor"), torch.enable_grad():
        denoising.denoise(pipe._maker(pipe.request("a red circle"), None)._session(denoising))
    assert graphs.told() == {"plain": {"gradients are asked for": 1}}


def test_ranks_take_graphs_by_name_alone(pipe: VideoPipeline) -> None:
    for asked, kept in (("auto", False), ("on", True)):
        pipe.graphs = stand_in(asked=asked)
        pipe.mesh = Mesh(clip=SimpleNamespace(size=2))  # type: ignore[arg-type]
        assert (pipe._maker(pipe.request("a red circle"), None).graphs is not None) == kept


def test_moving_and_tuning_drop_graphs(pipe: VideoPipeline) -> None:
    graphs = stand_in()
    latents(pipe, graphs)
    pipe.to("cpu")
    assert graphs.kept == 0
    latents(pipe, graphs)
    pipe.tune()
    assert graphs.kept == 0
    assert pipe.graphs is None, "a CPU has none"
    with pytest.raises(ValueError, match=r"`graphs=on` cannot run here: they need a CUDA device"):
        pipe.tune(graphs="on")


def test_places_are_laid_out_as_what_they_hold() -> None:
    k, v = torch.arange(48.0).view(2, 3, 2, 4).unbind(2)
    row = torch.tensor([[1.0, 2.0]]).expand(3, 2)
    places = Places((k, None), (v, row, 7))
    assert [place.stride() for place in (*places.moving[:1], *places.fixed[:2])] == [k.stride(), v.stride(), (0, 1)]
    assert torch.equal(places.moving[0], k)
    assert torch.equal(places.fixed[1], row)
    assert places.fixed[2] == 7
    places.take((k + 1, None), (v, row, 7))
    assert torch.equal(places.moving[0], k + 1)
    other = v * 2
    places.take((k, None), (other, row, 7))
    assert torch.equal(places.fixed[0], other)
    assert place_for(k).stride() == k.stride()


def test_signatures_tell_calls_apart() -> None:
    x = torch.zeros(2, 3)
    different = [x, x.double(), x.T, torch.zeros(3, 2), (x,), (x, None), (x, 1), None, [x]]
    assert len({signature(one) for one in different}) == len(different)
    assert signature((x, None)) == signature((torch.ones(2, 3), None))
    with pytest.raises(TypeError, match="a function among a call's arguments"):
        signature((x, lambda: None))


def test_whether_anything_can_be_recorded_is_tried() -> None:
    """What `doctor` says; on a machine without a GPU, that they need one."""

    class Blind(Again):
        def replay(self) -> None:
            pass

    class Wrong(StandIn):
        def record(self, work: Callable[[], Tensor]) -> Again:
            return Blind(work)

    broken = StandIn()
    broken.failure = RuntimeError("operation not permitted")
    found = [why_not_recorded(recorder) for recorder in (StandIn(), broken, Wrong())]
    wrong = "what is replayed is not what was recorded"
    assert found == [None, "recording fails: RuntimeError: operation not permitted", wrong]
    assert why_no_graphs(torch.device("cpu")) == "they need a CUDA device"
