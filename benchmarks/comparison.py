"""All methods, pairs of them and both controls on the same clips of a trained model: quality, then time.

    python -m benchmarks.comparison --out runs/comparison
    python -m benchmarks.comparison --out runs/dit --model examples/small_models/dit
    python -m benchmarks.comparison --out runs/pixart --model examples/small_models/pixart
    python -m benchmarks.comparison --out runs/lcm --model examples/small_models/pixart_lcm

16 prompts x 2 seeds are made with every setting (about 125 of them, for the demo model 2 s each on one core); then 4
clips are timed three times. Resumes. Writes ``benchmarks/results/comparison.json`` and
``docs/images/speed-quality.png`` and ``methods.png``, of a model that is a folder files with its name in theirs, and
takes the prior ``NAME-prior.safetensors`` beside the folder, and ``NAME-routers.safetensors`` if it is there. With
``--published`` only the settings in the box that were published on such a network run, and the file is
``published_NAME.json``.
"""

import argparse
import shutil
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.measure import keep
from examples.small_models.pixart import ways
from examples.small_models.recipe import class_name, kinds, still_scenes
from videoaccel.comparison.compare import PANELS, PICTURE, compare_settings
from videoaccel.comparison.settings import Setting
from videoaccel.comparison.table import Result
from videoaccel.jobs.parts import strewn
from videoaccel.planning.prior import Prior
from videoaccel.session.registry import make_policy
from videoaccel.settings.generate import GenerateSettings

HERE = Path(__file__).parent
PICTURES = HERE.parent / "docs" / "images"
SPEEDUPS = (1.5, 2.0, 2.5, 3.0)
STEPS = {"demo": 30, "dit": 50, "pixart": 20, "pixart_lcm": 4}

