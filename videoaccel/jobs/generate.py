"""The whole job: settings in, clips and their sidecars on disk.

Text is encoded first, with only the text encoder in memory, which is let go of before the other networks are loaded.
Decoded frames go straight to the file: a long clip is never in memory whole.

Shape legend: T frames, H, W pixels.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from videoaccel.common.devices import cpu_threads
from videoaccel.common.files import (
    atomic_write_bytes,
    atomic_write_text,
    check_file,
    make_clip_folders,
    make_folder,
    sweep_parts,
)
from videoaccel.common.stages import Listener, StageClock, peak_memory
from videoaccel.common.user_warning import warn_user
from videoaccel.generation.cache_memory import coarsened
from videoaccel.generation.pipeline import VideoPipeline
from videoaccel.generation.request import Request
from videoaccel.jobs.clip_file import ClipFile
from videoaccel.jobs.explanation import Explanation, explain, gained_nothing
from videoaccel.jobs.memory_advice import memory_advice
from videoaccel.jobs.parts import encode_texts, load_pipeline, read_given, references_of
from videoaccel.jobs.ranks import started, told_of_ranks
from videoaccel.jobs.resolve import WorkOrder, resolve
from videoaccel.jobs.samples import Outputs, Sample
from videoaccel.jobs.sidecar import Sidecar, describe, file_hash, model_files, model_hash, titles
from videoaccel.jobs.tables import check_tables
from videoaccel.media.beside import Beside
from videoaccel.media.encoders import Frames
from videoaccel.media.reader import to_uint8
from videoaccel.media.space import check_space
from videoaccel.media.writer import Writer, check_writable
from videoaccel.planning.picture import draw
from videoaccel.planning.prior import Prior
from videoaccel.session.costs import flops_share
from videoaccel.session.policy import Session
from videoaccel.settings.generate import GenerateSettings
from videoaccel.text.encoder import PromptStates


@dataclass(frozen=True)
class Clip:
    """A finished clip.

    Attributes:
        outputs: Its files.
        record: What its sidecar says.
    """

    outputs: Outputs
    record: Mapping[str, Any]


def generate(
    settings: GenerateSettings,
    *,
    listener: Listener | None = None,
    done: Callable[[Clip], None] | None = None,
    origin: Sidecar | None = None,
) -> list[Path]:
    """Make clips, and a sidecar beside each.

    Args:
        settings: What to make.
        listener: Told how far the work is, see :data:`videoaccel.common.stages.Listener`. Stages are ``text``,
            ``load``, ``check``, ``references``, ``prepare``, ``compile``, ``denoise``, ``decode`` and ``write``; where
            there are several clips, ``clip`` comes before each batch and counts those that are done.
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
    order = resolve(settings)
    check_tables(order)
    paths: list[Path] = []
    with started(order) as mesh, torch.inference_mode():
        told = _Told(listener if mesh.first else None)
        clock = StageClock(told, device=str(order.settings.device))
        with memory_advice(order, told.where), cpu_threads(order.settings.threads):
            if mesh.leads:
                check_files(order)
            given = read_given(order)
            with clock.stage("text"):  # once, however many ranks there are
                states = mesh.everyone.same(encode_texts(order) if mesh.first else None)
            with clock.stage("load"):
                pipe = load_pipeline(order).parallelize(mesh)
            with clock.stage("check"):
                identity = _identity(order, origin) if mesh.leads else {}
            run = Run(order, pipe, states, given, identity, clock.seconds)
            batches = order.batches[mesh.replica :: order.degrees.data]
            count = sum(sample.outputs is not None for batch in batches for sample in batch)
            for batch in batches:
                if len(order.outputs) > 1:
                    told("clip", len(paths), count)
                for clip in run.make(batch, listener=told):
                    paths.append(Path(clip.outputs.clip))
                    if done is not None:
                        done(clip)
    return paths


def check_files(order: WorkOrder) -> None:
    """Make sure that everything can be written, before the work; the folders of a VBench run are made.

    Raises:
        OSError: Something cannot be written.
        ValueError: No file of this kind can be written.
    """
    frames = (order.settings.frames or 0) * order.settings.loops
    check_space([one.clip for one in order.outputs], frames=frames, height=order.height, width=order.width)
    if order.settings.vbench is not None:
        make_clip_folders(Path(order.outputs[0].clip).parent, order.outputs[0].sidecar.parent)
    for outputs in order.outputs:
        make_folder(outputs.clip)
        check_writable(outputs.clip)
        for path in outputs.all:
            sweep_parts(path)
        for path in outputs.all[1:]:
            check_file(path)


