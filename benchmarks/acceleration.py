"""What sessions cost, and whether plans keep their word: predicted against achieved speed-ups of denoising.

    python -m benchmarks.acceleration

Every setting is timed in turn with the exact run, on the demo model. ``off`` is the machinery with nothing changed:
what it takes longer than the exact run is the overhead of a session.
"""

import argparse
import statistics
from typing import Any

import torch

from benchmarks.measure import Ratio, keep
from videoaccel.comparison.bench import Bench, Clip, Made
from videoaccel.comparison.settings import Setting
from videoaccel.generation.pipeline import VideoPipeline
from videoaccel.session.costs import Costs
from videoaccel.session.registry import make_policy

PROMPT = "a red circle moves left on a dark blue background"
TARGETS = (1.5, 2.0, 2.5, 3.0)
SCHEDULES = ("network", "modules", "sites")


def settings() -> list[Setting]:
    """The exact run, ``off``, and SODA with each target in milliseconds and in FLOPs."""
    found = [Setting("exact"), Setting("off", "", make_policy("off"))]
    for schedule in SCHEDULES:
        for unit in ("speedup", "flops_ratio"):
            for target in TARGETS:
                policy = make_policy("soda", schedule=schedule, **{unit: target})
                found.append(Setting("soda", f"schedule={schedule} {unit}={target:g}", policy))
    return found


def timed(bench: Bench, setting: Setting, clip: Clip, base: Made) -> tuple[float, Made]:
    """Seconds of a setting over those of the exact run beside it, and the run."""
    made = bench.make(clip, setting)
    return base.seconds / made.seconds, made


def main() -> None:
    """Parse the command line and measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    pipe = VideoPipeline.from_pretrained("demo")
    clip = Clip(PROMPT, 0)
    bench = Bench(pipe, {PROMPT: pipe.encode_prompt([PROMPT])}, {})
    exact, *others = settings()
    reachable, refused = [], {}
    for setting in others:
        try:
            if reason := bench.why_not(setting, clip):
                raise ValueError(reason)
            bench.make(clip, setting)  # warms up, and plans
            reachable.append(setting)
        except ValueError as error:
            refused[setting.name] = str(error)
    ratios: dict[str, list[float]] = {}
    runs: dict[str, Made] = {}
    for _ in range(args.rounds):
        for setting in reachable:
            ratio, runs[str(setting)] = timed(bench, setting, clip, bench.make(clip, exact))
            ratios.setdefault(str(setting), []).append(ratio)
    denoising = pipe.denoising(pipe.request(PROMPT, seed=0))
    costs = {unit: denoising.costs(unit) for unit in ("flops", "ms")}
    rows = [row(setting, ratios[str(setting)], runs[str(setting)], costs) for setting in reachable]
    keep("acceleration", {"prompt": PROMPT, "rounds": args.rounds, "rows": rows, "refused": refused})


def row(setting: Setting, ratios: list[float], made: Made, costs: dict[str, Costs]) -> dict[str, Any]:
    """What came of a setting."""
    found = Ratio.of(ratios, [1.0] * len(ratios))
    said: dict[str, Any] = {"setting": str(setting), "speedup": round(statistics.median(ratios), 3)}
    said |= {"interval": [round(found.low, 3), round(found.high, 3)]}
    if setting.policy is None or setting.method == "off":
        return said
    trace, shares = made.session.trace, made.session.shares
    fewer, predicted = (costs[unit].dense * len(trace) / costs[unit].total(trace, shares) for unit in ("flops", "ms"))
    said |= {"fewer_flops": round(fewer, 3), "predicted_speedup": round(predicted, 3)}
    return said | {"achieved_over_predicted": round(said["speedup"] / predicted, 3)}


if __name__ == "__main__":
    main()
