"""Quality at equal speed of this project's methods and of other tools, on the same trained pipelines in the same run.

    pip install cache-dit==1.5.3  # beside videoaccel
    python -m benchmarks.peers_quality --out runs/peers

The models are ``examples/small_models/dit`` (50 steps of DDIM) and ``pixart`` (20 of DPM-Solver++). Each has one
pipeline object, on which every tool is put for a generation and taken off again; that the exact picture is then made
bit for bit is checked. Pictures are compared with those of the exact run of the same class or sentence and seed. What
methods plan with (``videoaccel.calibrate``, diffusers' MagCache) is measured first, on other kinds and seeds.
Operations are those of the transformer, counted call by call; memory is that of living tensors while a generation is
under way, beyond the exact run's. Times are of whole calls, an exact one beside each; ``--repeats 0`` leaves them out.

Every generation is a row in ``--out/MODEL.jsonl``; the same command goes on where it was stopped. Clip after clip is
made by every tool, so that a table can be had before the end: ``--report`` makes it from the rows that there are. The
record keeps what earlier runs found of models that this one does not name.
"""

import argparse
import hashlib
import json
import shlex
import sys
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from diffusers import DiffusionPipeline
from numpy.typing import NDArray

from benchmarks.measure import RESULTS, keep
from benchmarks.peer_cells import Flops, living
from benchmarks.quality_table import equal_table, record, whole_table
from benchmarks.quality_tools import Knowledge, Way, attempts, dbcache, magnitudes, ways
from examples.small_models.pixart import ways as sentences
from examples.small_models.recipe import kinds, label, still_scenes
from examples.small_models.score import ATTRIBUTES, SAMPLING
from videoaccel.calibration.calibrate import calibrate
from videoaccel.comparison.values import EXACT
from videoaccel.eval.oracle import agreement, read
from videoaccel.eval.world import Scene
from videoaccel.jobs.parts import strewn

MODELS = Path("examples/small_models")
NAMES = ("pixart", "dit")
PROMPTS, SEEDS, CALIBRATED, TIMED = 16, 2, 24, 4
OTHER_SEED = 1000
"""The first of those that are calibrated on."""

WEIGHED = (3, 9)
"""Calls of the transformer at whose beginning living tensors are counted."""

Picture = NDArray[np.uint8]


class Still(NamedTuple):
    """What is generated."""

    scene: Scene
    seed: int

    @property
    def prompt(self) -> str:
        """Without a motion, which a still does not show."""
        return sentences(self.scene)[1]


def spread(count: int, prompts: Path) -> tuple[list[Scene], list[Scene]]:
    """Scenes to compare, every other one of the file, and those to calibrate on: the ones between, then all others."""
    by_sentence = {sentences(scene)[1]: scene for scene in still_scenes(kinds(), seed=0)}
    scenes = [by_sentence.pop(line) for line in prompts.read_text().splitlines() if line]
    rest = list(by_sentence.values())
    return scenes[: 2 * count : 2], scenes[1::2] + [rest[k] for k in strewn(len(rest))]


@dataclass
class Counted:
    """What the transformer does in a generation.

    Attributes:
        flops: Of each of its calls.
        held: Bytes of living tensors, at most, where that was looked at.
    """

    flops: list[int] = field(default_factory=list)
    held: int = 0


@contextmanager
def counted(network: torch.nn.Module, *, weighing: bool) -> Iterator[Counted]:
    """Count operations in all calls of a network, those that are broken off as well."""
    seen, counters = Counted(), []

    def begin(*_: Any) -> None:
        if counters:  # a call that was left early, after its first block, of which PyTorch tells no hook
            end()
        if weighing and len(seen.flops) in WEIGHED:
            seen.held = max(seen.held, living())
        counters.append(Flops())
        counters[-1].__enter__()

    def end(*_: Any) -> None:
        counter = counters.pop()
        counter.__exit__(None, None, None)
        seen.flops.append(counter.total)

    hooks = [network.register_forward_pre_hook(begin), network.register_forward_hook(end, always_call=True)]
    try:
        yield seen
    finally:
        for hook in hooks:
            hook.remove()
        for counter in counters:  # or every later operation is counted by all that were left open
            counter.__exit__(None, None, None)


