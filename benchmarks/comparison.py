"""All methods, pairs of them and both controls on the same clips of the demo model: quality, then time.

    python -m benchmarks.comparison --out runs/comparison

16 prompts x 2 seeds are made with every setting (about 100 of them, 2 s each on one core); then 4 clips are timed three
times. Resumes. Writes ``benchmarks/results/comparison.json`` and ``docs/images/speed-quality.png``.
"""

import argparse
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.measure import keep
from videoaccel.comparison.compare import PICTURE, compare_settings
from videoaccel.comparison.settings import Setting
from videoaccel.comparison.table import Result
from videoaccel.session.registry import make_policy
from videoaccel.settings.generate import GenerateSettings

HERE = Path(__file__).parent
PICTURES = HERE.parent / "docs" / "images"
SPEEDUPS = (1.5, 2.0, 2.5, 3.0)

VALUES: dict[str, dict[str, tuple[Any, ...]]] = {
    "soda": {"flops_ratio": (1.3, 1.5, 1.75, 2.0, 2.25, 2.5, 3.0, 3.5, 4.0)},
    "sada": {"threshold": (0.03, 0.05, 0.08, 0.12, 0.2, 0.35)},
    "lemica": {"budget": (19, 15, 12, 10, 9)},
    "magcache": {"max_skips": (1, 2, 3, 4, 5, 7)},
    "adacache": {"fastest": (3, 4, 5, 6, 8)},
    "teacache": {"threshold": (0.05, 0.1, 0.15, 0.2, 0.3)},
    "fora": {"period": (2, 3, 4, 5)},
    "taylorseer": {"period": (2, 3, 4)},
    "easycache": {"threshold": (0.025, 0.05, 0.1, 0.2, 0.3)},
    "first_block": {"threshold": (0.05, 0.08, 0.12, 0.2, 0.3)},
    "duca": {"period": (2, 3, 4, 5)},
    "toca": {"period": (2, 3, 4, 5, 6)},
    "pab": {"spatial": (2, 4)},
    "tgate": {"gate": (0.7, 0.6, 0.5)},
    "fastercache": {"interval": (1, 3, 5, 8)},
    "delta_dit": {"interval": (2, 3, 4, 6)},
    "elastic": {"flops_ratio": (1.1, 1.25, 1.5, 2.0)},
    "delta_dit+sada": {"sada.threshold": (0.05, 0.12, 0.35, 0.6)},
    "fora+sada": {"sada.threshold": (0.05, 0.12, 0.35, 0.6), "fora.period": (2,)},
    "soda+sada": {"sada.threshold": (0.05, 0.12, 0.35, 0.6), "soda.flops_ratio": (2.0,)},
    "elastic+sada": {"sada.threshold": (0.05, 0.35, 0.6), "elastic.flops_ratio": (1.1,)},
    "off": {},
    "fewer_steps": {"share": (0.66, 0.5, 0.4, 0.33, 0.25)},
    "fixed_linear": {"period": (1.5, 2, 2.5, 3, 4)},
}
"""Of every method's knob the values that lie between 1.3 and 4 times."""


def further() -> list[Setting]:
    """Families that differ from their method's own sweep in more than one field, each a curve of its own.

    E-DiT whose routers leave out next to nothing, and whose cache serves what they barely want; SADA over FORA that
    stores one residual of all blocks, with a longer period.
    """
    found = []
    for age in (1, 2, 3, 4):
        policy = make_policy("elastic", flops_ratio=1.0, band=0.49, max_age=age, start=0.2)
        found.append(Setting("elastic, served", f"max_age={age} start=0.2", policy))
    for threshold in (0.12, 0.35, 0.6):
        policy = make_policy("fora+sada", fora={"period": 3, "slots": "trunk"}, sada={"threshold": threshold})
        found.append(Setting("fora+sada, trunk", f"sada.threshold={threshold} fora.period=3 fora.slots=trunk", policy))
    return found


def short(result: Result) -> dict[str, Any]:
    """A row without what is empty, rounded."""
    found = {name: value for name, value in asdict(result).items() if value not in (None, {}, "")}
    return {name: round(value, 4) if isinstance(value, float) else value for name, value in found.items()}


def main() -> None:
    """Parse the command line and measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/comparison"))
    parser.add_argument("--prompts", type=Path, default=HERE / "prompts.txt")
    parser.add_argument("--count", type=int, default=16)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--clips", type=int, default=4)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    prompts = args.prompts.read_text(encoding="utf-8").splitlines()[: args.count]
    comparison = compare_settings(
        GenerateSettings(prompt=tuple(prompts), threads=args.threads),
        methods=tuple(VALUES),
        values={method: values for method, values in VALUES.items() if values},
        settings=further(),
        out=args.out,
        seeds=tuple(range(args.seeds)),
        speedups=SPEEDUPS,
        timed_clips=args.clips,
        repeats=args.repeats,
        command="python -m benchmarks.comparison",
        listener=lambda stage, done, total: print(f"{stage} {done}/{total}", flush=True) if done % 100 == 0 else None,
    )
    at = [{"method": at.method, "by": at.by, "speedup": at.speedup, "psnr": at.text} for at in comparison.at]
    rows = [short(result) for result in comparison.results]
    keep("comparison", {"about": comparison.about, "at_speedup": at, "rows": rows})
    shutil.copyfile(args.out / PICTURE, PICTURES / PICTURE)


if __name__ == "__main__":
    main()
