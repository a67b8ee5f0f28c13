"""What acceleration leaves of a small model's stills: the papers' kind of table, a distance at a speed-up.

    python -m benchmarks.small_models --model examples/small_models/dit --out runs/dit_stills

Of every method of ``comparison_NAME.json`` the setting nearest to half of the FLOPs draws one still of each of the 124
kinds (``--every 4``: of 31). Beside PSNR against the exact still: the distance of both in the features of the small
classifier (what LPIPS does with AlexNet's), the Fréchet distance between all stills and as many rendered ones, and what
the oracle reads.
Resumes: a setting's stills are kept in ``--out``. Writes ``benchmarks/results/small_models_NAME.json``.

Shape legend: B stills, H, W pixels.
"""

import argparse
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.comparison import STEPS
from benchmarks.measure import RESULTS, keep
from examples.small_models.features import StillClassifier
from examples.small_models.pixart import ways
from examples.small_models.recipe import is_held_out, kinds, still_scenes
from examples.small_models.score import distance, rendered, tally
from videoaccel.comparison.bench import Bench
from videoaccel.comparison.clip import Clip
from videoaccel.comparison.settings import Setting
from videoaccel.comparison.values import EXACT
from videoaccel.eval.oracle import read
from videoaccel.eval.world import Scene
from videoaccel.generation.pipeline import VideoPipeline
from videoaccel.generation.request import prompt_texts
from videoaccel.planning.prior import Prior
from videoaccel.session.registry import make_policy

Stills = NDArray[np.uint8]
RATIO, NEAR = 2.0, 0.35
"""Times fewer FLOPs that are looked for, and how far off a setting may be."""


