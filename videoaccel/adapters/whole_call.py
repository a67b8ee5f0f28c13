"""A speed-up of a whole call, in place of the networks' in it."""

import math
from collections.abc import Mapping, Sequence

from torch import Tensor

from videoaccel.adapters.curves import Schedule
from videoaccel.adapters.methods import schedule_of
from videoaccel.adapters.planned import Step
from videoaccel.planning.plan import UnreachableError
from videoaccel.session.policy import Policy


def check_of_all(policy: Policy) -> float:
    """The speed-up that a method was given.

    Raises:
        ValueError: It was given none.
    """
    target = getattr(policy, "speedup", None)
    if target is None:
        raise ValueError(f'of="all" goes with a speed-up, which {policy.name} was not given')
    return float(target)


def schedule_of_all(policy: Policy, share: float) -> Schedule:
    """The schedule of a policy whose speed-up is of the whole call; what is out of reach is told likewise.

    Args:
        policy: The method.
        share: Of the call's time, that of the networks.

    Raises:
        ValueError: What is beside the networks takes too long for it.
    """
    target = check_of_all(policy)
    left = 1 / target - (1 - share)
    if left <= 0:
        raise _out_of_reach(target, share)
    schedule = schedule_of(policy.model_copy(update={"speedup": share / left}))

    def of_all(tables: Mapping[str, Tensor], count: int) -> Sequence[Step]:
        try:
            return schedule(tables, count)
        except UnreachableError as error:
            if error.largest is None:
                raise
            raise _out_of_reach(target, share, error.largest) from None

    return of_all


def _out_of_reach(target: float, share: float, largest: float = math.inf) -> UnreachableError:
    """Args: the target, the networks' share of the time, and how many times less of it they can take."""
    most = 1 / max(1 - share + share / largest, 1e-9)
    times = "" if math.isinf(largest) else f" and can be {largest:.2f} times faster"
    return UnreachableError(
        f"{target:g} times the whole speed cannot be reached: the networks take {share:.0%} of the time{times}, so "
        f"{math.floor(100 * most + 1e-6) / 100:.2f} is the limit",
        most,
    )
