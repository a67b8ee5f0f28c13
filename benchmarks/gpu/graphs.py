"""CUDA graphs as the product uses them: the same bits as without, milliseconds of steps and clips, memory.

Ordered by what matters most; every check stands alone, and one that fails is printed in full. Without a GPU a stand-in
that does the work again takes the place of graphs, so that everything around them runs.
"""

import time
import traceback
import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.gpu.bench import BF16, Bench
from benchmarks.gpu.faster import share
from benchmarks.gpu.stages import PROMPT, without_av
from videoaccel.generation.cuda_graph import LIMIT, CudaRecorder
from videoaccel.generation.graphs import Asked, Graphs
from videoaccel.generation.prepared import Denoising
from videoaccel.models.compiled import compile_branches
from videoaccel.models.fp8 import quantize_linears
from videoaccel.models.fused import fuse
from videoaccel.models.stdit import STDiT3
from videoaccel.parallel.layout import Layout
from videoaccel.session.policy import Session

KINDS = 8  # of METHODS that come before everything else is looked at
TINY = ("clip of the demo model, soda", "demo, weights", "step, 144p, 17 frames, kernels", "what cannot")
"""Beginnings of the checks that a small run makes."""
LATENTS = {"144p, 17 frames": (5, 18, 32), "64 pixels": (5, 8, 8)}
BETWEEN = 12.0  # seconds that a check is not begun with less than
METHODS: dict[str, dict[str, Any]] = {  # on the demo model, a method of each kind first
    "soda": {"flops_ratio": 2.0},
    "sada": {"threshold": 0.3},
    "lemica": {},
    "fora": {"slots": "trunk"},
    "pab": {},
    "delta_dit": {},
    "first_block": {"threshold": 0.25},
    "toca": {},
    "taylorseer": {},
    "teacache": {"threshold": 0.5},
    "adacache": {},
    "easycache": {"threshold": 0.3},
    "fixed_linear": {},
    "magcache": {},
    "fewer_steps": {},
    "elastic": {},
    "off": {},
    "delta_dit+sada": {"sada": {"threshold": 0.3}},
}


def graphs(bench: Bench) -> None:
    """Everything, in order, as long as there is time."""
    network, clips = _Networks(bench), _Clips(bench)
    large, small = LATENTS
    methods: list[tuple[str, Callable[[], Any]]] = [
        (f"demo, {name}", partial(clips.method, name, **fields)) for name, fields in METHODS.items()
    ]
    checks: list[tuple[str, Callable[[], Any]]] = [
        (f"step, {large}, kernels", lambda: network.step(LATENTS[large], "kernels")),
        ("clip of the demo model", clips.dense),
        ("clip of the demo model, soda at 2x", lambda: clips.timed("soda", **METHODS["soda"])),
        (f"step, {small}, kernels", lambda: network.step(LATENTS[small], "kernels")),
        (f"step, {large}, kernels and fp8", lambda: network.step(LATENTS[large], "fp8")),
        *methods[:KINDS],
        *((f"demo, {name}", check) for name, check in clips.others().items()),
        (f"step, {large}, auto", lambda: network.step(LATENTS[large], "kernels", asked="auto")),
        ("step, full size, auto", network.too_large),
        (f"step, {large}, PyTorch's modules", lambda: network.step(LATENTS[large], "torch")),
        ("what cannot be recorded", lambda: _broken(bench)),
        *methods[KINDS:],
        (f"step, {large}, compiled parts", lambda: network.step(LATENTS[large], "compiled")),
    ]
    for key, check in checks:
        if bench.tiny and not key.startswith(TINY):
            continue
        if bench.left < BETWEEN:
            bench.put(key, "no time left")
            continue
        start = time.perf_counter()
        found = _tried(bench, key, check)
        bench.put(key, {**found, "seconds": round(time.perf_counter() - start, 2)})