class Model:
    """A pipeline and how it is called."""

    def __init__(self, folder: Path) -> None:
        self.pipe: Any = DiffusionPipeline.from_pretrained(folder, dtype=torch.float32)
        self.pipe.set_progress_bar_config(disable=True)
        self.kind = type(self.pipe).__name__
        self.steps, self.guidance = SAMPLING[self.kind]

    def call(self, still: Still) -> dict[str, Any]:
        """Arguments."""
        options: dict[str, Any] = {"num_inference_steps": self.steps, "guidance_scale": self.guidance}
        options |= {"output_type": "np", "generator": torch.Generator().manual_seed(still.seed)}
        if self.kind == "DiTPipeline":
            return {"class_labels": [label(still.scene)], **options}
        return {"prompt": still.prompt, "use_resolution_binning": False, "clean_caption": False, **options}

    @torch.no_grad()
    def generate(self, still: Still) -> Picture:
        """[H, W, 3]."""
        picture = self.pipe(**self.call(still)).images[0]
        return np.round(np.asarray(picture) * 255).astype(np.uint8)


class Rows:
    """Lines of a file, appended to."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.all = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
        self._keys = {self._key(row) for row in self.all}

    @staticmethod
    def _key(row: Mapping[str, Any]) -> tuple[Any, ...]:
        return tuple(row.get(name) for name in ("kind", "method", "setting", "prompt", "seed", "repeat"))

    def has(self, **key: Any) -> bool:
        """Whether there is such a row."""
        return self._key(key) in self._keys

    def of(self, kind: str) -> list[dict[str, Any]]:
        """Rows of a kind."""
        return [row for row in self.all if row["kind"] == kind]

    def add(self, **row: Any) -> None:
        """Append one."""
        with self.path.open("a") as file:
            file.write(json.dumps(row) + "\n")
        self.all.append(row)
        self._keys.add(self._key(row))


def psnr(one: Picture, other: Picture) -> float:
    """Decibels; infinite of the same."""
    error = float(np.square(one.astype(np.float64) - other).mean())
    return float("inf") if not error else float(10 * np.log10(255**2 / error))


def oracle(picture: Picture, scene: Scene) -> dict[str, list[int]]:
    """By attribute what is right, and how much there is; ``still`` is right if all are."""
    found = agreement(read(picture[None], actors=len(scene.actors)), scene)
    right = all(found[name][0] == found[name][1] for name in ATTRIBUTES)
    return {**{name: list(found[name]) for name in ATTRIBUTES}, "still": [int(right), 1]}


@contextmanager
def _nothing(pipe: Any) -> Iterator[None]:
    yield


EXACTLY = Way("", EXACT, "", _nothing)
"""The pipeline as it is."""


@dataclass
class Comparison:
    """One model: what is found out first, then rows of every way.

    Attributes:
        model: The pipeline.
        rows: What has been measured.
        stills: What is compared, clip after clip.
        others: What is calibrated on.
        exact: Pictures of the exact run.
        whole: Operations of the exact run's calls of the transformer.
    """

    model: Model
    rows: Rows
    stills: Sequence[Still]
    others: Sequence[Still]
    exact: dict[Still, Picture] = field(default_factory=dict)
    whole: list[int] = field(default_factory=list)

    def known(self, prior: Path) -> Knowledge:
        """Calibrate whoever wants that, and try what diffusers offers by itself."""
        if peers():  # cache-dit patches a DiT for good, and what is calibrated is to be what is compared
            with dbcache(self.model.pipe, steps=self.model.steps, threshold=0.0):
                pass
        if not prior.exists():
            began, calls = time.perf_counter(), [self.model.call(still) for still in self.others]
            calibrate(self.model.pipe, calls=calls, out=prior)
            told = {"seconds": time.perf_counter() - began, "generations": len(calls)}
            self.rows.add(kind="calibration", method="videoaccel", setting="", **told)
        if not self.rows.of("ratios"):
            first = self.others[0]
            ratios = magnitudes(self.model.pipe, lambda: self.model.generate(first), steps=self.model.steps)
            self.rows.add(kind="ratios", method="diffusers", setting="MagCache", values=ratios)
        for name, why in attempts(self.model.pipe).items():
            if not self.rows.has(kind="attempt", method="diffusers", setting=name):
                self.rows.add(kind="attempt", method="diffusers", setting=name, why=why)
        return Knowledge(self.model.steps, prior, self.rows.of("ratios")[-1]["values"])

    def quality(self, chosen: Sequence[Way]) -> None:
        """A row of every way on every still."""
        for still in self.stills:
            self._row(EXACTLY, still)
            for way in chosen:
                self._row(way, still)

    def _row(self, way: Way, still: Still) -> None:
        key = _key(way, still, "quality", None)
        first = still == self.stills[0]
        if self.rows.has(**key) or way.setting.key in self.failed():
            return
        try:
            picture, seen, before = self._made(way, still, weighing=first)
        except Exception as error:
            self.rows.add(**key, prior="", error=f"{type(error).__name__}: {error}"[:300])
            return
        exact = self._exact(still)
        if first and way.method != EXACT and not np.array_equal(self.model.generate(still), exact):
            raise RuntimeError(f"{way.tool} {way.method} {way.name} left the pipeline other than it was")
        whole = self._of_exact(still)
        self.rows.add(
            **key,
            tool=way.tool,
            prior="",
            psnr=psnr(picture, exact) if not np.array_equal(picture, exact) else "inf",
            ssim=None,
            world=oracle(picture, still.scene),
            flops=float(sum(seen.flops)),
            calls=len(seen.flops),
            whole_calls=sum(flops >= 0.99 * max(whole) for flops in seen.flops),
            fired=way.method != EXACT and sum(seen.flops) < 0.999 * sum(whole),
            digest=hashlib.sha256(repr(seen.flops).encode()).hexdigest()[:16],
            cache_bytes=max(0, seen.held - before - self._base()) if first else 0,
            held=seen.held - before,
        )

    def failed(self) -> set[tuple[str, str]]:
        """Ways that raised on the first still: they are not tried again."""
        first = self.stills[0]
        return {
            (row["method"], row["setting"])
            for row in self.rows.of("quality")
            if "error" in row and (row["prompt"], row["seed"]) == (first.prompt, first.seed)
        }

    def _made(self, way: Way, still: Still, *, weighing: bool) -> tuple[Picture, Counted, int]:
        before = living() if weighing else 0
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with counted(self.model.pipe.transformer, weighing=weighing) as seen, way.on(self.model.pipe):
                return self.model.generate(still), seen, before

    def _exact(self, still: Still) -> Picture:
        if still not in self.exact:
            self.exact[still] = self.model.generate(still)
        return self.exact[still]

    def _of_exact(self, still: Still) -> list[int]:
        """Operations of the exact run's calls, which are the same for all stills."""
        if not self.whole:
            self.whole = self._made(EXACTLY, still, weighing=False)[1].flops
        return self.whole

    def _base(self) -> int:
        rows = [row for row in self.rows.of("quality") if row["method"] == EXACT and row.get("held")]
        return int(rows[0]["held"]) if rows else 0

    def timing(self, chosen: Sequence[Way], *, repeats: int) -> None:
        """Whole calls of every way on the first stills, an exact one beside each, all in turn; of ours the second."""
        for repeat in range(repeats):
            for still in self.stills[:TIMED]:
                for way in chosen:
                    key = _key(way, still, "timing", repeat)
                    if self.rows.has(**key) or way.setting.key in self.failed():
                        continue
                    seconds = [self._seconds(one, still) for one in (EXACTLY, way)]
                    told = {"exact_seconds": seconds[0], "seconds": seconds[1]}
                    self.rows.add(**key, prior="", plan_seconds=0.0, peak_memory=None, **told)

    def _seconds(self, way: Way, still: Still) -> float:
        with warnings.catch_warnings(), way.on(self.model.pipe):
            warnings.simplefilter("ignore")
            if way.tool == "videoaccel":  # plans are made in the first; diffusers' caches take no second
                self.model.generate(still)
            began = time.perf_counter()
            self.model.generate(still)
            return time.perf_counter() - began


