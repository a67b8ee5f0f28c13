"""Options of ``videoaccel render``, as one value."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import typer

_JOBS, _WORKERS, _RANKS, _FAULTS = "Jobs", "Workers", "Ranks", "Faults"

Config = Annotated[
    str | None,
    typer.Option(
        help="Settings of all jobs from a YAML file; lines win over it.", metavar="FILE", rich_help_panel=_JOBS
    ),
]
JobFile = Annotated[
    str | None, typer.Argument(help="Job file: .jsonl, .csv, .yaml, or .txt with a prompt a line.", metavar="JOBS")
]
Vbench = Annotated[
    str | None,
    typer.Option(
        help="VBench_full_info.json in place of a job file; clips also appear in DIR/vbench as its scripts expect.",
        metavar="FILE",
        rich_help_panel=_JOBS,
    ),
]
Samples = Annotated[
    int | None,
    typer.Option(help="Clips of every prompt, with seeds that count up.", metavar="N", rich_help_panel=_JOBS),
]
Set = Annotated[
    list[str] | None,
    typer.Option(
        "--set", help="Any setting of all jobs, over everything else.", metavar="NAME=VALUE", rich_help_panel=_JOBS
    ),
]
DryRun = Annotated[
    bool, typer.Option("--dry-run", help="Check everything, print what it will take, and stop.", rich_help_panel=_JOBS)
]
NoTime = Annotated[
    bool, typer.Option("--no-time", help="With --dry-run: load no model to predict times.", rich_help_panel=_JOBS)
]
NoCheck = Annotated[
    bool,
    typer.Option(
        "--no-check", help="Do not load models first to see whether all methods can run.", rich_help_panel=_JOBS
    ),
]
Retry = Annotated[
    bool, typer.Option("--retry", help="Try jobs again that were given up or cancelled.", rich_help_panel=_JOBS)
]
Verify = Annotated[
    bool, typer.Option("--verify", help="Hash finished clips first; damaged ones are made anew.", rich_help_panel=_JOBS)
]
Batching = Annotated[
    int,
    typer.Option(
        help="Make so many jobs of equal settings at once; batch and threads are then part of a clip's identity.",
        metavar="N",
        rich_help_panel=_JOBS,
    ),
]
Processes = Annotated[
    int,
    typer.Option(help="Processes on this machine; with GPUs each has its own.", metavar="N", rich_help_panel=_WORKERS),
]
Device = Annotated[str | None, typer.Option(help="In place of the jobs' own.", rich_help_panel=_WORKERS)]
Gpus = Annotated[
    int | None,
    typer.Option(
        help="Ranks to start on this machine, one a GPU (or a CPU process); torchrun starts them, too.",
        metavar="N",
        rich_help_panel=_RANKS,
    ),
]
Dp = Annotated[int | None, typer.Option(help="Groups of ranks; each is a worker.", metavar="N", rich_help_panel=_RANKS)]
Cfg = Annotated[
    int | None,
    typer.Option(
        "--cfg-parallel",
        help="2 gives each guidance branch ranks of its own.",
        metavar="N",
        rich_help_panel=_RANKS,
    ),
]
Sp = Annotated[
    int | None, typer.Option(help="Ranks that share the places of a clip.", metavar="N", rich_help_panel=_RANKS)
]
Engine = Annotated[str, typer.Option(help="local, or ray for actors on a Ray cluster.", rich_help_panel=_WORKERS)]
NoWait = Annotated[
    bool, typer.Option("--no-wait", help="Leave when nothing is left to take.", rich_help_panel=_WORKERS)
]
Stale = Annotated[
    float,
    typer.Option(
        help="Seconds after which a worker without a sign of life is dead.", metavar="S", rich_help_panel=_WORKERS
    ),
]
Tries = Annotated[int, typer.Option(help="Give a job up after so many failures.", metavar="N", rich_help_panel=_FAULTS)]
Timeout = Annotated[
    float | None, typer.Option(help="Seconds that a try may take.", metavar="S", rich_help_panel=_FAULTS)
]
Grace = Annotated[
    float,
    typer.Option(
        help="Seconds to be gone in after SIGTERM; the clip is finished if it can be.",
        metavar="S",
        rich_help_panel=_FAULTS,
    ),
]
Pause = Annotated[
    float, typer.Option(help="Seconds between looks at a full disk.", metavar="S", rich_help_panel=_FAULTS)
]


@dataclass(frozen=True)
class Options:
    """What the command line says."""

    out: Annotated[str, typer.Option("--out", "-o", help="Folder for the clips; gone on with.", metavar="DIR")]
    jobs: JobFile = None
    vbench: Vbench = None
    samples: Samples = None
    config: Config = None
    set_: Set = None
    dry_run: DryRun = False
    no_time: NoTime = False
    no_check: NoCheck = False
    retry: Retry = False
    verify: Verify = False
    allow_batching: Batching = 1
    workers: Processes = 1
    device: Device = None
    engine: Engine = "local"
    gpus: Gpus = None
    dp: Dp = None
    cfg_parallel: Cfg = None
    sp: Sp = None
    no_wait: NoWait = False
    stale_after: Stale = 60.0
    tries: Tries = 3
    timeout: Timeout = None
    grace: Grace = 25.0
    pause: Pause = 10.0
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Show no progress.")] = False
