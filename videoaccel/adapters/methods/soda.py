"""SODA's schedule of whole network calls: planned from measured errors of forecasts, as on our own networks."""

from collections.abc import Mapping, Sequence

from torch import Tensor

from videoaccel.adapters.planned import Step
from videoaccel.models.seam import BODY
from videoaccel.planning.fitted import QUALITY
from videoaccel.policies.soda import Soda
from videoaccel.session.actions import Combine, Forecast


def schedule(policy: Soda, tables: Mapping[str, Tensor], n: int) -> Sequence[Step]:
    """What becomes of n evaluations.

    Raises:
        ValueError: The target cannot be reached, or is a quality and these are not the evaluations it was measured at.
    """
    if policy.min_psnr is not None and "soda.psnr" not in tables:
        raise ValueError("what quality is left was measured for another number of steps; give speedup or anchors")
    marks: list[int] = []
    found: list[Step] = []
    for i, action in enumerate(step[BODY] for step in policy.network(tables, n).steps):
        if isinstance(action, Forecast):
            found.append(action.order)
        elif isinstance(action, Combine):
            shares = zip(reversed(marks), action.weights, strict=False)
            found.append({mark: share for mark, share in shares if share})
        else:
            marks.append(i)
            found.append(None)
    return found


def tables(policy: Soda) -> tuple[str, ...]:
    """The curve, where a quality is asked for; that of the worst clip came later."""
    if policy.min_worst_psnr is not None:
        return (QUALITY,)
    return ("soda.psnr",) if policy.min_psnr is not None else ()


def check(policy: Soda) -> None:
    """Refuse fields that take a look into the network.

    Raises:
        ValueError: Modules are to be served.
    """
    if policy.schedule != "network":
        raise ValueError(f"soda with `schedule={policy.schedule}` has to look into the network; leave it out")
    if policy.max_lpips is not None:
        raise ValueError(
            "of pipelines that are not ours PSNR is measured, and no LPIPS: give min_psnr, min_worst_psnr, speedup or "
            "anchors"
        )
    if policy.influence:
        raise ValueError("soda with `influence` has to replay generations of this project's networks; leave it out")