def _key(way: Way, still: Still, kind: str, repeat: int | None) -> dict[str, Any]:
    told = {"method": way.method, "setting": way.name, "kind": kind, "repeat": repeat}
    return {**told, "prompt": still.prompt, "seed": still.seed}


def compared(name: str, args: argparse.Namespace) -> list[dict[str, Any]]:
    """Rows of a model, with those that were missing."""
    rows = Rows(args.out / f"{name}.jsonl")
    if args.report:
        return rows.all
    shown, others = spread(args.prompts, MODELS / "prompts.txt")
    # Each of a seed of its own: stills of one noise fail together.
    stills = [Still(scene, number) for number, scene in enumerate(shown * args.seeds)]
    calibrated = [Still(scene, OTHER_SEED + number) for number, scene in enumerate(others[:CALIBRATED])]
    comparison = Comparison(Model(MODELS / name), rows, stills, calibrated)
    chosen = [
        way
        for way in ways(comparison.known(args.out / f"{name}-prior.safetensors"))
        if not args.methods or way.method in args.methods.split(";")
    ]
    comparison.quality(chosen)
    comparison.timing(chosen, repeats=args.repeats)
    return rows.all


def peers() -> dict[str, str]:
    """Versions of the tools that are installed, beside those of every record."""
    try:
        return {"cache-dit": version("cache-dit")}
    except PackageNotFoundError:
        return {}


