"""The bridge to the official ``vbench`` package: it runs in a Python of its own, and its result is read back.

Its dependencies (torchvision, detectron2, old versions of much else) do not go together with ours; so a small script is
given to that Python. On a CPU the script first tells torch of two operators, without which a torchvision built for
CUDA cannot be imported; the package itself is not changed.
"""

from __future__ import annotations

import json
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from videoaccel.eval.metric import Score
from videoaccel.eval.metric_names import metric_class
from videoaccel.eval.official import OfficialMetric
from videoaccel.evaluation.clips import ClipFile
from videoaccel.evaluation.rows import NOT_COUNTED, Row

_NAME = "videoaccel"
_SCRIPT = """
import json, sys
job = json.load(open(sys.argv[1]))
import torch
if not torch.cuda.is_available():
    library = torch.library.Library("torchvision", "DEF")
    for name in ("nms", "qnms"):
        library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
from vbench import VBench
device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
for dimension, videos in job["dimensions"].items():
    try:
        runner = VBench(device, job["full_info"], job["out"])
        arguments = dict(name=f"{job['name']}-{dimension}", dimension_list=[dimension], local=True)
        if job["standard"]:
            runner.evaluate(job["videos"], mode="vbench_standard", **arguments)
        else:
            runner.evaluate(job["videos"], prompt_list=job["prompts"], mode="custom_input", **arguments)
    except Exception as error:
        json.dump(f"{type(error).__name__}: {error}", open(f"{job['out']}/{dimension}.error", "w"))
"""
"""What the other Python runs; one dimension's failure leaves the others alone."""

_CUSTOM_REFUSED = (
    "object_class", "multiple_objects", "scene", "appearance_style", "color", "spatial_relationship",
)  # fmt: skip


@dataclass(frozen=True)
class OfficialRun:
    """What the official package said.

    Attributes:
        rows: By dimension, one a clip.
        scores: Its own score of each dimension.
        errors: Why a dimension has none.
    """

    rows: Mapping[str, Sequence[Row]]
    scores: Mapping[str, float]
    errors: Mapping[str, str]


def run_official(
    python: str,
    dimensions: Sequence[str],
    folder: Path,
    clips: Sequence[ClipFile],
    *,
    full_info: Path | None,
    cache: Path,
) -> OfficialRun:
    """Have the official package measure dimensions.

    Args:
        python: The Python that has it.
        dimensions: Names.
        folder: With the clips.
        clips: Those, with their prompts.
        full_info: A ``VBench_full_info.json``, which makes it run in its standard mode; without one six of the
            dimensions are not to be had.
        cache: Its ``VBENCH_CACHE_DIR``.

    Raises:
        ValueError: That Python does not run, or has no ``vbench``.
    """
    info = _info_file(python) if full_info is None else full_info
    custom = [] if full_info else [name for name in dimensions if name in _CUSTOM_REFUSED]
    refused = dict.fromkeys(custom, "needs --prompts VBench_full_info.json")
    wanted = [name for name in dimensions if name not in refused]
    with tempfile.TemporaryDirectory(prefix="videoaccel-vbench-") as temporary:
        out = Path(temporary)
        job = {
            "dimensions": dict.fromkeys(wanted), "full_info": str(info), "out": str(out), "name": _NAME,
            "videos": str(folder.absolute()), "standard": full_info is not None,
            "prompts": {clip.name: clip.prompt or "" for clip in clips},
        }  # fmt: skip
        (out / "job.json").write_text(json.dumps(job), encoding="utf-8")
        (out / "script.py").write_text(_SCRIPT, encoding="utf-8")
        told = _run([python, str(out / "script.py"), str(out / "job.json")], cache)
        return _collect(out, dimensions, clips, refused, told)


def check_official(python: str) -> None:
    """Make sure that a Python runs and has the package, before clips are measured.

    Raises:
        ValueError: It does not, or has none.
    """
    _info_file(python)


def _run(command: Sequence[str], cache: Path) -> str:
    """The last line of what a command said on stderr, if it failed."""
    import os

    environment = {**os.environ, "VBENCH_CACHE_DIR": str(cache)}
    environment.pop("PYTHONPATH", None)  # ours; the other Python has its own packages
    try:
        done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    except OSError as error:
        raise ValueError(f"--official {command[0]} cannot be run: {error.strerror}") from None
    lines = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
    if "No module named 'vbench'" in done.stderr:
        raise ValueError(f"--official {command[0]} has no vbench: {command[0]} -m pip install vbench==0.1.5")
    return lines[-1] if done.returncode else ""


def _info_file(python: str) -> Path:
    command = [python, "-c", "import importlib.util as u; print(u.find_spec('vbench').submodule_search_locations[0])"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError as error:
        raise ValueError(f"--official {python} cannot be run: {error.strerror}") from None
    if done.returncode:
        raise ValueError(f"--official {python} has no vbench: {python} -m pip install vbench==0.1.5")
    return Path(done.stdout.strip()) / "VBench_full_info.json"


def _collect(
    out: Path, dimensions: Sequence[str], clips: Sequence[ClipFile], refused: Mapping[str, str], told: str
) -> OfficialRun:
    rows: dict[str, Sequence[Row]] = {}
    scores: dict[str, float] = {}
    errors = dict(refused)
    for name in dimensions:
        place, failed = out / f"{_NAME}-{name}_eval_results.json", out / f"{name}.error"
        if name in errors:
            continue
        if place.is_file():
            score, entries = json.loads(place.read_text(encoding="utf-8"))[name]
            scores[name], rows[name] = float(score), _rows(name, entries, clips)
        elif failed.is_file():
            errors[name] = f"the official package failed: {json.loads(failed.read_text(encoding='utf-8'))}"
        else:
            errors[name] = f"the official package wrote no result: {told or 'it says nothing'}"
    return OfficialRun(rows, scores, errors)


def _rows(name: str, entries: Sequence[Mapping[str, Any]], clips: Sequence[ClipFile]) -> list[Row]:
    """One row for each clip; those that the package has skipped without a word are failures."""
    by_name = {Path(str(entry["video_path"])).name: entry for entry in entries}
    return [_row(name, clip, by_name.get(clip.name)) for clip in clips]


def _row(name: str, clip: ClipFile, entry: Mapping[str, Any] | None) -> Row:
    if clip.dimensions is not None and name not in clip.dimensions:
        reason = "the prompt was written for other dimensions" if clip.dimensions else NOT_COUNTED
        return Row(clip.name, name, "", reason=reason)
    if entry is None:
        if name == "color":
            return Row(
                clip.name, name, "", reason="the object was not seen in any colour; VBench leaves such clips out"
            )
        return Row(clip.name, name, "", error="the official package gives no result for it")
    kind = metric_class(name)
    score = kind.read(entry) if issubclass(kind, OfficialMetric) else Score(float(entry["video_results"]))
    return Row(clip.name, name, "", score=score)