VALUES: dict[str, dict[str, tuple[Any, ...]]] = {
    "soda": {"flops_ratio": (1.25, 1.5, 1.75, 2.0, 2.25, 2.5, 3.0, 3.5, 4.0)},
    "sada": {"threshold": (0.03, 0.05, 0.08, 0.12, 0.2, 0.35)},
    "lemica": {"budget": (19, 15, 12, 10, 9)},
    "magcache": {"max_skips": (1, 2, 3, 4, 5, 7)},
    "adacache": {"fastest": (3, 4, 5, 6, 8)},
    "teacache": {"threshold": (0.05, 0.1, 0.15, 0.2, 0.3)},
    "fora": {"period": (2, 3, 4, 5)},
    "taylorseer": {"period": (2, 3, 4)},
    "easycache": {"threshold": (0.025, 0.05, 0.1, 0.2, 0.3)},
    "bwcache": {"threshold": (0.03, 0.04, 0.05, 0.1, 0.2)},
    "precisecache": {"factor": (0.15, 0.25, 0.35, 0.5, 0.7)},
    "seacache": {"threshold": (0.1, 0.2, 0.3, 0.4, 0.6)},
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


SMALL: dict[str, dict[str, tuple[Any, ...]]] = {
    "soda": {"flops_ratio": (1.25, 1.5, 1.75, 2.0, 2.5, 3.0)},
    "sada": {"threshold": (0.05, 0.12, 0.35)},
    "lemica": {"budget": (20, 15, 12, 10)},
    "magcache": {"max_skips": (1, 2, 3)},
    "adacache": {"fastest": (3, 5)},
    "teacache": {"threshold": (0.05, 0.1, 0.2, 0.3)},
    "fora": {"period": (2, 3)},
    "taylorseer": {"period": (2, 3)},
    "easycache": {"threshold": (0.025, 0.05, 0.1, 0.2)},
    "bwcache": {"threshold": (0.03, 0.05, 0.1, 0.2), "interval": (0.04,)},
    "precisecache": {"factor": (0.7, 1.0, 2.0)},
    "seacache": {"threshold": (0.1, 0.2, 0.3)},
    "first_block": {"threshold": (0.05, 0.08, 0.2, 0.3)},
    "duca": {"period": (2, 4)},
    "toca": {"period": (2, 4)},
    "pab": {"spatial": (2, 4)},
    "tgate": {"gate": (0.7, 0.5)},
    "fastercache": {"interval": (1, 3)},
    "delta_dit": {"interval": (2, 3, 4)},
    "delta_dit+sada": {"sada.threshold": (0.12, 0.6)},
    "fora+sada": {"sada.threshold": (0.12, 0.6), "fora.period": (2,)},
    "soda+sada": {"sada.threshold": (0.12, 0.6), "soda.flops_ratio": (2.0,)},
    "fewer_steps": {"share": (0.8, 0.66, 0.5, 0.4, 0.33)},
    "fixed_linear": {"period": (1.25, 1.5, 2, 3)},
}
"""The same for the small models of images: fewer."""

FEW: dict[str, dict[str, tuple[Any, ...]]] = {
    "delta_dit": {"share": (0.25, 0.5, 0.75), "interval": (2,), "last": (False,)},
    "fora": {"period": (2,)},
    "first_block": {"threshold": (1.0, 2.0)},
    "fewer_steps": {"share": (0.75, 0.5)},
    "fixed_linear": {"period": (1.5, 2), "order": (0,)},
}
"""The same for a network of four steps: what needs no prior and can leave out one of them."""

PUBLISHED = {
    "dit": ("soda-dit-ddim",),
    "pixart": ("soda-pixart-8", "soda-pixart-7", "delta-dit-pixart"),
    "pixart_lcm": ("delta-dit-lcm",),
}
"""Files in the box with the settings that were published on such a network; each is one point."""

ELASTIC = (1.25, 1.5, 1.9, 2.3)
"""Times fewer FLOPs that routers of a small model are asked for, where it has some; E-DiT was published at 1.9x."""


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


def values_for(model: str) -> dict[str, dict[str, tuple[Any, ...]]]:
    """Values of every method's knob, numbers of network calls for the model's steps."""
    steps = STEPS[Path(model).name]
    published: dict[str, dict[str, tuple[Any, ...]]] = {name: {} for name in PUBLISHED.get(Path(model).name, ())}
    if steps < 10:
        return FEW | published
    chosen = VALUES if model == "demo" else SMALL
    calls = tuple(round(count * steps / 30) for count in chosen["lemica"]["budget"])
    routers = Path(model).with_name(f"{Path(model).name}-routers.safetensors")
    elastic = {"elastic": {"flops_ratio": ELASTIC, "router": (routers.as_posix(),)}} if routers.exists() else {}
    return {**chosen, "lemica": {"budget": calls}, **elastic, **published}


def prompts_for(model: str) -> list[str]:
    """Sentences of the demo world; of a small model classes, or sentences that name no motion.

    The latter are all that the small model's prior was not calibrated on (``prompts.txt``, ``classes.txt``), so strewn
    that any first few are of all colours, shapes and backgrounds.
    """
    if model == "demo":
        return (HERE / "prompts.txt").read_text(encoding="utf-8").splitlines()
    every = still_scenes(kinds(), seed=0)
    scenes = [every[k] for k in strewn(len(every))]
    if Path(model).name == "dit":
        file, named = "classes.txt", [class_name(scene) for scene in scenes]
    else:
        file, named = "prompts.txt", [ways(scene)[1] for scene in scenes]
    known = (Path(model).parent / file).read_text(encoding="utf-8").splitlines()
    return [prompt for prompt in named if prompt not in known]


def short(result: Result) -> dict[str, Any]:
    """A row without what is empty, rounded."""
    found = {name: value for name, value in asdict(result).items() if value not in (None, {}, "")}
    return {name: round(value, 4) if isinstance(value, float) else value for name, value in found.items()}


def main() -> None:
    """Parse the command line and measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/comparison"))
    parser.add_argument("--model", default="demo", help="demo, or the folder of a small model")
    parser.add_argument("--prompts", type=Path, default=None, help="default those of the model")
    parser.add_argument("--count", type=int, default=16)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--clips", type=int, default=4)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--keep-clips", action="store_true", help="for benchmarks.distances")
    parser.add_argument("--published", action="store_true", help="published settings alone, in a file of their own")
    args = parser.parse_args()
    args.out.parent.mkdir(parents=True, exist_ok=True)
    demo, name = args.model == "demo", Path(args.model).name
    if args.published and name not in PUBLISHED:
        parser.error(f"--published: nothing was published on such a network; models: {', '.join(PUBLISHED)}")
    prompts = args.prompts.read_text(encoding="utf-8").splitlines() if args.prompts else prompts_for(args.model)
    file = Path(args.model).with_name(f"{name}-prior.safetensors")
    prior = Prior.load(file) if not demo and file.exists() else None
    few = {"guidance": 1.0} if STEPS[name] < 10 else {}  # what is distilled holds it
    settings = GenerateSettings(
        model=args.model, prompt=tuple(prompts[: args.count]), threads=args.threads, steps=STEPS[name], **few
    )
    values = values_for(args.model)
    if args.published:
        values = {method: {} for method in PUBLISHED[name]}
    comparison = compare_settings(
        settings,
        methods=tuple(values),
        values={method: fields for method, fields in values.items() if fields},
        settings=further() if demo else (),
        controls=not args.published,
        out=args.out,
        keep_clips=args.keep_clips,
        prior=prior,
        seeds=tuple(range(args.seeds)),
        speedups=SPEEDUPS,
        timed_clips=args.clips,
        repeats=args.repeats,
        command=" ".join(["python -m benchmarks.comparison", *sys.argv[1:]]),
        listener=lambda stage, done, total: print(f"{stage} {done}/{total}", flush=True) if done % 100 == 0 else None,
    )
    at = [{"method": at.method, "by": at.by, "speedup": at.speedup, "psnr": at.text} for at in comparison.at]
    rows = [short(result) for result in comparison.results]
    stem = "comparison" if demo else f"{'published' if args.published else 'comparison'}_{name}"
    keep(stem, {"about": comparison.about, "at_speedup": at, "rows": rows})
    for picture in () if args.published else (PICTURE, PANELS):
        stem, ending = picture.split(".")
        shutil.copyfile(args.out / picture, PICTURES / (picture if demo else f"{stem}-{name}.{ending}"))


if __name__ == "__main__":
    main()
