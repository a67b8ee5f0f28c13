"""``videoaccel render``: many clips from a job file, by any number of workers in one folder."""

from __future__ import annotations

import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import TYPE_CHECKING, Any

import typer

from videoaccel.cli.errors import INCOMPLETE, INTERRUPTED, SaidError
from videoaccel.cli.flags import flag
from videoaccel.cli.generate import config_path
from videoaccel.cli.progress import calm_libraries, shown_progress
from videoaccel.cli.ranks import is_rank, rank, start_again
from videoaccel.cli.render_options import Options
from videoaccel.cli.render_progress import Board, plain
from videoaccel.cli.render_text import plan_text
from videoaccel.cli.terminal import say
from videoaccel.common.extras import need
from videoaccel.common.files import check_folder
from videoaccel.common.home import expand
from videoaccel.common.launcher import ranks_started
from videoaccel.common.wording import counted, span
from videoaccel.settings.config import read_yaml
from videoaccel.settings.early import check_early
from videoaccel.settings.layers import Layer, assignments

if TYPE_CHECKING:
    from videoaccel.common.stages import Listener
    from videoaccel.rendering.control import Control
    from videoaccel.rendering.outcome import Outcome, Rules
    from videoaccel.rendering.run import Render
    from videoaccel.rendering.worker import Tell

_EVERY = 0.5  # seconds between looks at what other workers write down
_ONCE = ("--quiet", "--retry", "--verify")  # what workers of one command do not do each for themselves


def render(options: Options) -> None:
    """Render a file of jobs. Stopped, killed, or started anywhere beside: the same command goes on."""
    _check(options)
    file, ranks, layers = _asked(options)
    quiet = options.quiet or rank() > 0
    suite = options.jobs is None
    read = None if suite else _all_told(file, lambda: _read_early(file, **layers))
    check_folder(expand(options.out))
    with shown_progress(quiet=quiet) as display:
        from videoaccel.rendering.outcome import Rules
        from videoaccel.rendering.run import open_render  # torch and all

        calm_libraries(quiet=quiet)
        more: dict[str, Any] = {"batching": options.allow_batching, "suite": suite, "read": read, **layers}
        opened = _open(open_render, file, options.out, **more)
        for line, first in opened.plan.repeated:
            display.note(f"line {line} asks for the same clip as line {first}; it is made once")
        no_check = options.no_check or (options.dry_run and options.no_time)
        if not (no_check or is_rank()):
            _preflight(opened, listener=display)
        if options.dry_run:
            if rank() == 0:
                unchecked = options.no_check or options.no_time
                say(plan_text(opened, time=not options.no_time, no_check=unchecked))
            return
        if not is_rank() or rank() == 0:
            _prepare(opened, again=options.retry, verify=options.verify, note=display.note)
        rules = Rules(
            tries=options.tries,
            timeout=options.timeout,
            stale=options.stale_after,
            grace=options.grace,
            pause=options.pause,
            wait=not options.no_wait,
        )
        board = Board(opened, display, quiet=quiet, single=options.workers == 1 and options.engine == "local")
        if ranks == 1 or is_rank():
            with board:
                outcome = _work(opened, rules, options, board=board)
    if ranks > 1 and not is_rank():
        kind = str(opened.plan.units[0].jobs[0].group.order.settings.device)
        raise SaidError(start_again(ranks, device=kind, without=_ONCE[1:], grace=options.grace + 5))
    if options.vbench is not None and rank() == 0:
        _publish(opened, quiet=quiet)
    _end(opened, outcome, quiet=quiet)


def _check(options: Options) -> None:
    """Values that are wrong by themselves.

    Raises:
        ValueError: Says which.
    """
    o = options
    _check_numbers({"--workers": o.workers, "--tries": o.tries, "--stale-after": o.stale_after, "--grace": o.grace,
                    "--timeout": o.timeout, "--pause": o.pause})  # fmt: skip
    if o.engine not in ("local", "ray"):
        raise ValueError(f"--engine is local or ray, got {o.engine!r}")
    if (o.jobs is None) == (o.vbench is None):
        both = "" if o.jobs is None else ", not both"
        raise ValueError(f"give a job file, or --vbench VBench_full_info.json{both}")


def _asked(options: Options) -> tuple[str, int, dict[str, list[Layer]]]:
    """The job file, how many ranks make its clips, and settings below and above those of its lines."""
    defaults: list[Layer] = []
    if options.config is not None:
        path = config_path(options.config)
        defaults.append(Layer(read_yaml(path), lambda name: f"{path}: {name}"))
    said = assignments(options.set_ or [])
    overrides = [Layer(said, lambda name: f"--set {name}")]
    if options.samples is not None:
        overrides.append(Layer({"samples": options.samples}, flag))
    shared = _shared({name: getattr(options, name) for name in ("gpus", "dp", "cfg_parallel", "sp")})
    ranks = shared.get("gpus", 1)
    if ranks > 1:
        _check_ranks(said, workers=options.workers, engine=options.engine)
        own = {} if options.device is None else {"device": options.device}
        overrides.append(Layer({**shared, **own}, flag))
    if options.engine == "ray":
        need("--engine ray", "ray", "ray")
    return str(options.jobs or options.vbench), ranks, {"defaults": defaults, "overrides": overrides}


