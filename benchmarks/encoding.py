"""What encoding beside decoding gains: the same clips with and without the thread that encodes, in turn.

    python -m benchmarks.encoding

*Encoders*: CPU seconds of 51 frames of 480p as mp4, and of 17 as gif and as png files: smooth texture that moves, with
a little noise.
*A decoder elsewhere*: the same frames come in chunks of 17 after as long a wait as a GPU takes for them (51 frames in
0.82 s on an H200, docs/gpu.md), which costs the host nothing here. *Demo*: clips of the demo model on this CPU, whose
decoder wants the same cores; seconds of decoding and writing are those of the sidecar.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
from PIL import Image

from benchmarks.measure import Ratio, interleaved, keep
from videoaccel.jobs.generate import Run
from videoaccel.jobs.parts import encode_texts, load_pipeline
from videoaccel.jobs.resolve import resolve
from videoaccel.media.beside import Beside
from videoaccel.media.encoders import Frames
from videoaccel.media.writer import Writer
from videoaccel.settings.layers import Layer, merge

FRAMES, HEIGHT, WIDTH, CHUNK = 51, 480, 848, 17
DECODED = 0.82 * CHUNK / FRAMES  # seconds a chunk
KINDS = ("a.mp4", "a.gif", "a/")
PROMPT = "a red circle moves left on a dark blue background"


def scene() -> Frames:
    """Frames uint8 [51, 480, 848, 3]."""
    random = np.random.default_rng(0)
    coarse = Image.fromarray(random.integers(0, 256, (60, 120, 3), np.uint8))
    ground = np.asarray(coarse.resize((WIDTH + 6 * FRAMES, HEIGHT + 2 * FRAMES), Image.Resampling.BICUBIC))
    moved = np.stack([ground[2 * t : 2 * t + HEIGHT, 6 * t : 6 * t + WIDTH] for t in range(FRAMES)])
    frames: Frames = np.clip(moved + random.normal(0, 2, moved.shape), 0, 255).astype(np.uint8)
    return frames


def written(path: str, frames: Frames, *, wait: float, thread: bool) -> None:
    """A clip whose chunks come after a wait each."""
    with Writer(path, fps=24) as writer, Beside(thread=thread) as beside:
        for start in range(0, len(frames), CHUNK):
            time.sleep(wait)
            beside.do([partial(writer.write, frame[None]) for frame in frames[start : start + CHUNK]])
        beside.wait()


def demo_run(folder: str, **values: Any) -> Run:
    """The demo model, loaded."""
    given = {"prompt": PROMPT, "output": f"{folder}/demo.mp4", **values}
    order = resolve(merge([Layer(given)]))
    return Run(order, load_pipeline(order), encode_texts(order), [], {}, {})


def clip(run: Run, found: list[dict[str, float]], *, thread: bool) -> None:
    """One clip; its stages' seconds are kept."""
    again = Run(run.order, run.pipe, run.states, run.given, run.identity, run.seconds, beside=thread)
    (made,) = again.make(run.order.batches[0], listener=lambda *_: None)
    found.append(dict(made.record["seconds"]))


def paired(work: Callable[..., None], *, rounds: int) -> dict[str, Any]:
    """Median seconds with and without the thread, and their ratio."""
    one, other = interleaved([partial(work, thread=False), partial(work, thread=True)], rounds=rounds, warmup=1)
    ratio = str(Ratio.of(one, other))
    return {"in_turn": _median(one), "beside": _median(other), "in_turn_over_beside": ratio}


def _median(seconds: list[float]) -> float:
    return round(statistics.median(seconds), 3)


def _stages(found: list[dict[str, float]]) -> dict[str, float]:
    return {name: _median([one[name] for one in found]) for name in ("decode", "write")}


def demo(folder: str, *, rounds: int, **values: Any) -> dict[str, Any]:
    """Paired clips of the demo model."""
    run = demo_run(folder, **values)
    stages: dict[bool, list[dict[str, float]]] = {False: [], True: []}
    told = paired(lambda thread: clip(run, stages[thread], thread=thread), rounds=rounds)
    return {**values, **told, "stages_in_turn": _stages(stages[False][1:]), "stages_beside": _stages(stages[True][1:])}


@torch.inference_mode()
def main() -> None:
    """Measure and keep the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    rounds = parser.parse_args().rounds
    frames, found = scene(), dict[str, Any]()
    with tempfile.TemporaryDirectory() as folder:
        for kind in KINDS:
            start = time.process_time()
            written(f"{folder}/{kind}", frames if kind == "a.mp4" else frames[:CHUNK], wait=0, thread=False)
            found[kind] = round(time.process_time() - start, 2)
        waited = paired(partial(written, f"{folder}/a.mp4", frames, wait=DECODED), rounds=rounds)
        one = demo(folder, rounds=rounds, steps=4)
        long = demo(folder, rounds=rounds, steps=4, loops=4)
    size = f"{FRAMES} frames, {HEIGHT}x{WIDTH}"
    told = {
        "rounds": rounds,
        "size": size,
        "cpu_seconds": found,
        "a_decoder_elsewhere": waited,
        "demo": one,
        "demo_of_4_loops": long,
    }
    keep("encoding", told)


if __name__ == "__main__":
    main()