@dataclass
class _Told:
    """Passes progress on, and knows the stage in which something went wrong."""

    listener: Listener | None
    stage: str = "start"

    def where(self) -> str:
        """The stage."""
        return self.stage

    def __call__(self, stage: str, done: int, total: int) -> None:
        self.stage = stage
        if self.listener is not None:
            self.listener(stage, done, total)


@dataclass(frozen=True)
class Run:
    """Loaded networks at work on a work order.

    Attributes:
        order: What is made.
        pipe: The networks.
        states: Text states by text, one row each.
        given: Pictures and clips, see `videoaccel.jobs.parts.read_given`.
        identity: For sidecars: ``model`` and ``inputs`` with their hashes.
        seconds: What stages before took, for sidecars.
        beside: Encode frames while the next ones are decoded; False does one after the other, for the same files.
    """

    order: WorkOrder
    pipe: VideoPipeline
    states: Mapping[str, PromptStates]
    given: Sequence[Tensor]
    identity: Mapping[str, Any]
    seconds: Mapping[str, float]
    beside: bool = True

    def make(self, batch: Sequence[Sample], *, listener: Listener) -> Iterator[Clip]:
        """Generate one batch and write its clips.

        Args:
            batch: Samples of the order that belong together.
            listener: Told how far the work is.

        Raises:
            FloatingPointError: A clip came out as not-a-number.
            OSError: An output cannot be written.
        """
        order, s = self.order, self.order.settings
        device = str(s.device)
        if device.startswith("cuda"):
            torch.cuda.reset_peak_memory_stats(device)
        clock = StageClock(listener, device=device)
        mesh = self.pipe.mesh
        rows = {row: sample.outputs for row, sample in enumerate(batch) if sample.outputs and mesh.leads}
        with ExitStack() as stack:
            assert s.fps is not None
            files = {
                row: ClipFile(stack.enter_context(Writer(out.clip, fps=s.fps)), order) for row, out in rows.items()
            }
            beside = stack.enter_context(Beside(thread=self.beside))  # it is over before the files are closed
            sessions: list[Session] = []
            request = requested(order, batch, pipe=self.pipe, states=self.states, given=self.given)
            spoilt: Exception | None = None
            for chunk in self.pipe.stream(request, clock=clock, sessions=sessions):
                with clock.stage("write"):
                    try:
                        if spoilt is None:
                            frames = {row: _frames(chunk[row]) for row in files}
                            beside.do([partial(files[row].add, frame) for row in files for frame in frames[row]])
                    except Exception as error:
                        if mesh.clip.size == 1:
                            raise
                        spoilt = error  # the other ranks count on this one until the last chunk
            if spoilt is not None:
                raise spoilt
            with clock.stage("write"):
                beside.wait()
                stack.close()
        explained = [_explain(order, session) for session in sessions] if s.explain and mesh.leads else []
        if mesh.leads:
            _warn(order, sessions, explained)
        took = {name: round(seconds, 3) for name, seconds in {**self.seconds, **clock.seconds}.items()}
        for row, outputs in rows.items():
            made = {
                "output": files[row].describe(outputs.clip, fps=s.fps),
                **self.identity,
                "networks": self._networks(),
                "acceleration": _acceleration(order, sessions, explained),
                "seconds": took,
                "peak_memory_bytes": peak_memory(device),
                **told_of_ranks(order, mesh),
            }
            record = describe(order, batch, row, made=made)
            with _or_no_clip(outputs.clip):
                atomic_write_text(outputs.sidecar, json.dumps(record, indent=2, ensure_ascii=False) + "\n")
            if outputs.sheet is not None:
                atomic_write_bytes(outputs.sheet, files[row].sheet())
            for path, explanation in zip(outputs.explained, explained, strict=True):
                draw(explanation.report, path, errors=explanation.errors, guidance=explanation.guidance)
            if outputs.poster is not None:
                atomic_write_bytes(outputs.poster, files[row].poster())
            yield Clip(outputs, record)

    def _networks(self) -> dict[str, Any]:
        """What the networks ran as."""
        graphs = self.pipe.graphs
        return {**asdict(self.pipe.tuned), **({} if graphs is None else {"graph_calls": graphs.told()})}


@contextmanager
def _or_no_clip(clip: str) -> Iterator[None]:
    """A clip of which nobody could tell how it was made does not stay."""
    try:
        yield
    except BaseException:
        path = Path(clip)
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)
        raise