def kept_before() -> dict[str, Any]:
    """Models' records of earlier runs, which may have been of others."""
    file = RESULTS / "peers_quality.json"
    models: dict[str, Any] = json.loads(file.read_text())["models"] if file.exists() else {}
    return models


def told(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """A model's record, with how many stills it is of and what made it."""
    stills = {(row["prompt"], row["seed"]) for row in rows if row["kind"] == "quality"}
    return {"command": shlex.join(["python", "-m", "benchmarks.peers_quality", *sys.argv[1:]]),
            "stills": len(stills), **record(rows)}  # fmt: skip


def main() -> None:
    """Run what is missing, print the tables, keep the record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/peers"))
    parser.add_argument("--models", default=",".join(NAMES))
    parser.add_argument("--methods", default="", help="as in the table, with semicolons between; default all")
    parser.add_argument("--prompts", type=int, default=PROMPTS)
    parser.add_argument("--seeds", type=int, default=SEEDS, help="stills of each prompt")
    parser.add_argument("--repeats", type=int, default=3, help="rounds of timing; 0 for quality alone")
    parser.add_argument("--report", action="store_true", help="print tables of the rows that there are, and end")
    args = parser.parse_args()
    torch.set_num_threads(1)
    args.out.mkdir(parents=True, exist_ok=True)
    found = {name: compared(name, args) for name in args.models.split(",")}
    for name, rows in found.items():
        for by in ("flops", "latency"):
            print(f"\n{name}, PSNR (worst) at equal {by}\n\n{equal_table(rows, by=by)}")
        print(f"\n{name}\n\n{whole_table(rows)}\n")
    if not args.report:
        keep("peers_quality", {"peers": peers(), "models": {**kept_before(), **{n: told(r) for n, r in found.items()}}})


if __name__ == "__main__":
    main()
