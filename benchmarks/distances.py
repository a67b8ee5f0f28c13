"""Distances at a speed-up, the papers' kind of table, of the clips that a comparison kept.

    python -m benchmarks.comparison --model examples/small_models/dit --out runs/dit --keep-clips --repeats 0
    python -m benchmarks.distances runs/dit

*Apart* is the squared distance between features of a clip's frames and the exact clip's, those of other clips being 1
apart: what LPIPS does with AlexNet's features, with those of the small classifier of stills. *Fréchet* is the distance
between all frames of a setting and all of exact, made like FID; *right* is the share of clips that show what was asked
for. All three are read off a method's curve at equal FLOPs, straight between neighbours, as PSNR is in a comparison.
Writes ``benchmarks/results/distances_NAME.json`` and, of some methods' settings nearest to half of the FLOPs,
``docs/images/clips-NAME.jpg``: the middle frame of every other clip.

Shape legend: N frames of all clips, C features, T frames, H, W pixels.
"""

import argparse
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image, ImageDraw
from torch import Tensor

from benchmarks.comparison import PICTURES, SPEEDUPS
from benchmarks.measure import keep
from examples.small_models.features import StillClassifier, frechet_distance
from examples.small_models.pixart import ways
from examples.small_models.recipe import class_name, kinds, still_scenes
from examples.small_models.score import tally
from videoaccel.comparison.kept import ENDINGS, KeptClips
from videoaccel.comparison.log import RESULTS, ROWS
from videoaccel.comparison.quality import scene_of
from videoaccel.comparison.table import psnr_at
from videoaccel.comparison.values import EXACT, OFF
from videoaccel.eval.oracle import read
from videoaccel.eval.world import Scene
from videoaccel.media.encoders import Frames
from videoaccel.media.reader import read_video

MEASURES = ("apart", "frechet", "right")
SHOWN, NEAR = (EXACT, "soda", "lemica", "taylorseer", "fora", "first_block", "elastic", "fewer_steps"), 2.0
LABEL, GAP, COLUMNS = 88, 2, 20
Row = Mapping[str, Any]


def scenes_by_prompt() -> dict[str, Scene]:
    """What sentences of stills and names of classes show."""
    scenes = still_scenes(kinds(), seed=0)
    classes = {class_name(scene): scene for scene in scenes}
    return classes | {sentence: scene for scene in scenes for sentence in ways(scene)}


def rows_of(folder: Path) -> dict[tuple[str, str], list[Row]]:
    """Measured clips of a comparison by method and setting; settings with a clip that failed are left out.

    Of a clip that was made with several priors the last counts.
    """
    found: dict[tuple[str, str], dict[tuple[str, int], Row]] = {}
    for line in (folder / ROWS).read_text(encoding="utf-8").splitlines():
        if (row := json.loads(line))["kind"] == "quality":
            found.setdefault((row["method"], row["setting"]), {})[row["prompt"], row["seed"]] = row
    return {key: list(rows.values()) for key, rows in found.items() if not any("error" in row for row in rows.values())}


def frames_of(kept: KeptClips, row: Row) -> Frames:
    """A kept clip, uint8 [T, H, W, 3].

    Raises:
        FileNotFoundError: It was not kept.
    """
    stem = kept.stem(row)
    paths = [path for end in ENDINGS if (path := stem.with_name(f"{stem.name}{end}")).exists()]
    if not paths:
        raise FileNotFoundError(f"{stem} is not there; --keep-clips keeps what a comparison makes")
    return read_video(paths[0])[0]


@torch.inference_mode()
def features(network: StillClassifier, clips: Sequence[Frames]) -> Tensor:
    """Of all frames, [N, C]."""
    frames = [torch.from_numpy(clip).permute(0, 3, 1, 2).float() / 127.5 - 1 for clip in clips]
    return torch.cat([network.features(one) for one in frames])


def apart(one: Tensor, exact: Tensor, frames: int) -> float:
    """Mean squared distance of the features of each pair of frames, those of the next clip's apart being 1."""
    usual = (exact - exact.roll(frames, 0)).square().mean()
    return float((one - exact).square().mean() / usual)


def right(clips: Sequence[Frames], scenes: Sequence[Scene]) -> dict[str, float]:
    """Percent by attribute, and of whole clips."""
    readings = [read(clip, actors=len(scene.actors)) for clip, scene in zip(clips, scenes, strict=True)]
    return tally(readings, list(scenes))


