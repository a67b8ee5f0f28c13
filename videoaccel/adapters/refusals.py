"""Where nothing is forecast, whatever the method: too few evaluations, or outputs that are on no common path."""

from videoaccel.adapters.rule import Evaluation

FEWEST = 8
"""Evaluations below which nothing is forecast: distilled models, where every evaluation counts."""

RENOISING = frozenset(
    {
        "LCMScheduler", "TCDScheduler", "FlowMatchLCMScheduler", "SCMScheduler", "CMStochasticIterativeScheduler",
        "HeliosDMDScheduler", "LTXEulerAncestralRFScheduler", "FlowMapEulerDiscreteScheduler", "PiflowScheduler",
        "ConsistencyDecoderScheduler", "RePaintScheduler",
    }
)  # fmt: skip
"""Schedulers that put new noise over a prediction of the end: neighbouring outputs are on no common path."""

DISCRETE = frozenset(
    {"AmusedScheduler", "BlockRefinementScheduler", "DiscreteDDIMScheduler", "EntropyBoundScheduler",
     "VQDiffusionScheduler"}
)  # fmt: skip
"""Schedulers that choose tokens."""


def forbidden(now: Evaluation, *, apart: bool) -> str | None:
    """Why an evaluation has to be computed; None if it is up to the method.

    Args:
        now: The evaluation.
        apart: Whether frames are stepped one by one.
    """
    if now.n == 0:
        return "number of evaluations unknown"
    if now.n < FEWEST:
        return f"fewer than {FEWEST} evaluations"
    scheduler = now.course.scheduler
    name = type(scheduler).__name__
    if name in RENOISING or getattr(scheduler, "config", {}).get("stochastic_sampling"):
        return f"{name} puts new noise over every prediction"
    if name in DISCRETE:
        return f"{name} chooses tokens"
    return "frames are stepped one by one" if apart else None
