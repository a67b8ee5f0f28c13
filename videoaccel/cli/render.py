"""``videoaccel render``: many clips from a job file, by any number of workers in one folder."""

from __future__ import annotations

import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import TYPE_CHECKING, Annotated, Any

import typer

from videoaccel.cli.flags import flag
from videoaccel.cli.generate import config_path
from videoaccel.cli.progress import calm_libraries, shown_progress
from videoaccel.cli.ranks import is_rank, rank, ranks_started, start_again
from videoaccel.cli.render_progress import Board, plain
from videoaccel.config import read_yaml
from videoaccel.settings import Layer, assignments
from videoaccel.wording import as_bytes, counted

if TYPE_CHECKING:
    from videoaccel.render.control import Control
    from videoaccel.render.outcome import Outcome, Rules
    from videoaccel.render.run import Render
    from videoaccel.render.worker import Tell
    from videoaccel.stages import Listener

SOME_FAILED, INTERRUPTED = 3, 130

_JOBS, _WORKERS, _RANKS, _FAULTS = "Jobs", "Workers", "Ranks", "Faults"
_GIB = 1 << 30
_EVERY = 0.5  # seconds between looks at what other workers write down
_ONCE = ("--quiet", "--retry", "--verify")  # what workers of one command do not do each for themselves


_Config = Annotated[
    str | None,
    typer.Option(
        help="Settings of all jobs from a YAML file; lines win over it.", metavar="FILE", rich_help_panel=_JOBS
    ),
]
_JobFile = Annotated[
    str | None, typer.Argument(help="Job file: .jsonl, .csv, .yaml, or .txt with a prompt a line.", metavar="JOBS")
]
_Vbench = Annotated[
    str | None,
    typer.Option(
        help="VBench_full_info.json in place of a job file; clips also appear in DIR/vbench as its scripts expect.",
        metavar="FILE",
        rich_help_panel=_JOBS,
    ),
]
_Samples = Annotated[
    int | None,
    typer.Option(help="Clips of every prompt, with seeds that count up.", metavar="N", rich_help_panel=_JOBS),
]
_Set = Annotated[
    list[str] | None,
    typer.Option(
        "--set", help="Any setting of all jobs, over everything else.", metavar="NAME=VALUE", rich_help_panel=_JOBS
    ),
]
_DryRun = Annotated[
    bool, typer.Option("--dry-run", help="Check everything, print what it will take, and stop.", rich_help_panel=_JOBS)
]
_NoTime = Annotated[
    bool, typer.Option("--no-time", help="With --dry-run: load no model to predict times.", rich_help_panel=_JOBS)
]
_NoCheck = Annotated[
    bool,
    typer.Option(
        "--no-check", help="Do not load models first to see whether all methods can run.", rich_help_panel=_JOBS
    ),
]
_Retry = Annotated[
    bool, typer.Option("--retry", help="Try jobs again that were given up or cancelled.", rich_help_panel=_JOBS)
]
_Verify = Annotated[
    bool, typer.Option("--verify", help="Hash finished clips first; damaged ones are made anew.", rich_help_panel=_JOBS)
]
_Batching = Annotated[
    int,
    typer.Option(
        help="Make so many jobs of equal settings at once; batch and threads are then part of a clip's identity.",
        metavar="N",
        rich_help_panel=_JOBS,
    ),
]
_Processes = Annotated[
    int,
    typer.Option(help="Processes on this machine; with GPUs each has its own.", metavar="N", rich_help_panel=_WORKERS),
]
_Device = Annotated[str | None, typer.Option(help="In place of the jobs' own.", rich_help_panel=_WORKERS)]
_Gpus = Annotated[
    int | None,
    typer.Option(
        help="Ranks to start on this machine, one a GPU (or a CPU process); torchrun starts them, too.",
        metavar="N",
        rich_help_panel=_RANKS,
    ),
]
_Dp = Annotated[
    int | None, typer.Option(help="Groups of ranks; each is a worker.", metavar="N", rich_help_panel=_RANKS)
]
_Cfg = Annotated[
    int | None,
    typer.Option(
        "--cfg-parallel",
        help="2 gives each guidance branch ranks of its own.",
        metavar="N",
        rich_help_panel=_RANKS,
    ),
]
_Sp = Annotated[
    int | None, typer.Option(help="Ranks that share the places of a clip.", metavar="N", rich_help_panel=_RANKS)
]
_Engine = Annotated[str, typer.Option(help="local, or ray for actors on a Ray cluster.", rich_help_panel=_WORKERS)]
_NoWait = Annotated[
    bool, typer.Option("--no-wait", help="Leave when nothing is left to take.", rich_help_panel=_WORKERS)
]
_Stale = Annotated[
    float,
    typer.Option(
        help="Seconds after which a worker without a sign of life is dead.", metavar="S", rich_help_panel=_WORKERS
    ),
]
_Tries = Annotated[
    int, typer.Option(help="Give a job up after so many failures.", metavar="N", rich_help_panel=_FAULTS)
]
_Timeout = Annotated[
    float | None, typer.Option(help="Seconds that a try may take.", metavar="S", rich_help_panel=_FAULTS)
]
_Grace = Annotated[
    float,
    typer.Option(
        help="Seconds to be gone in after SIGTERM; the clip is finished if it can be.",
        metavar="S",
        rich_help_panel=_FAULTS,
    ),
]
_Pause = Annotated[
    float, typer.Option(help="Seconds between looks at a full disk.", metavar="S", rich_help_panel=_FAULTS)
]


