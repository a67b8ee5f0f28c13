"""What each part of SODA is worth: variants at equal FLOPs, every one compared with the exact clip.

    python -m benchmarks.soda_ablation --out runs/ablation

Quality only: at equal FLOPs the variants differ little in time, and `videoaccel compare` has the times. Resumes. Writes
``benchmarks/results/soda_ablation.json``.
"""

import argparse
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.measure import keep
from videoaccel.comparison.compare import compare_settings
from videoaccel.comparison.settings import Setting
from videoaccel.session.registry import make_policy
from videoaccel.settings.generate import GenerateSettings

PROMPTS = Path(__file__).parent / "prompts.txt"
RATIOS = (1.5, 2.0, 2.5, 3.0)

PUBLISHED = {"schedule": "modules", "influence": False, "objective": "additive"}
VARIANTS: dict[str, dict[str, Any]] = {
    "+ anchors by dynamic programming": {**PUBLISHED, "rule": "reuse"},
    "+ prune or serve (as published)": {**PUBLISHED, "rule": "paper"},
    "prune by value for cost": {**PUBLISHED, "rule": "value"},
    "+ influence": {**PUBLISHED, "rule": "value", "influence": True},
    "+ minimax": {**PUBLISHED, "rule": "value", "influence": True, "objective": "minimax"},
    "+ forecast": {**PUBLISHED, "rule": "value", "influence": True, "forecast": True},
    "+ forecast, serve only": {**PUBLISHED, "rule": "reuse", "influence": True, "forecast": True},
    "each site, no influence": {"schedule": "sites", "influence": False},
    "each site": {"schedule": "sites", "influence": True},
    "each site + forecast": {"schedule": "sites", "influence": True, "forecast": True},
    "network": {"influence": True},
    "network, order 0": {"influence": True, "order": 0},
    "network, order 1": {"influence": True, "order": 1},
    "network, order 2": {"influence": True, "order": 2},
    "network, order 3": {"influence": True, "order": 3},
    "network, no influence (the default)": {"influence": False},
    "network, additive": {"influence": True, "objective": "additive"},
}
FIXED: dict[str, dict[str, Any]] = {
    "fixed interval": {**PUBLISHED, "rule": "reuse"},
    "fixed interval + prune or serve": {**PUBLISHED, "rule": "paper"},
}
"""Of these the interval is the knob: anchors stand at equal distances."""


def settings(steps: int) -> list[Setting]:
    """All variants at all ratios."""
    found = [
        Setting(name, f"flops_ratio={ratio:g}", make_policy("soda", flops_ratio=ratio, **fields))
        for name, fields in VARIANTS.items()
        for ratio in RATIOS
    ]
    for name, fields in FIXED.items():
        for interval in (2, 3, 4, 5):
            policy = make_policy("soda", anchors=-(-steps // interval), distances=(interval,), **fields)
            found.append(Setting(name, f"interval={interval}", policy))
    return found


def main() -> None:
    """Parse the command line and measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/ablation"))
    parser.add_argument("--prompts", type=Path, default=PROMPTS)
    parser.add_argument("--count", type=int, default=16)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    prompts = args.prompts.read_text().splitlines()[: args.count]
    comparison = compare_settings(
        GenerateSettings(prompt=tuple(prompts), threads=args.threads),
        settings=settings(30),
        controls=False,
        out=args.out,
        seeds=tuple(range(args.seeds)),
        speedups=RATIOS,
        repeats=0,
        command="python -m benchmarks.soda_ablation",
        listener=lambda stage, done, total: print(f"{stage} {done}/{total}", flush=True) if done % 50 == 0 else None,
    )
    rows = [asdict(result) for result in comparison.results]
    at = [{"variant": at.method, "ratio": at.speedup, "psnr": at.text} for at in comparison.at if at.by == "flops"]
    keep("soda_ablation", {"about": comparison.about, "at_flops_ratio": at, "rows": rows})


if __name__ == "__main__":
    main()
