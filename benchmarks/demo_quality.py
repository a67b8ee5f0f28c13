"""What acceleration does to the demo model's clips: fidelity to the exact ones, and whether sentences are still shown.

    python -m benchmarks.demo_quality --methods soda,sada,elastic-served [--clips 8] [--report docs/examples]

Every method makes the same held-out sentences with the same seeds through ``videoaccel generate``; ``exact`` is always
there. Methods that take no ``--speedup``, and those in the box, run as they are. Each method's report is copied to
``--report``.
"""

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.measure import keep
from videoaccel.eval.world import held_out_scenes
from videoaccel.evaluation.evaluate import Evaluation, evaluate
from videoaccel.session.registry import policy_class, policy_names


def main() -> None:
    """Measure and keep the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--methods", default="soda")
    parser.add_argument("--speedup", default="2")
    parser.add_argument("--clips", type=int, default=8)
    parser.add_argument("--report", type=Path)
    given = parser.parse_args()
    rows: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        scenes = held_out_scenes(given.clips, seed=0)
        (folder / "prompts.txt").write_text("".join(f"{scene.sentence()}\n" for scene in scenes), encoding="utf-8")
        _make(folder, "exact", [])
        rows["exact"] = _numbers(evaluate(folder / "exact", out=folder / "out-exact", suite=["demo"]))
        for method in given.methods.split(","):
            aims = method in policy_names() and "speedup" in policy_class(method).model_fields
            target = ["--speedup", given.speedup] if aims else []
            _make(folder, method, ["--accel", method, *target])
            found = evaluate(
                folder / method,
                out=folder / f"out-{method}",
                reference=folder / "exact",
                suite=["psnr", "ssim", "frame_difference", "flicker_ratio", "demo"],
                command=f"videoaccel evaluate {method} --reference exact",
            )
            rows[method] = _numbers(found)
            if given.report:
                given.report.mkdir(parents=True, exist_ok=True)
                report = (folder / f"out-{method}" / "report.html").read_text(encoding="utf-8")
                page = given.report / f"evaluation-{method}.html"
                page.write_text(report.replace(f"{folder}/", ""), encoding="utf-8")
    keep("demo_quality", {"clips": given.clips, "speedup": float(given.speedup), "rows": rows})


def _make(folder: Path, method: str, options: list[str]) -> None:
    (folder / method).mkdir()
    command = [sys.executable, "-m", "videoaccel", "generate", "--prompts", str(folder / "prompts.txt"), "--quiet"]
    subprocess.run([*command, "-o", str(folder / method / "clip.mp4"), *options], check=True)


def _numbers(found: Evaluation) -> dict[str, float | None]:
    assert not found.failures and found.complete
    return {result.metric: result.score for result in found.results}


if __name__ == "__main__":
    main()