def render(
    out: Annotated[str, typer.Option("--out", "-o", help="Folder for the clips; gone on with.", metavar="DIR")],
    jobs: _JobFile = None,
    vbench: _Vbench = None,
    samples: _Samples = None,
    config: _Config = None,
    set_: _Set = None,
    dry_run: _DryRun = False,
    no_time: _NoTime = False,
    no_check: _NoCheck = False,
    retry: _Retry = False,
    verify: _Verify = False,
    allow_batching: _Batching = 1,
    workers: _Processes = 1,
    device: _Device = None,
    engine: _Engine = "local",
    gpus: _Gpus = None,
    dp: _Dp = None,
    cfg_parallel: _Cfg = None,
    sp: _Sp = None,
    no_wait: _NoWait = False,
    stale_after: _Stale = 60.0,
    tries: _Tries = 3,
    timeout: _Timeout = None,
    grace: _Grace = 25.0,
    pause: _Pause = 10.0,
    quiet: Annotated[bool, typer.Option("--quiet", help="Show no progress.")] = False,
) -> None:
    """Render a file of jobs. Stopped, killed, or started anywhere beside: the same command goes on."""
    _check_numbers({"--workers": workers, "--tries": tries, "--stale-after": stale_after, "--grace": grace,
                    "--timeout": timeout, "--pause": pause})  # fmt: skip
    if engine not in ("local", "ray"):
        raise ValueError(f"--engine is local or ray, got {engine!r}")
    defaults: list[Layer] = []
    if config is not None:
        path = config_path(config)
        defaults.append(Layer(read_yaml(path), lambda name: f"{path}: {name}"))
    said = assignments(set_ or [])
    overrides = [Layer(said, lambda name: f"--set {name}")]
    if samples is not None:
        overrides.append(Layer({"samples": samples}, flag))
    if (jobs is None) == (vbench is None):
        raise ValueError("give a job file, or --vbench VBench_full_info.json" + ("" if jobs is None else ", not both"))
    file = str(jobs or vbench)
    shared = _shared({"gpus": gpus, "dp": dp, "cfg_parallel": cfg_parallel, "sp": sp})
    ranks = shared.get("gpus", 1)
    if ranks > 1:
        _check_ranks(said, workers=workers, engine=engine)
        overrides.append(Layer({**shared, **({} if device is None else {"device": device})}, flag))
    quiet = quiet or rank() > 0
    with shown_progress(quiet=quiet) as display:
        from videoaccel.render.outcome import Rules
        from videoaccel.render.run import open_render  # torch and all

        calm_libraries(quiet=quiet)
        layers = {"defaults": defaults, "overrides": overrides}
        opened = _open(open_render, file, out, batching=allow_batching, suite=jobs is None, **layers)
        for line, first in opened.plan.repeated:
            display.note(f"line {line} asks for the same clip as line {first}; it is made once")
        if not (no_check or (dry_run and no_time) or is_rank()):
            _preflight(opened, listener=display)
        if dry_run:
            if rank() == 0:
                typer.echo(_plan(opened, time=not no_time, no_check=no_check or no_time))
            return
        if not is_rank() or rank() == 0:
            _prepare(opened, again=retry, verify=verify, note=display.note)
        rules = Rules(tries=tries, timeout=timeout, stale=stale_after, grace=grace, pause=pause, wait=not no_wait)
        board = Board(opened, display, quiet=quiet, single=workers == 1 and engine == "local")
        if ranks == 1 or is_rank():
            with board:
                outcome = _work(opened, rules, device=device, workers=workers, engine=engine, board=board)
    if ranks > 1 and not is_rank():
        kind = str(opened.plan.units[0].jobs[0].group.order.settings.device)
        raise typer.Exit(start_again(ranks, device=kind, without=_ONCE[1:], grace=grace + 5))
    if vbench is not None and rank() == 0:
        _publish(opened, quiet=quiet)
    _end(opened, outcome, quiet=quiet)


def _open(open_render: Any, jobs: str, out: str, **layers: Any) -> Render:
    found: Render = _all_told(jobs, lambda: open_render(jobs, out, **layers))
    return found


