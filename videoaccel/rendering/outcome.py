"""How patient workers are, and how the work ended."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field

from videoaccel.rendering.control import Control
from videoaccel.rendering.folder import RenderFolder
from videoaccel.rendering.heartbeat import STALE
from videoaccel.rendering.leases import Leases, Tries
from videoaccel.rendering.plan import Plan


@dataclass(frozen=True)
class Rules:
    """How patient workers are.

    Attributes:
        tries: A job that failed so often is given up; the rest go on.
        deaths: Likewise one whose worker died so often.
        timeout: Seconds that a try may take; None for any time.
        stale: Seconds after which a worker whose counter stands still is dead.
        grace: Seconds within which a worker that is told to stop has to be gone.
        pause: Seconds between looks at a full disk.
        wait: Stay while others are at work, to take over from them; False leaves when nothing is left to take.
    """

    tries: int = 3
    deaths: int = 5
    timeout: float | None = None
    stale: float = STALE
    grace: float = 25.0
    pause: float = 10.0
    wait: bool = True

    def given_up(self, tries: Tries) -> bool:
        """Whether a job is not tried any more."""
        return len(tries.failed) >= self.tries or len(tries.dead) >= self.deaths


@dataclass
class Outcome:
    """How the work ended, as this worker saw it.

    Attributes:
        made: Clips that it made.
        done: Jobs whose clip is there, whoever made it.
        gave_up: Jobs that are not tried any more, with the reason, by identity.
        cancelled: Jobs that were cancelled.
        left: Jobs that others are still at.
        interrupted: It was told to stop.
        seconds: How long it worked.
    """

    made: int = 0
    done: int = 0
    gave_up: dict[str, str] = field(default_factory=dict)
    cancelled: list[str] = field(default_factory=list)
    left: int = 0
    interrupted: bool = False
    seconds: float = 0.0


def take_stock(
    plan: Plan, folder: RenderFolder, rules: Rules, control: Control, *, finished: Collection[str] | None = None
) -> Outcome:
    """How the jobs of a plan stand, from the folder alone.

    Args:
        plan: What is asked for.
        folder: Where.
        rules: When a job is given up.
        control: Knows what was cancelled.
        finished: Identities of clips that are there, if somebody has just looked.
    """
    leases, outcome = Leases(folder.leases, ""), Outcome()
    finished = folder.finished() if finished is None else finished
    looked = leases.look()
    for unit in plan.units:
        open_ = [job.id for job in unit.jobs if job.id not in finished]
        outcome.done += len(unit.jobs) - len(open_)
        tries = looked.get(unit.id, Tries())
        if not open_:
            continue
        if tries.held is None and any(control.is_cancelled(job) for job in open_):
            outcome.cancelled += open_
        elif tries.held is None and rules.given_up(tries):
            said = leases.why(unit.id) or f"its worker died {len(tries.dead)} times"
            outcome.gave_up |= dict.fromkeys(open_, said)
        else:
            outcome.left += len(open_)
    return outcome