def nearest(rows: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Of each method the row nearest to :data:`RATIO`, if one is near."""
    found: dict[str, dict[str, Any]] = {}
    for row in rows:
        ratio = row.get("speedup_flops")
        if row["method"] in (EXACT, "off") or "error" in row or ratio is None:
            continue
        off = abs(ratio - RATIO)
        if off <= NEAR and off < abs(found.get(row["method"], {"speedup_flops": math.inf})["speedup_flops"] - RATIO):
            found[row["method"]] = row
    return found


def setting_of(row: dict[str, Any]) -> Setting:
    """The setting that a row was measured with, of what it says, such as ``period=2 slots=trunk``."""
    fields: dict[str, Any] = {}
    for word in row.get("setting", "").split():
        name, value = word.split("=")
        at = fields
        *above, last = name.split(".")
        for part in above:
            at = at.setdefault(part, {})
        at[last] = _typed(value)
    method = row["method"].split(",")[0]
    return Setting(row["method"], row.get("setting", ""), make_policy(method, **fields))


def routers_of(row: dict[str, Any]) -> list[Path]:
    """Files of routers that a row was measured with."""
    words = row.get("setting", "").split()
    return [Path(word.partition("=")[2]) for word in words if word.startswith("router=")]


def _typed(value: str) -> Any:
    for kind in (int, float):
        try:
            return kind(value)
        except ValueError:
            continue
    return value


class Studio:
    """Draws stills with any setting."""

    def __init__(self, model: Path, every: int) -> None:
        pipe: Any = VideoPipeline.from_pretrained(model)
        pipe.set_progress_bar_config(disable=True)
        self.kinds = kinds()[::every]
        self.scenes: list[Scene] = still_scenes(self.kinds, seed=0)
        if model.name == "dit":
            self.prompts = [f"{s.actors[0].colour} {s.actors[0].shape} on {s.background}" for s in self.scenes]
        else:
            self.prompts = [ways(scene)[1] for scene in self.scenes]
        texts = prompt_texts(self.prompts, pipe.defaults, loops=1)
        states = {prompt: pipe.encode_prompt(text) for prompt, text in zip(self.prompts, texts, strict=True)}
        prior = Prior.load(model.with_name(f"{model.name}-prior.safetensors"))
        self.bench = Bench(pipe, states, {"num_inference_steps": STEPS[model.name]}, prior=prior)

    def stills(self, setting: Setting, path: Path) -> tuple[Stills, float]:
        """Stills uint8 [B, H, W, 3] and mean FLOPs of one; kept at a path."""
        if not path.exists():
            made, flops = [], 0.0
            if (reason := self.bench.why_not(setting, Clip(self.prompts[0], 0))) is not None:
                raise ValueError(f"{setting}: {reason}")
            for number, prompt in enumerate(self.prompts):
                run = self.bench.make(Clip(prompt, number), setting)
                made.append(np.asarray(self.bench.decode(run))[0])
                flops += (self.bench.decided(run).flops or 0.0) / len(self.prompts)
            np.savez_compressed(path, stills=np.stack(made), flops=flops)
        kept = np.load(path)
        return kept["stills"], float(kept["flops"])


@torch.inference_mode()
def apart(network: StillClassifier, one: Stills, other: Stills) -> float:
    """Mean squared distance of the features of each pair of stills, those of other stills apart being 1."""
    sets = [network.features(torch.from_numpy(x).permute(0, 3, 1, 2).float() / 127.5 - 1) for x in (one, other)]
    usual = (sets[1] - sets[1].roll(1, 0)).square().mean()
    return float((sets[0] - sets[1]).square().mean() / usual)


def psnr(one: Stills, other: Stills) -> list[float]:
    """Of each still, in dB."""
    error = ((one.astype(np.float64) - other.astype(np.float64)) ** 2).mean((1, 2, 3))
    return [math.inf if e == 0 else 10 * math.log10(255**2 / e) for e in error]


def figures(studio: Studio, network: StillClassifier, made: Stills, exact: Stills) -> dict[str, Any]:
    """Everything that is said of a setting's stills."""
    real = rendered(studio.scenes, seed=0)
    readings = [read(still[None], actors=1) for still in made]
    kept = psnr(made, exact)
    worst = int(np.argmin(kept))
    held = [k for k, kind in enumerate(studio.kinds) if is_held_out(*kind)]
    return {
        "psnr": round(float(np.mean(kept)), 2) if max(kept) < math.inf else None,
        "worst_psnr": round(kept[worst], 2) if max(kept) < math.inf else None,
        "worst": studio.prompts[worst],
        "features_apart": round(apart(network, made, exact), 4),
        "frechet": round(distance(network, made, real), 1),
        "frechet_to_exact": round(distance(network, made, exact), 2),
        "oracle": tally(readings, studio.scenes),
        "oracle_held_out": tally([readings[k] for k in held], [studio.scenes[k] for k in held]) if held else {},
    }


def main() -> None:
    """Parse the command line and measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True, help="folder of a small model")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--features", type=Path, default=Path("examples/small_models/features"))
    parser.add_argument("--every", type=int, default=1, help="of the kinds; a distance of few stills says little")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    name = args.model.name
    rows = json.loads((RESULTS / f"comparison_{name}.json").read_text())["rows"]
    network, studio = (
        StillClassifier.from_pretrained(args.features, dtype=torch.float32),
        Studio(args.model, args.every),
    )
    exact, whole = studio.stills(Setting(EXACT), args.out / "exact.npz")
    found = [{"method": EXACT, "fewer_flops": 1.0, **figures(studio, network, exact, exact)}]
    for method, row in nearest(rows).items():
        missing = [path for path in routers_of(row) if not path.exists()]
        if missing:
            print(f"{method} is left out: {missing[0]} is not here", flush=True)
            continue
        stills, flops = studio.stills(setting_of(row), args.out / f"{method.replace(' ', '_')}.npz")
        said = {"method": method, "setting": row.get("setting", ""), "fewer_flops": round(whole / flops, 3)}
        found.append({**said, **figures(studio, network, stills, exact)})
        print(json.dumps(found[-1]), flush=True)
    floor = distance(network, rendered(studio.scenes, seed=1), rendered(studio.scenes, seed=0))
    keep(
        f"small_models_{name}", {"model": str(args.model), "stills": len(exact), "frechet_floor": floor, "rows": found}
    )


if __name__ == "__main__":
    main()