def _all_told(jobs: str, check: Callable[[], Any]) -> Any:
    """Every bad line is told before the command ends."""
    from videoaccel.render.jobs_file import BadJobsError

    try:
        return check()
    except BadJobsError as error:
        for problem in error.problems:
            typer.echo(f"{jobs}, {plain(problem)}", err=True)
        raise ValueError(f"{counted(len(error.problems), 'problem')} in {jobs}; nothing was rendered") from None


def _preflight(opened: Render, *, listener: Listener) -> None:
    from videoaccel.render.preflight import check_methods

    _all_told(str(opened.jobs), lambda: check_methods(opened, listener=listener))


def _publish(opened: Render, *, quiet: bool) -> None:
    from videoaccel.render.suite import FOLDER, publish

    count = publish(opened.plan, opened.folder)
    if not quiet:
        typer.echo(f"{counted(count, 'clip')} for VBench in {opened.folder.root / FOLDER}")


def _prepare(opened: Render, *, again: bool, verify: bool, note: Any) -> None:
    from videoaccel.render.run import retry, verify_clips

    opened.folder.prepare()
    if again and (count := retry(opened)):
        note(f"{counted(count, 'job')} will be tried again")
    if verify:
        for name, why in verify_clips(opened.folder):
            note(f"{name} is made anew: {why}")


def _work(opened: Render, rules: Rules, *, device: str | None, workers: int, engine: str, board: Board) -> Outcome:
    if engine == "ray":
        from videoaccel.render.ray_engine import work_on_ray

        return work_on_ray(opened, rules, workers=workers, tell=board.tell)
    if is_rank():
        return _work_as_rank(opened, rules, board=board)
    if workers > 1:
        from videoaccel.render.supervisor import supervise

        return supervise(
            opened, rules, arguments=_child_arguments(sys.argv[1:]), workers=workers, device=device, tell=board.tell
        )
    from videoaccel.render.control import Control
    from videoaccel.render.run import work

    control = Control(opened.folder.cancelled, rules.timeout)
    with _signals(control, rules.grace):
        return work(opened, rules=rules, device=device, control=control, tell=board.tell)


def _work_as_rank(opened: Render, rules: Rules, *, board: Board) -> Outcome:
    from videoaccel.parallel.mesh import Mesh
    from videoaccel.render.control import Control
    from videoaccel.render.run import work_with_ranks

    order = opened.plan.units[0].jobs[0].group.order
    s = order.settings
    control = Control(opened.folder.cancelled, rules.timeout)
    with (
        _signals(control, rules.grace),
        Mesh.from_env(order.degrees, device=str(s.device), provider=s.provider, patience=s.patience) as mesh,
    ):
        return work_with_ranks(opened, mesh, rules=rules, control=control, tell=_of_all(board, opened))


def _of_all(board: Board, opened: Render) -> Tell:
    """Tells of this worker's steps, and of what all workers write down."""
    from videoaccel.render.follow import Follower

    follower, looked = Follower(opened.folder.manifest), [time.monotonic()]
    list(follower.new())  # of runs before

    def tell(event: str, about: Mapping[str, Any]) -> None:
        if event == "step":
            board.tell(event, about)
        if event != "step" or time.monotonic() - looked[0] > _EVERY:
            looked[0] = time.monotonic()
            for row in follower.new():
                board.tell(row["event"], row)

    return tell


