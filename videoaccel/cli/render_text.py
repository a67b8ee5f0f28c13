"""What ``videoaccel render --dry-run`` prints."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from videoaccel.common.wording import as_bytes, counted, span

if TYPE_CHECKING:
    from videoaccel.rendering.run import Render
    from videoaccel.settings.generate import GenerateSettings


def _kind(found: Any) -> str:
    """What is written, where that is not a plain clip."""
    ending = found.group.order.outputs[0].clip.rsplit(".", 1)[-1]
    return "" if ending == "mp4" else ", frames" if ending.endswith("/") else f", {ending}"


def _shape(s: GenerateSettings) -> str:
    """Size, length and steps, as far as they are not left to a pipeline."""
    told = [s.size, s.frames and counted(s.frames, "frame"), s.steps and counted(s.steps, "step")]
    return ", ".join(str(text) for text in told if text) or "as the pipeline has it"


def _method(job: Any) -> str:
    s = job.job.settings
    return f", {s.accel}" if s.accel else f", speed-up {s.speedup:g}" if s.speedup else ""


def plan_text(opened: Render, *, time: bool, no_check: bool) -> str:
    """What would be made, how long it would take, and how much room.

    Args:
        opened: The render.
        time: Predict times, with the model.
        no_check: Whether methods were left unchecked.
    """
    from videoaccel.rendering.estimate import MEASURED, estimate

    plan, done = opened.plan, opened.folder.finished()
    jobs = plan.jobs
    left = [job for job in jobs if job.id not in done]
    lines = [f"{counted(len(jobs), 'clip')}, {len(jobs) - len(left)} of them finished, {len(left)} to make"]
    total, known, size = 0.0, True, 0
    for found in estimate(opened, time=time):
        s = found.group.order.settings
        method = "" if found.group.order.policy is None else f", {s.accel or 'speedup'} {s.speedup or ''}".rstrip()
        lines.append(f"  {counted(found.jobs, 'clip')}: {s.model}, {_shape(s)}{method}{_kind(found)}")
        lines.append(f"    {_time(found)}; {_disk(found)}; {_memory(found)}")
        total, known = total + found.jobs * (found.seconds or 0), known and found.seconds is not None
        size += found.jobs * found.bytes
        if found.source != MEASURED:
            known = known and found.seconds is not None
    time_ = f"{'' if known else 'more than '}{span(total)} for one worker" if known or total else "unknown time"
    lines.append(f"in all {time_}, at most {as_bytes(size)}")
    if no_check:
        lines.append("whether all methods can run here was not checked")
    lines += [
        f"  line {job.job.line}: clips/{job.folder}/{job.job.file} (seed {job.job.settings.seed}{_method(job)})"
        for job in left[:20]
    ]
    if len(left) > 20:
        lines.append(f"  and {len(left) - 20} more")
    return "\n".join(lines)


def _time(found: Any) -> str:
    if found.seconds is None:
        return f"time unknown ({found.why})"
    what = "as measured" if found.source == "measured" else "of denoising, predicted"
    return f"{span(found.seconds)} a clip, {what}"


def _disk(found: Any) -> str:
    share = f"{as_bytes(found.bytes)} a clip"
    return f"{share}, as measured" if found.source == "measured" else f"at most {share}, uncompressed"


def _memory(found: Any) -> str:
    if found.memory is not None:
        return f"{as_bytes(found.memory)} at the peak, as measured"
    weights = f"weights of {as_bytes(found.weights)}" if found.weights else "weights"
    return f"memory: {weights}, and what a first clip will show"