def measured(folder: Path, network: StillClassifier) -> list[dict[str, Any]]:
    """A row a setting: fewer FLOPs, and the distances."""
    kept, known = KeptClips(folder, fps=1, rate=None), scenes_by_prompt()
    found, rows = [], rows_of(folder)
    whole = rows[EXACT, ""]
    truth = features(network, [frames_of(kept, row) for row in whole])
    flops = sum(row["flops"] for row in whole) / len(whole)
    for (method, setting), some in rows.items():
        by_clip = {(row["prompt"], row["seed"]): row for row in some}
        clips = [frames_of(kept, by_clip[row["prompt"], row["seed"]]) for row in whole]
        scenes = [known.get(row["prompt"]) or scene_of(row["prompt"]) for row in whole]
        said = right(clips, [scene for scene in scenes if scene is not None]) if all(scenes) else {}
        these = features(network, clips)
        found.append(
            {
                "method": method,
                "setting": setting,
                "fewer_flops": round(flops * len(some) / sum(row["flops"] for row in some), 4),
                "apart": round(apart(these, truth, len(clips[0])), 5),
                "frechet": round(frechet_distance(these, truth), 3),
                "right": said.get("still"),
                "oracle": said,
            }
        )
        print(json.dumps(found[-1]), flush=True)
    return found


def at_speedups(found: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, dict[str, float | None]]]:
    """By method and speed-up each measure, where the method reaches it."""
    told: dict[str, dict[str, dict[str, float | None]]] = {}
    for method in dict.fromkeys(one["method"] for one in found if one["method"] not in (EXACT, OFF)):
        rows = [one for one in found if one["method"] == method]
        told[method] = {f"{speedup:g}x": {name: _at(rows, name, speedup) for name in MEASURES} for speedup in SPEEDUPS}
    return told


def _at(rows: Sequence[Mapping[str, Any]], name: str, speedup: float) -> float | None:
    sign = 1 if name == "right" else -1  # of several settings at one speed-up the best counts
    curve = sorted((one["fewer_flops"], sign * one[name]) for one in rows if one[name] is not None)
    value = psnr_at(curve, speedup)
    return None if value is None or not math.isfinite(value) else round(sign * value, 4)


def table(at: Mapping[str, Mapping[str, Mapping[str, float | None]]], name: str) -> str:
    """One measure in Markdown, a method a line, where it reaches any of the speed-ups."""
    lines = [f"| {name} | {' | '.join(f'{one:g}x' for one in SPEEDUPS)} |\n{'|---' * (1 + len(SPEEDUPS))}|"]
    for method, found in at.items():
        cells = [found[f"{one:g}x"][name] for one in SPEEDUPS]
        if any(cell is not None for cell in cells):
            lines.append(f"| {method} | {' | '.join('-' if cell is None else f'{cell:.3g}' for cell in cells)} |")
    return "\n".join(lines)


def nearest(found: Sequence[Mapping[str, Any]], method: str) -> Mapping[str, Any] | None:
    """A method's setting nearest to :data:`NEAR` times fewer FLOPs; exact's only one."""
    rows = [one for one in found if one["method"] == method]
    return min(rows, key=lambda one: abs(one["fewer_flops"] - NEAR), default=None)


def sheet(folder: Path, found: Sequence[Mapping[str, Any]]) -> Image.Image:
    """A row a method: its name and how many times fewer FLOPs, and the middle frame of every other clip."""
    kept, rows = KeptClips(folder, fps=1, rate=None), rows_of(folder)
    chosen = [one for method in SHOWN if (one := nearest(found, method)) is not None]
    clips = [(row["prompt"], row["seed"]) for row in rows[EXACT, ""]][::2][:COLUMNS]
    lines = []
    for one in chosen:
        by_clip = {(row["prompt"], row["seed"]): row for row in rows[one["method"], one["setting"]]}
        frames = [frames_of(kept, by_clip[clip]) for clip in clips]
        lines.append([Image.fromarray(each[len(each) // 2]) for each in frames])
    side = lines[0][0].width + GAP
    picture = Image.new("RGB", (LABEL + side * len(clips), side * len(lines)), "white")
    draw = ImageDraw.Draw(picture)
    for y, (one, line) in enumerate(zip(chosen, lines, strict=True)):
        told = one["method"] if one["method"] == EXACT else f"{one['method']}\n{one['fewer_flops']:.2f}x"
        draw.multiline_text((2, y * side + side // 4), told, fill="black", font_size=13)
        for x, frame in enumerate(line):
            picture.paste(frame, (LABEL + x * side, y * side))
    return picture


def main() -> None:
    """Parse the command line and measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("comparison", type=Path, help="its folder, with clips")
    parser.add_argument("--features", type=Path, default=Path("examples/small_models/features"))
    args = parser.parse_args()
    about = json.loads((args.comparison / RESULTS).read_text(encoding="utf-8"))
    network = StillClassifier.from_pretrained(args.features, dtype=torch.float32)
    found = measured(args.comparison, network)
    at = at_speedups(found)
    name = Path(about["model"]).name
    told = {"model": about["model"], "comparison": about["command"], "machine": about["machine"]}
    keep(f"distances_{name}", {**told, "at_equal_flops": at, "rows": found})
    sheet(args.comparison, found).save(PICTURES / f"clips-{name}.jpg", quality=88)
    print("\n\n".join(table(at, measure) for measure in MEASURES))


if __name__ == "__main__":
    main()