def _shared(given: Mapping[str, int | None]) -> dict[str, int]:
    """How the ranks that were started, or are to be, share the work; unless told otherwise each makes clips alone."""
    ranks = ranks_started() if is_rank() else given["gpus"] or 1
    if given["gpus"] not in (None, ranks):
        started = counted(ranks, "rank")
        raise ValueError(f"--gpus {given['gpus']} was asked for, but {started} were started; leave it out")
    if ranks == 1:
        if wrong := [name for name in ("dp", "cfg_parallel", "sp") if (given[name] or 1) > 1]:
            raise ValueError(f"{flag(wrong[0])} {given[wrong[0]]} needs ranks: give --gpus, or start it by torchrun")
        return {}
    if given["dp"] is None:
        branches, places = given["cfg_parallel"] or 1, given["sp"] or 1
        return {"gpus": ranks, "dp": max(1, ranks // (branches * places)), "cfg_parallel": branches, "sp": places}
    return {name: value for name, value in {**given, "gpus": ranks}.items() if value is not None}


def _check_ranks(said: Mapping[str, Any], *, workers: int, engine: str) -> None:
    if workers > 1:
        raise ValueError(f"--workers {workers}: of several ranks every group is a worker; --dp says how many")
    if engine != "local":
        raise ValueError("--engine ray starts workers of its own; leave out --gpus, and start it without torchrun")
    if wrong := [name for name in ("gpus", "dp", "cfg_parallel", "sp") if name in said]:
        raise ValueError(f"--set {wrong[0]}: give {flag(wrong[0])}")


@contextmanager
def _signals(control: Control, grace: float) -> Iterator[None]:
    """A scheduler's SIGTERM ends the worker within its grace time; Ctrl-C ends it at once."""

    def stop(number: int, frame: FrameType | None) -> None:
        control.stop(grace=grace)

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _child_arguments(given: Sequence[str]) -> list[str]:
    """This command line as one of its workers runs it."""
    arguments, skip = [], False
    for argument in given:
        if skip:
            skip = False
        elif argument in ("--workers", "--device"):
            skip = True
        elif not argument.startswith(("--workers=", "--device=")) and argument not in _ONCE:
            arguments.append(argument)
    return [*arguments, "--workers", "1", "--quiet", "--no-check"]


def _check_numbers(given: dict[str, float | None]) -> None:
    for name, value in given.items():
        if value is not None and not 0 < value < float("inf"):
            raise ValueError(f"{name} must be above 0, got {value:g}")


def _kind(found: Any) -> str:
    """What is written, where that is not a plain clip."""
    ending = found.group.order.outputs[0].clip.rsplit(".", 1)[-1]
    return "" if ending == "mp4" else ", frames" if ending.endswith("/") else f", {ending}"


def _method(job: Any) -> str:
    s = job.job.settings
    return f", {s.accel}" if s.accel else f", speed-up {s.speedup:g}" if s.speedup else ""


def _plan(opened: Render, *, time: bool, no_check: bool) -> str:
    from videoaccel.render.estimate import MEASURED, estimate

    plan, done = opened.plan, opened.folder.finished()
    jobs = plan.jobs
    left = [job for job in jobs if job.id not in done]
    lines = [f"{counted(len(jobs), 'clip')}, {len(jobs) - len(left)} of them finished, {len(left)} to make"]
    total, known, size = 0.0, True, 0
    for found in estimate(opened, time=time):
        s = found.group.order.settings
        method = "" if found.group.order.policy is None else f", {s.accel or 'speedup'} {s.speedup or ''}".rstrip()
        lines.append(
            f"  {counted(found.jobs, 'clip')}: {s.model}, {s.size}, {counted(s.frames or 0, 'frame')}, "
            f"{counted(s.steps or 0, 'step')}{method}{_kind(found)}"
        )
        lines.append(f"    {_time(found)}; {_disk(found)}; {_memory(found)}")
        total, known = total + found.jobs * (found.seconds or 0), known and found.seconds is not None
        size += found.jobs * found.bytes
        if found.source != MEASURED:
            known = known and found.seconds is not None
    time_ = f"{'' if known else 'more than '}{_span(total)} for one worker" if known or total else "unknown time"
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
    return f"{_span(found.seconds)} a clip, {what}"


def _disk(found: Any) -> str:
    share = f"{found.bytes / 2**20:.2f} MiB a clip"
    return f"{share}, as measured" if found.source == "measured" else f"at most {share}, uncompressed"


def _memory(found: Any) -> str:
    if found.memory is not None:
        return f"{found.memory / _GIB:.2f} GiB at the peak, as measured"
    weights = f"weights of {found.weights / _GIB:.2f} GiB" if found.weights else "weights"
    return f"memory: {weights}, and what a first clip will show"


def _span(seconds: float) -> str:
    """A time for people.

    >>> _span(3.21), _span(130), _span(9000)
    ('3.2 s', '2 min 10 s', '2 h 30 min')
    """
    if seconds < 60:
        return f"{seconds:.1f} s"
    if seconds < 3600:
        return f"{int(seconds // 60)} min {int(seconds % 60)} s"
    return f"{int(seconds // 3600)} h {int(seconds % 3600 // 60)} min"


def _end(opened: Render, outcome: Outcome, *, quiet: bool) -> None:
    names = {job.id: job.job.name for job in opened.plan.jobs}
    if not quiet:
        total = len(opened.plan.jobs)
        parts = [
            f"{outcome.done} of {counted(total, 'clip')} done ({outcome.made} made now in {_span(outcome.seconds)})"
        ]
        parts += [f"{len(outcome.gave_up)} given up"] if outcome.gave_up else []
        parts += [f"{len(outcome.cancelled)} cancelled"] if outcome.cancelled else []
        parts += [f"{outcome.left} left"] if outcome.left else []
        typer.echo(f"{', '.join(parts)}; {opened.folder.gallery}")
    for job, why in outcome.gave_up.items():
        typer.echo(f"given up: {names[job]} ({job}): {plain(why)}", err=True)
    if outcome.interrupted:
        typer.echo("videoaccel: stopped; the same command goes on from here", err=True)
        raise typer.Exit(INTERRUPTED)
    if outcome.gave_up or outcome.cancelled:
        raise typer.Exit(SOME_FAILED)
