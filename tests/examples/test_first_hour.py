"""The scripts of the first hour do what they say, in a tiny form."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[2] / "examples" / "first_hour"
SMALL = ["--steps", "2", "--frames", "1", "--quiet"]


def run(command: list[str], tmp_path: Path, **more: str) -> str:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(FOLDER.parents[1]), **more}
    environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{environment['PATH']}"
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=environment)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return done.stdout


@pytest.mark.slow
def test_quickstart(tmp_path: Path) -> None:
    said = run([sys.executable, str(FOLDER / "quickstart.py")], tmp_path, STEPS="8").splitlines()
    assert said[0].startswith("exact: ")
    assert "17 frames of 64x64" in said[0]
    assert float(said[1].partition("speed: ")[2].split()[2]) > 10, "dB, of four calls"
    assert said[2] == "off is exact: True"


@pytest.mark.slow
def test_torchrun(tmp_path: Path) -> None:
    said = run([str(FOLDER / "torchrun.sh"), "out", *SMALL], tmp_path)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "alone.json", "alone.mp4", "shared.json", "shared.mp4",
    ]  # fmt: skip
    assert "hold" in said


@pytest.mark.slow
def test_slurm_array_without_slurm(tmp_path: Path) -> None:
    job = {"prompt": "a red circle moves left on a dark blue background", "steps": 2, "frames": 1}
    (tmp_path / "jobs.jsonl").write_text(json.dumps(job) + "\n")
    run([str(FOLDER / "slurm_array.sh"), "jobs.jsonl", "out"], tmp_path)
    assert list((tmp_path / "out").rglob("*.mp4")) or list((tmp_path / "out").rglob("*.png"))


@pytest.mark.slow
def test_vbench(tmp_path: Path) -> None:
    prompt = {"prompt_en": "a red circle moves left on a dark blue background", "dimension": ["temporal_flickering"]}
    (tmp_path / "info.json").write_text(json.dumps([prompt]))
    run([str(FOLDER / "vbench.sh"), "info.json", "out", "--samples", "1", "--set", "steps=2"], tmp_path)
    scores = json.loads((tmp_path / "out" / "scores" / "vbench_eval_results.json").read_text())
    assert 0 < scores["temporal_flickering"][0] <= 1


def test_the_dockerfile_installs_what_the_readme_does() -> None:
    text = (FOLDER.parents[1] / "Dockerfile").read_text()
    assert 'pip install --no-cache-dir "/src[report,eval]"' in text
    assert 'ENTRYPOINT ["videoaccel"]' in text
    assert "pip install ." in (FOLDER.parents[1] / "README.md").read_text()
