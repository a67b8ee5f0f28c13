"""The whole job, for any model: settings in, files and their sidecars out.

Our own models go to :mod:`videoaccel.jobs.generate`; here pipelines of diffusers are loaded, accelerated and called.
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from videoaccel.adapters.attach import Attachment
from videoaccel.common.devices import cpu_threads
from videoaccel.common.files import (
    atomic_write_bytes,
    atomic_write_text,
    check_creatable,
    check_file,
    make_clip_folders,
    make_folder,
)
from videoaccel.common.stages import Listener, StageClock, peak_memory
from videoaccel.common.user_warning import warn_user
from videoaccel.jobs import generate as ours
from videoaccel.jobs.generate import Clip
from videoaccel.jobs.memory_advice import memory_advice
from videoaccel.jobs.ranks import started
from videoaccel.jobs.sidecar import Sidecar, file_hash
from videoaccel.media.encoders import Frames
from videoaccel.media.sound import ENDING, write_wav
from videoaccel.media.writer import Writer, check_writable
from videoaccel.outside.arguments import Arguments, File
from videoaccel.outside.calls import called_together, seeded, worded
from videoaccel.outside.find import find_outside
from videoaccel.outside.loading import folder_of, load
from videoaccel.outside.order import OutsideOrder, Sample, check_ending, ending_of, fps_of, resolve_outside
from videoaccel.outside.outputs import Taken, medium_of_blocks, sampling_rate, taken_each
from videoaccel.outside.sidecar import acceleration, describe, identity, network, recipe
from videoaccel.outside.spreading import spread
from videoaccel.outside.watching import StepTeller, accelerated
from videoaccel.planning.prior import Prior
from videoaccel.settings.config import require
from videoaccel.settings.generate import GenerateSettings

Done = Callable[[Clip], None]


def generate(
    settings: GenerateSettings,
    *,
    listener: Listener | None = None,
    done: Done | None = None,
    origin: Sidecar | None = None,
) -> list[Path]:
    """Make clips, and a sidecar beside each; of pipelines of diffusers pictures and sound, too.

    Args:
        settings: What to make.
        listener: Told how far the work is, see :func:`videoaccel.jobs.generate.generate`. Of a pipeline of diffusers
            the stages are ``load``, ``check``, ``denoise`` (the whole call, by steps of the scheduler), ``write`` and
            ``clip``.
        done: Called after each clip that has been written.
        origin: The sidecar that the settings are from: its clip must be able to come out again.

    Where there are several ranks, all call this with the same settings.

    Returns:
        The clips' paths, prompt by prompt and sample by sample; of ranks that make clips side by side, those of this
        rank's group, and none but on its first rank, which writes them.

    Raises:
        ValueError: Settings or files do not fit; says which.
        FileNotFoundError: An input or the output's folder is not there.
        OSError: An output cannot be written.
        FloatingPointError: The clip came out as not-a-number.
        OutOfMemoryError: Memory ran out.
    """
    require(settings, GenerateSettings, who="generate")
    found = find_outside(settings)
    if found is None:
        return ours.generate(settings, listener=listener, done=done, origin=origin)
    order = resolve_outside(settings, found, ranks="together")
    if origin is None:
        Prior.given(order.settings.prior)  # that it is none is said before anything is loaded
    paths = []
    with started(order) as mesh:
        if mesh.first:
            check_files(order)
        for clip in make(order, listener=listener if mesh.first else None, origin=origin, first=mesh.first):
            paths.append(Path(clip.outputs.clip))
            if done is not None:
                done(clip)
    return paths


def check_files(order: OutsideOrder) -> None:
    """Make sure that everything can be written, before the work; the folders of a VBench run are made.

    Raises:
        OSError: Something cannot be written.
        ValueError: No file of this kind can be written.
    """
    if order.settings.vbench is not None:
        first = order.samples[0].outputs
        make_clip_folders(Path(first.clip).parent, first.sidecar.parent)
    for sample in order.samples:
        make_folder(sample.outputs.clip)
        if ending_of(sample.outputs.clip) == ENDING:
            check_creatable(sample.outputs.clip)
        else:
            check_writable(sample.outputs.clip)
        check_file(sample.outputs.sidecar)


def make(
    order: OutsideOrder, *, listener: Listener | None = None, origin: Sidecar | None = None, first: bool = True
) -> Iterator[Clip]:
    """Load a pipeline, and generate all samples of an order.

    Args:
        order: What is made.
        listener: Told how far the work is.
        origin: The sidecar that the settings are from.
        first: Whether this is the rank that writes; the others make all and give nothing.

    Raises:
        ValueError: The pipeline does not load, or refuses its arguments.
        FloatingPointError: What came out is not-a-number.
        OSError: An output cannot be written.
    """
    s = order.settings
    stage = ["start"]

    def told(name: str, done: int, total: int) -> None:
        stage[0] = name
        if listener is not None:
            listener(name, done, total)

    clock = StageClock(told, device=str(s.device))
    with memory_advice(order, lambda: stage[0]), cpu_threads(s.threads), torch.no_grad():
        with clock.stage("load"):
            pipe = load(order.found, order.kind, s)
            if order.degrees.sequence > 1:
                spread(pipe, order.degrees.sequence, torch.device(str(s.device)))
            arguments = order.told(pipe)
            if order.found.modular:
                check_ending(str(s.output), medium_of_blocks(pipe))
        if ending_of(str(s.output)) == ENDING and sampling_rate(pipe) is None:
            raise ValueError(f"nothing in a {type(pipe).__name__} says how many samples of sound a second has")
        with clock.stage("check"):
            files = [*arguments.files, *([Path(s.prior)] if s.prior else [])]
            known = identity(order, folder=folder_of(order.found), inputs=files) if first else {}
            if first:
                _compare(origin, known)
        with accelerated(pipe, order, StepTeller(told)) as fast:
            run = Run(order, pipe, arguments, fast, known, clock.seconds, writes=first)
            for batch in order.batches:
                if len(order.samples) > 1:
                    told("clip", order.samples.index(batch[0]), len(order.samples))
                yield from run.together(batch, listener=told)


@dataclass(frozen=True)
class Run:
    """A loaded pipeline at work on an order.

    Attributes:
        order: What is made.
        pipe: The pipeline.
        arguments: Of its calls.
        fast: What watches it; None of a pipeline whose networks are not known.
        identity: For sidecars: ``model`` and ``inputs`` with their hashes.
        seconds: What stages before took, for sidecars.
        writes: Whether this rank writes what it makes.
    """

    order: OutsideOrder
    pipe: Any
    arguments: Arguments
    fast: Attachment | None
    identity: Mapping[str, Any]
    seconds: Mapping[str, float]
    writes: bool = True

    def together(self, batch: Sequence[Sample], *, listener: Listener | None) -> list[Clip]:
        """Generate clips by one call, and write those that are to be.

        Args:
            batch: Which.
            listener: Told how far the work is.
        """
        order, s = self.order, self.order.settings
        device = str(s.device)
        if device.startswith("cuda"):
            torch.cuda.reset_peak_memory_stats(device)
        clock = StageClock(listener, device=device)
        call = called_together(self.arguments, [one.prompt for one in batch], [one.seed for one in batch])
        with (
            clock.stage("denoise", total=s.steps or 1),
            seeded(batch[0].seed),
            worded(order.kind.__name__, ranks=order.degrees.sequence),
        ):
            result = self.pipe(**call)
        clips = []
        for row, (sample, each) in enumerate(zip(batch, taken_each(result, len(batch)), strict=True)):
            if sample.written and self.writes:
                with clock.stage("write"):
                    output = self._write(each, sample)
                record = self._record(batch, row, output, clock)
                atomic_write_text(sample.outputs.sidecar, json.dumps(record, indent=2, ensure_ascii=False) + "\n")
                clips.append(Clip(sample.outputs, record))
        return clips

    def _record(
        self, batch: Sequence[Sample], row: int, output: Mapping[str, Any], clock: StageClock
    ) -> dict[str, Any]:
        """The sidecar of one clip of a batch."""
        sample = batch[row]
        settings = recipe(self.order, batch, row, self.fast)
        took = {name: round(seconds, 3) for name, seconds in {**self.seconds, **clock.seconds}.items()}
        made = {
            "pipeline": {
                "class": type(self.pipe).__name__,
                "arguments": plain_arguments(self.arguments.of(sample.prompt)),
            },
            "output": output,
            **self._identity(settings),
            "network": network(self.fast),
            "acceleration": acceleration(self.order, self.fast),
            "seconds": took,
            **told_of_ranks(self.order),
            "peak_memory_bytes": peak_memory(str(self.order.settings.device)),
        }
        return describe(self.order, sample, made=made, settings=settings)

    def _write(self, result: Taken, sample: Sample) -> dict[str, Any]:
        """Write the file, and what there is of sound beside it; returns what the sidecar says of them."""
        clip, rate = sample.outputs.clip, sampling_rate(self.pipe)
        if ending_of(clip) == ENDING:
            if result.sound is None or rate is None:
                raise ValueError(f"no sound came out for {clip}")
            write_wav(clip, result.sound, rate=rate)
            about = {"seconds": result.sound.shape[1] / rate, "channels": len(result.sound), "rate": rate}
            return {"file": clip, "sha256": file_hash(Path(clip)), **about}
        if result.frames is None:
            raise ValueError(f"sound came out, which {clip} cannot hold; write {ENDING}")
        fps = fps_of(self.order.settings, self.arguments.signature)
        check_ending(clip, "clip", frames=len(result.frames))
        with Writer(clip, fps=fps) as writer:
            writer.write(result.frames)
        if sample.outputs.poster is not None:
            atomic_write_bytes(sample.outputs.poster, _poster(result.frames))
        frames, height, width, _ = result.frames.shape
        found = {"file": clip, "sha256": file_hash(Path(clip)), "frames": frames, "height": height, "width": width}
        if result.sound is not None and rate is not None:
            beside = Path(clip.rstrip("/")).with_suffix(ENDING)
            write_wav(beside, result.sound, rate=rate)
            found["sound"] = {"file": str(beside), "sha256": file_hash(beside), "rate": rate}
        return {**found, "fps": fps}

    def _identity(self, settings: Mapping[str, Any]) -> dict[str, Any]:
        """Hashes; the file of measured errors is one of the inputs, also where it was found and not given."""
        found = dict(self.identity)
        if (prior := settings["prior"]) is not None and prior not in found["inputs"]:
            found["inputs"] = {**found["inputs"], prior: file_hash(Path(prior))}
        return found


def told_of_ranks(order: OutsideOrder) -> dict[str, Any]:
    """Who made it together, for the sidecar; nothing for a lone process."""
    return {} if order.degrees.sequence == 1 else {"ranks": order.degrees._asdict()}


def _poster(frames: Frames) -> bytes:
    """A frame from the middle, a jpeg."""
    data = io.BytesIO()
    Image.fromarray(frames[len(frames) // 2]).save(data, "JPEG", quality=85)
    return data.getvalue()


def plain_arguments(values: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments as JSON has them."""
    return {name: _plain_value(value) for name, value in values.items()}


def _plain_value(value: Any) -> Any:
    if isinstance(value, File):
        return f"@{value.path}"
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_plain_value(item) for item in value]
    return value


def _compare(origin: Sidecar | None, known: Mapping[str, Any]) -> None:
    """Refuse to make again what cannot come out the same; warn of what may not."""
    if origin is None:
        return
    for difference in origin.check(model=known["model"]["files"], inputs=known["inputs"]):
        warn_user(f"it may differ from that of {origin.path}: {difference}")