def _tried(bench: Bench, key: str, check: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """What a check found, with what it warned of; or its failure, printed in full and kept beside the record."""
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        try:
            found = check()
        except TimeoutError:
            raise
        except Exception as failure:  # a finding like any other
            text = traceback.format_exc()
            print(f"{key}:\n{text}", flush=True)
            if bench.file is not None:
                (bench.file.parent / f"failed_graphs_{''.join(filter(str.isalnum, key))}.txt").write_text(text)
            found = {"failed": f"{type(failure).__name__}: {' '.join(str(failure).split())[:400]}"}
            bench.alive()
    if said:
        found["warned"] = list(dict.fromkeys(str(one.message)[:300] for one in said))[:3]
    try:
        bench.clean()
    except RuntimeError as failure:
        found["cleaning"] = f"{type(failure).__name__}: {' '.join(str(failure).split())[:300]}"
    return found


def graphs_for(bench: Bench, *, width: int, asked: Asked = "on") -> Graphs:
    """The product's graphs on a GPU, a stand-in's elsewhere."""
    if bench.cuda:
        index = torch.cuda.current_device()
        return Graphs(CudaRecorder(torch.device("cuda", index), width=width), asked=asked, limit=LIMIT)
    from tests.generation.stand_in_graphs import StandIn

    return Graphs(StandIn(), asked=asked, limit=LIMIT)


def apart(found: Tensor, wanted: Tensor) -> str | float:
    """``same bits``, or the greatest difference."""
    if torch.equal(found, wanted):
        return "same bits"
    return float((found.float() - wanted.float()).abs().max())


def held(bench: Bench) -> int:
    """Bytes of the device that PyTorch holds."""
    return torch.cuda.memory_reserved() if bench.cuda else 0


class _Networks:
    """Steps of the large network with random weights."""

    def __init__(self, bench: Bench) -> None:
        self.bench = bench

    def model(self, form: str) -> STDiT3:
        """A network in a form, with the weights of the others."""
        model: STDiT3 = share(self.bench.model)
        if form != "torch":
            fuse(model)
        if form == "fp8":
            quantize_linears(model)
        if form == "compiled":
            compile_branches(model, **({} if self.bench.cuda else {"backend": "eager"}))
        return model

    def step(self, latent: Sequence[int], form: str, *, asked: Asked = "on") -> dict[str, Any]:
        """Eager against graph: milliseconds on the device and for the host, memory, and bits at three timesteps."""
        bench, model = self.bench, self.model(form)
        plain = replace(bench.denoising(latent=latent if bench.cuda else bench.latent), model=model)
        found = graphs_for(bench, width=model.width, asked=asked)
        eager, replayed = _step(plain), _step(replace(plain, graphs=found))
        wanted = [eager(i).clone() for i in (0, 9, 29)]
        bench.clean()
        before, start = held(bench), time.perf_counter()
        first = replayed(0)
        bench.wait()
        seconds = time.perf_counter() - start
        made = [first.clone(), *(replayed(i).clone() for i in (9, 29))]
        return {
            "eager ms": bench.ms(lambda: eager(3), runs=5, warm=1),
            "graph ms": bench.ms(lambda: replayed(3), runs=5, warm=1),
            "host ms": bench.host_ms(lambda: replayed(3)),
            "bits": [apart(a, b) for a, b in zip(made, wanted, strict=True)],
            "eager again": apart(eager(9), wanted[1]),
            "first s": round(seconds, 2),
            "MiB held": round((held(bench) - before) / 2**20, 1),
            "told": found.told(),
        }

    def too_large(self) -> dict[str, Any]:
        """A call of full size runs as it is."""
        bench = self.bench
        found = graphs_for(bench, width=bench.model.width, asked="auto")
        if not bench.cuda:
            found.limit = 1
        _step(replace(bench.denoising(), graphs=found))(0)
        return {"told": found.told()}


def _step(denoising: Denoising) -> Callable[[int], Tensor]:
    """One guided network call at a step, of a latent that is another in every step."""
    session = Session(denoising.job(), mix=denoising.layout.mix)
    network = denoising.network_of(session)

    def run(i: int) -> Tensor:
        return torch.cat(list(network.at(denoising.z * (1 + i / 100), denoising.timesteps[i], None)().values()))

    return run


class _Clips:
    """Latents of the demo model, through its pipeline."""

    def __init__(self, bench: Bench) -> None:
        self.bench, self._pipe = bench, None
        self.steps = 30 if bench.cuda else 6

    @property
    def pipe(self) -> Any:
        """The pipeline, tuned as it is by default; graphs are put on it by each check."""
        if self._pipe is None:
            without_av()
            from videoaccel.generation.pipeline import VideoPipeline

            pipe: Any = VideoPipeline.from_pretrained("demo").to(self.bench.device).tune()
            pipe.set_progress_bar_config(disable=True)
            self._pipe = pipe
            self.bench.put("demo runs with", vars(pipe.tuned))
        return self._pipe

    def latents(self, found: Graphs | None, **options: Any) -> tuple[Tensor, float]:
        """A clip's latents, and the seconds that they took."""
        pipe = self.pipe
        pipe.graphs = found
        size = {} if self.bench.cuda else {"height": 32, "width": 32, "num_frames": 5}
        request = pipe.request(PROMPT, **{"seed": 1, "num_inference_steps": self.steps, **size, **options})
        self.bench.wait()
        start = time.perf_counter()
        made = pipe.latents(request)
        self.bench.wait()
        return made, time.perf_counter() - start

    def graphs(self, asked: Asked = "on") -> Graphs:
        """New graphs for the demo's network."""
        return graphs_for(self.bench, width=self.pipe.transformer.width, asked=asked)

    def dense(self) -> dict[str, Any]:
        """Without a method: with graphs, and by ``auto``."""
        self.pipe.accelerate(None)
        return {**self._times("on"), "auto": self._times("auto")}

    def timed(self, name: str, **fields: Any) -> dict[str, Any]:
        """With a method."""
        self.pipe.accelerate(name, foreign_prior=True, **fields)
        return self._times("on")

    def _times(self, asked: Asked) -> dict[str, Any]:
        found = self.graphs(asked)
        self.latents(None)
        wanted, _ = self.latents(None)
        eager = min(self.latents(None)[1] for _ in range(2))
        self.bench.clean()
        before = held(self.bench)
        first, recording = self.latents(found)
        told, taken = found.told(), held(self.bench) - before
        second, _ = self.latents(found)
        graph = min(self.latents(found)[1] for _ in range(3))
        return {
            "eager s": round(eager, 4),
            "graph s": round(graph, 4),
            "first clip s": round(recording, 3),
            "MiB held": round(taken / 2**20, 1),
            "bits": [apart(first, wanted), apart(second, wanted)],
            "told": told,
            "then": found.told(),
        }

    def method(self, name: str, **fields: Any) -> dict[str, Any]:
        """A clip with a method, without graphs and twice with; seconds of the last of each."""
        self.pipe.accelerate(name, foreign_prior=True, **fields)
        return self._same()

    def _same(self, found: Graphs | None = None, **options: Any) -> dict[str, Any]:
        found = self.graphs() if found is None else found
        wanted, _ = self.latents(None, **options)
        _, eager = self.latents(None, **options)
        first, _ = self.latents(found, **options)
        told = found.told()
        second, graph = self.latents(found, **options)
        seconds = [round(eager, 4), round(graph, 4)]
        return {"bits": [apart(first, wanted), apart(second, wanted)], "eager, graph s": seconds, "told": told}

    def others(self) -> dict[str, Callable[[], Any]]:
        """Other calls than the plainest."""
        return {
            "without guidance": partial(self._plainly, guidance_scale=1.0),
            "two clips of a batch, sada": self._batch,
            "a given first frame": self._given,
            "sizes in turn, two kept": self._in_turn,
            "weights changed in place and moved": self._weights,
            "bfloat16": self._low,
        }

    def _plainly(self, **options: Any) -> dict[str, Any]:
        self.pipe.accelerate(None)
        return self._same(**options)

    def _batch(self) -> dict[str, Any]:
        self.pipe.accelerate("sada", threshold=0.3)
        return self._same(num_videos_per_prompt=2)

    def _given(self) -> dict[str, Any]:
        from videoaccel.generation.references import first_frame

        side = 64 if self.bench.cuda else 32
        picture = torch.linspace(-1, 0.5, side).expand(3, 1, side, side)
        return self._plainly(references=first_frame(picture))

    def _in_turn(self) -> dict[str, Any]:
        self.pipe.accelerate(None)
        found = self.graphs()
        found.most = 2
        made: dict[str, Any] = {}
        for turn, frames in enumerate((5, 9, 17, 5)):
            made[f"{turn}: {frames} frames"] = self._same(found, num_frames=frames, num_inference_steps=4)
        return {key: [one["bits"], one["told"]] for key, one in made.items()} | {"kept": found.kept}

    def _weights(self) -> dict[str, Any]:
        pipe = self.pipe
        pipe.accelerate(None)
        found, layer = self.graphs(), pipe.transformer.spatial_blocks[0].mlp.fc1
        before = layer.weight.detach().clone()
        made = {"as they are": self._same(found, num_inference_steps=3)["bits"]}
        layer.weight.data.mul_(1.1)
        made["in place"] = self._same(found, num_inference_steps=3)["bits"]
        layer.weight = nn.Parameter(before.clone(), requires_grad=False)
        moved = self._same(found, num_inference_steps=3)
        return {**made, "another tensor": [moved["bits"], moved["told"]]}

    def _low(self) -> dict[str, Any]:
        pipe = self.pipe
        pipe.accelerate(None)
        found = self.graphs()
        first = self._same(found)["bits"]
        pipe.to(BF16)
        try:
            return {"float32": first, **self._same(found)}
        finally:
            self._pipe = None  # rounded weights are others, and priors know theirs


class _Asking(Layout):
    """A layout that reads a number from the device, which cannot be recorded."""

    def mix(self, site: Any, branch: Any, h: Tensor, cond: Any, **options: Any) -> Tensor:
        """See :meth:`Layout.mix`."""
        if float(h.float().sum()) == 0.5:
            return h
        return super().mix(site, branch, h, cond, **options)


def _broken(bench: Bench) -> dict[str, Any]:
    """A call that waits for the device: recording fails, is said, and the call has the bits that it should have."""
    small = bench.denoising(latent=LATENTS["64 pixels"] if bench.cuda else bench.latent)
    found = graphs_for(bench, width=bench.model.width)
    wanted = _step(small)(3)
    asking = _step(replace(small, layout=_Asking(), graphs=found))
    made, again = asking(3).clone(), asking(3)
    sound = graphs_for(bench, width=bench.model.width)
    after = _step(replace(small, graphs=sound))
    return {
        "bits": [apart(made, wanted), apart(again, wanted)],
        "told": found.told(),
        "a sound one after it": [apart(after(3).clone(), wanted), apart(after(3), wanted), sound.told()],
        "random numbers after it": torch.rand(2, device=bench.device).isfinite().all().item(),
    }