def _read_early(file: str, **layers: Any) -> Any:
    """The jobs, and what is wrong with lines so far; what takes torch to find is found later.

    Raises:
        BadJobsError: Some cannot be made, whatever the model; says all of these.
    """
    from videoaccel.rendering.job import make_jobs
    from videoaccel.rendering.jobs_file import BadJobsError, read_jobs

    made, problems = make_jobs(read_jobs(expand(file)), **layers)
    seen: dict[str, str | None] = {}
    for job in made:
        told = job.settings.model_dump_json(exclude={"prompt", "seed"}, exclude_defaults=True)
        if told not in seen:
            try:
                check_early(job.settings)
                seen[told] = None
            except (ValueError, OSError) as error:
                seen[told] = " ".join(str(error).split())
        if (wrong := seen[told]) is not None:
            problems.append(f"line {job.line}: {wrong}")
    if problems:
        raise BadJobsError(
            expand(file), sorted(problems, key=lambda text: int(text.split(":")[0].removeprefix("line ")))
        )
    return made


def _open(open_render: Any, jobs: str, out: str, **layers: Any) -> Render:
    found: Render = _all_told(jobs, lambda: open_render(jobs, out, **layers))
    return found


def _all_told(jobs: str, check: Callable[[], Any]) -> Any:
    """Every bad line is told before the command ends."""
    from videoaccel.rendering.jobs_file import BadJobsError

    try:
        return check()
    except BadJobsError as error:
        for problem in error.problems:
            say(f"{jobs}, {plain(problem)}", err=True)
        raise ValueError(f"{counted(len(error.problems), 'problem')} in {jobs}; nothing was rendered") from None


def _preflight(opened: Render, *, listener: Listener) -> None:
    from videoaccel.rendering.preflight import check_methods

    _all_told(str(opened.jobs), lambda: check_methods(opened, listener=listener))


def _publish(opened: Render, *, quiet: bool) -> None:
    from videoaccel.rendering.suite import FOLDER, publish

    count = publish(opened.plan, opened.folder)
    if not quiet:
        say(f"{counted(count, 'clip')} for VBench in {opened.folder.root / FOLDER}")


def _prepare(opened: Render, *, again: bool, verify: bool, note: Any) -> None:
    from videoaccel.rendering.run import retry, verify_clips

    opened.folder.prepare()
    if again and (count := retry(opened)):
        note(f"{counted(count, 'job')} will be tried again")
    if verify:
        for name, why in verify_clips(opened.folder):
            note(f"{name} is made anew: {why}")


def _work(opened: Render, rules: Rules, options: Options, *, board: Board) -> Outcome:
    device, workers = options.device, options.workers
    if options.engine == "ray":
        from videoaccel.rendering.ray_engine import work_on_ray

        return work_on_ray(opened, rules, workers=workers, tell=board.tell)
    if is_rank():
        return _work_as_rank(opened, rules, board=board)
    if workers > 1:
        from videoaccel.rendering.supervisor import supervise

        return supervise(
            opened, rules, arguments=_child_arguments(sys.argv[1:]), workers=workers, device=device, tell=board.tell
        )
    from videoaccel.rendering.control import Control
    from videoaccel.rendering.run import work

    control = Control(opened.folder.cancelled, rules.timeout)
    with _signals(control, rules.grace):
        return work(opened, rules=rules, device=device, control=control, tell=board.tell)


def _work_as_rank(opened: Render, rules: Rules, *, board: Board) -> Outcome:
    from videoaccel.parallel.mesh import Mesh
    from videoaccel.rendering.control import Control
    from videoaccel.rendering.run import work_with_ranks

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
    from videoaccel.rendering.follow import Follower

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


def _end(opened: Render, outcome: Outcome, *, quiet: bool) -> None:
    names = {job.id: job.job.name for job in opened.plan.jobs}
    if not quiet:
        total = len(opened.plan.jobs)
        parts = [
            f"{outcome.done} of {counted(total, 'clip')} done ({outcome.made} made now in {span(outcome.seconds)})"
        ]
        parts += [f"{len(outcome.gave_up)} given up"] if outcome.gave_up else []
        parts += [f"{len(outcome.cancelled)} cancelled"] if outcome.cancelled else []
        parts += [f"{outcome.left} left"] if outcome.left else []
        say(f"{', '.join(parts)}; {opened.folder.gallery}")
    for job, why in outcome.gave_up.items():
        say(f"given up: {names[job]} ({job}): {plain(why)}", err=True)
    if outcome.interrupted:
        raise typer.Exit(INTERRUPTED)
    if outcome.gave_up or outcome.cancelled:
        raise typer.Exit(INCOMPLETE)