def requested(
    order: WorkOrder,
    batch: Sequence[Sample],
    *,
    pipe: VideoPipeline,
    states: Mapping[str, PromptStates],
    given: Sequence[Tensor] = (),
    **more: Any,
) -> Request:
    """What the pipeline is asked for, for one batch of an order.

    Args:
        order: The run.
        batch: Samples that are made together.
        pipe: The pipeline.
        states: Of all texts.
        given: Pictures and clips to condition on.
        **more: Further arguments of :meth:`VideoPipeline.request`.
    """
    s = order.settings
    texts = [[sample.texts[loop] for sample in batch] for loop in range(s.loops)]
    return pipe.request(
        prompt_states=[PromptStates.cat([states[text] for text in row]) for row in texts],
        negative_prompt_states=None if order.negative is None else states[order.negative],
        empty_prompt_states=states.get(""),
        height=order.height,
        width=order.width,
        num_frames=s.frames,
        fps=s.fps,
        num_inference_steps=s.steps,
        guidance_scale=s.guidance,
        seed=[sample.seed for sample in batch],
        references=[references_of(sample, given, order=order, pipe=pipe) for sample in batch],
        loops=s.loops,
        condition_latents=s.condition_latents,
        condition_edit=s.condition_edit,
        attention_backend=s.attention,
        policy=order.policy,
        prior=None if s.prior is None else Prior.load(s.prior),
        foreign_prior=s.allow_foreign_prior,
        cache_memory=s.cache_memory,
        sequence_parallel=s.sequence_parallel,
        explain=s.explain,
        **more,
    )


def _explain(order: WorkOrder, session: Session) -> Explanation:
    """What the method did."""
    assert order.policy is not None and order.settings.steps is not None
    policy = session.made_by or order.policy
    return explain(session, method=policy.name, steps=order.settings.steps, fields=policy.model_dump(mode="json"))


def _warn(order: WorkOrder, sessions: Sequence[Session], explained: Sequence[Explanation]) -> None:
    """Say what looks wrong; that a method gained nothing also where nobody asked for an explanation."""
    assert order.settings.steps is not None
    found = [warning for explanation in explained for warning in explanation.warnings]
    if not explained and order.policy is not None:
        name, steps = order.policy.name, order.settings.steps
        found = [warning for session in sessions for warning in gained_nothing(session, method=name, steps=steps)]
    for warning in dict.fromkeys(found):
        warn_user(warning)


def _acceleration(
    order: WorkOrder, sessions: Sequence[Session], explained: Sequence[Explanation]
) -> dict[str, Any] | None:
    """What was decided, for the sidecar; None without a method."""
    if order.policy is None:
        return None
    return {
        "method": order.policy.name,
        **titles(order.settings, order.policy),
        "fields": (sessions[0].made_by or order.policy).model_dump(mode="json"),
        **({"coarser_for_cache_memory": changed} if (changed := coarsened(order.policy, sessions[0])) else {}),
        "loops": [
            {
                "steps": len(session.trace),
                "network_calls": round(sum(session.shares), 3),
                "actions": session.counts(),
                "decisions": session.digest(),
                **({} if session.foretold_bytes is None else {"cache_foretold_bytes": session.foretold_bytes}),
                "cache_peak_bytes": session.peak_bytes,
                **({"explained": explained[loop].as_data()} if explained else _share(order, session)),
            }
            for loop, session in enumerate(sessions)
        ],
    }


def _share(order: WorkOrder, session: Session) -> dict[str, float]:
    """The share of operations that were done, where they were counted before for this network and size."""
    counted = session.job.counted
    if counted is None or (costs := counted()) is None or order.settings.steps is None:
        return {}
    return {"flops_share": round(flops_share(costs, session.trace, session.shares, asked=order.settings.steps), 4)}


def _frames(chunk: Tensor) -> Frames:
    """[3, T, H, W] in [-1, 1] to bytes; not-a-number is a failure, not a matter of bad input."""
    try:
        return to_uint8(chunk)
    except ValueError as error:
        raise FloatingPointError(f"{error}; a wider `dtype` (bfloat16, float32) may help") from error


def _identity(order: WorkOrder, origin: Sidecar | None) -> dict[str, Any]:
    """Hashes of the model and the inputs; warns where a clip that is made again may come out otherwise."""
    files = model_files(order.source)
    inputs = {str(path): file_hash(path) for path in order.inputs}
    if origin is not None:
        for difference in origin.check(model=files, inputs=inputs):
            warn_user(f"the clip may differ from that of {origin.path}: {difference}")
    model = {"name": order.source.name, "sha256": model_hash(files), "files": files}
    return {"model": model, "inputs": inputs}
