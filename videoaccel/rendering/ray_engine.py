"""The same jobs on a Ray cluster: every actor is a worker of the same folder, which all its nodes must reach.

Ray places the actors and starts lost ones again; who makes what is agreed in the folder, as without it.
"""

from __future__ import annotations

import time
from typing import Any

from videoaccel.rendering.control import Control
from videoaccel.rendering.follow import Follower
from videoaccel.rendering.outcome import Outcome, Rules
from videoaccel.rendering.run import Render, cancel, count_outcome, keep_plan, work
from videoaccel.rendering.worker import Tell

_POLL = 0.5  # seconds
_RESTARTS = 5  # of one actor


def work_on_ray(render: Render, rules: Rules, *, workers: int, tell: Tell, **init: Any) -> Outcome:
    """Work on a Ray cluster until nothing is left.

    Args:
        render: Checked; its folder is prepared, and has the same path on all nodes.
        rules: As of the workers.
        workers: Actors; each takes a GPU where the cluster has some, else a CPU.
        tell: Told of every event that a worker writes down.
        **init: Arguments of ``ray.init``; by default the cluster of ``RAY_ADDRESS``, else one on this machine.

    Raises:
        ValueError: Ray is not installed.
        RuntimeError: Actors died again and again.
        KeyboardInterrupt: Ctrl-C; the actors were told to stop.
    """
    try:
        import ray
    except ImportError:
        raise ValueError("--engine ray needs Ray; pip install 'videoaccel[ray]' brings it") from None
    keep_plan(render)
    own = not ray.is_initialized()
    if own:
        ray.init(**({"log_to_driver": False, "include_dashboard": False} | init))
    began, follower, made = time.monotonic(), Follower(render.folder.manifest), 0
    list(follower.new())
    needs = {"num_gpus": 1} if ray.cluster_resources().get("GPU", 0) >= 1 else {"num_cpus": 1}
    # Tried again by Ray when its node or process is lost; what it had taken is taken over as from any dead worker.
    actor = ray.remote(**needs, max_restarts=_RESTARTS, max_task_retries=_RESTARTS)(_Actor)
    shared = ray.put(render)
    try:
        actors = [actor.remote() for _ in range(workers)]
        running = [one.work.remote(shared, rules) for one in actors]
        left = list(running)
        while left:
            _, left = ray.wait(left, num_returns=len(left), timeout=_POLL)
            for row in follower.new():
                made += row["event"] == "done"
                tell(row["event"], row)
        interrupted = any(ray.get(running))
    except KeyboardInterrupt:
        cancel(render.folder)
        ray.wait(running, num_returns=len(running), timeout=rules.grace)
        raise
    except ray.exceptions.RayError as error:
        raise RuntimeError(f"the Ray actors cannot go on: {' '.join(str(error).split())[:300]}") from error
    finally:
        if own:
            ray.shutdown()
    outcome = count_outcome(render, rules)
    outcome.made, outcome.interrupted, outcome.seconds = made, interrupted, time.monotonic() - began
    return outcome


class _Actor:
    """One worker, in a process of Ray's."""

    def work(self, render: Render, rules: Rules) -> bool:
        """Until nothing is left; returns whether it was told to stop."""
        return work(render, rules=rules, control=Control(render.folder.cancelled, rules.timeout)).interrupted
