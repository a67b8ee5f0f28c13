"""Which versions of Python, torch, diffusers and transformers the program works with, found by running.

    python -m benchmarks.versions --uv uv --environments FOLDER --docs docs/versions.md

Every row is an environment of its own in FOLDER, made by uv where it is not there yet (whoever needs another torch than
the package index brings makes the environment by hand, under the row's name). In it runs a fixed selection of the
tests, a minute or two on an idle machine; what was installed is read from the environment, not from the row.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ElementTree
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.measure import RESULTS

BEGIN, END = "<!-- versions: begin -->", "<!-- versions: end -->"

PARTS: Mapping[str, tuple[str, ...]] = {
    "models": (
        "tests/models/test_dit.py",
        "tests/models/test_frame_vae.py",
        "tests/models/test_latte.py",
        "tests/models/test_pixart.py",
        "tests/models/test_weights.py",
    ),
    "pipeline": (
        "tests/generation/test_pipeline.py",
        "tests/sampling/test_ddim.py",
        "tests/sampling/test_solvers.py",
        "tests/text/test_cache.py",
        "tests/text/test_encoder.py",
    ),
    "sessions": (
        "tests/session/test_action_session.py",
        "tests/session/test_columns.py",
        "tests/session/test_slots.py",
    ),
    "adapter": (
        "tests/adapters/test_attach.py",
        "tests/adapters/test_loops.py",
        "tests/adapters/test_outputs.py",
        "tests/outside/test_generate.py",
    ),
    "networks of metrics": ("tests/eval/test_networks.py",),
}
"""Part -> the files that are run for it."""

LEFT_OUT = ("tests/generation/test_pipeline.py::test_a_fresh_process_loads_the_demo",)
"""Starts a process, which takes as long as much of the rest."""

BESIDE = (
    *("numpy", "accelerate", "safetensors", "av", "pillow", "ftfy", "pydantic", "pyyaml", "filelock"),
    *("sentencepiece", "protobuf", "typer", "rich", "pytest", "hypothesis", "torchmetrics", "scipy"),
)
"""What a row needs beside the four, in the newest versions that fit."""

SHOWN = ("torch", "diffusers", "transformers", "huggingface-hub", "numpy")
MOST_SECONDS = 1200


@dataclass(frozen=True)
class Row:
    """One environment; a version without its last part stands for the newest of it."""

    python: str
    torch: str
    diffusers: str
    transformers: str

    @property
    def name(self) -> str:
        """Also its folder's."""
        return f"py{self.python}-torch{self.torch}-diffusers{self.diffusers}-transformers{self.transformers}"


ROWS: tuple[Row, ...] = (
    *(Row("3.11", "2.13.0", f"0.{minor}", "5.24") for minor in (42, 41, 40, 39)),
    *(Row("3.11", "2.13.0", "0.42", version) for version in ("5.10", "5.0", "4.57")),
    *(Row("3.11", "2.13.0", diffusers, "4.57") for diffusers in ("0.41", "0.40", "0.39")),
    Row("3.11", "2.13.0", "0.39", "4.48"),
    *(Row(version, "2.13.0", "0.42", "5.24") for version in ("3.12", "3.13")),
    *(Row("3.11", version, "0.42", "5.24") for version in ("2.14.1", "2.9.1", "2.6.0")),
    Row("3.10", "2.13.0", "0.41", "5.10"),  # transformers 5.24 wants Python 3.11
    Row("3.10", "2.6.0", "0.39", "4.48"),
)


def made(row: Row, *, uv: str, folder: Path, find_links: str | None) -> Path:
    """The Python of a row's environment, which is made if it is not there.

    Raises:
        RuntimeError: These versions do not install together; says why.
    """
    python = folder / row.name / "bin" / "python"
    if python.exists():
        return python
    specs = [f"torch=={row.torch}", f"diffusers=={row.diffusers}.*", f"transformers=={row.transformers}.*", *BESIDE]
    links = ["--find-links", find_links] if find_links else []
    for command in (
        [uv, "venv", "-q", "--python", row.python, str(python.parent.parent)],
        [uv, "pip", "install", "-q", "--python", str(python), *links, *specs],
    ):
        ran = subprocess.run(command, capture_output=True, text=True)
        if ran.returncode:
            if python.exists():
                python.unlink()  # half an environment is none
            raise RuntimeError(" ".join(ran.stderr.split()))
    return python


def installed(python: Path) -> dict[str, str]:
    """Versions in an environment, Python's among them."""
    program = (
        "import json, platform, importlib.metadata as m\n"
        f"found = {{name: m.version(name) for name in {SHOWN!r}}}\n"
        "print(json.dumps({'python': platform.python_version(), **found}))"
    )
    return dict(json.loads(subprocess.run([python, "-c", program], check=True, capture_output=True, text=True).stdout))


def tried(python: Path, parts: Mapping[str, Sequence[str]] = PARTS) -> dict[str, dict[str, Any]]:
    """Run the tests of all parts; ``{part: {passed, failed, first}}`` with the first failure's last line."""
    files = [file for some in parts.values() for file in some]
    quiet = {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false", "OMP_NUM_THREADS": "1"}
    with tempfile.TemporaryDirectory() as folder:
        record = Path(folder) / "tests.xml"
        command = [str(python), "-m", "pytest", "-q", "-p", "no:cacheprovider", "-m", "not slow"]
        command += ["--continue-on-collection-errors", f"--junitxml={record}", *files]
        command += [f"--deselect={test}" for test in LEFT_OUT]
        ran = subprocess.run(
            command,
            env={**os.environ, **quiet, "PYTHONPATH": os.getcwd()},
            capture_output=True,
            text=True,
            timeout=MOST_SECONDS,
        )
        if not record.exists():
            said = (ran.stderr or ran.stdout).strip().splitlines()
            return {part: {"passed": 0, "failed": 1, "first": said[-1] if said else "no word"} for part in parts}
        return counted(ElementTree.parse(record).getroot(), parts)


def counted(record: ElementTree.Element, parts: Mapping[str, Sequence[str]]) -> dict[str, dict[str, Any]]:
    """What came of each part, from pytest's JUnit record; a file that could not be read is one failure."""
    homes = {file.removesuffix(".py").replace("/", "."): part for part, files in parts.items() for file in files}
    counts: dict[str, dict[str, Any]] = {part: {"passed": 0, "failed": 0} for part in parts}
    for case in record.iter("testcase"):
        where = case.get("classname") or case.get("name") or ""
        one = counts[next(part for home, part in homes.items() if where == home or where.startswith(home + "."))]
        wrong = [child for child in case if child.tag in {"failure", "error"}]
        if wrong:
            one["failed"] += 1
            lines = (wrong[0].text or wrong[0].get("message") or "").strip().splitlines()
            told = [line[1:].strip() for line in lines if line.startswith("E ")] or lines[-1:]
            one.setdefault("first", f"{case.get('name')}: {told[0] if told else ''}")
        elif case.find("skipped") is None:
            one["passed"] += 1
    return counts


def run_rows(rows: Sequence[Row], record: dict[str, Any], *, uv: str, folder: Path, find_links: str | None) -> None:
    """Try rows one after another, and keep each as soon as it is there."""
    for row in rows:
        try:
            python = made(row, uv=uv, folder=folder, find_links=find_links)
            result: dict[str, Any] = {"installed": installed(python), "parts": tried(python)}
        except RuntimeError as reason:
            result = {"not_installed": str(reason)}
        except subprocess.TimeoutExpired:
            print(row.name, f"was not done in {MOST_SECONDS} s", flush=True)
            continue
        record["rows"][row.name] = result
        keep_record(record)
        print(row.name, json.dumps(result)[:400], flush=True)


def keep_record(record: Mapping[str, Any]) -> None:
    """Write the record where the results of all benchmarks are."""
    (RESULTS / "versions.json").write_text(json.dumps(record, indent=1) + "\n")


def cell(part: Mapping[str, Any]) -> str:
    """A part's cell of the table."""
    if not part["failed"]:
        return f"{part['passed']} passed"
    return f"**{part['failed']} failed**, {part['passed']} passed"


def table(record: Mapping[str, Any]) -> str:
    """The record as Markdown: a line a row, then what failed first in each part that failed."""
    names = ("Python", "torch", "diffusers", "transformers")
    lines = [f"| {' | '.join((*names, *PARTS))} |", f"|{' --- |' * (len(names) + len(PARTS))}"]
    said = []
    for row in ROWS:
        if (result := record["rows"].get(row.name)) is None:
            continue
        if (reason := result.get("not_installed")) is not None:
            versions = (row.python, row.torch, row.diffusers, row.transformers)
            lines.append(f"| {' | '.join(versions)} |{' not installed |' * len(PARTS)}")
            said.append(f"* {' / '.join(versions)} cannot be installed together: {reason.split('cause: ')[-1]}")
            continue
        here = [result["installed"][name.lower()] for name in names]
        lines.append(f"| {' | '.join((*here, *(cell(result['parts'][part]) for part in PARTS)))} |")
        for part in PARTS:
            if (first := result["parts"][part].get("first")) is not None:
                said.append(f"* {' / '.join(here)}, {part}: `{first.replace('`', chr(39))}`")
    return "\n".join([*lines, "", *said])


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--uv", default="uv", help="the uv to make environments with")
    parser.add_argument("--environments", type=Path, default=Path(tempfile.gettempdir()) / "versions")
    parser.add_argument("--find-links", help="a folder of wheels to look in, too")
    parser.add_argument("--only", default="", help="rows whose names contain one of these, separated by commas")
    parser.add_argument("--docs", type=Path, help="write the table into this page, between its two marks")
    parser.add_argument("--no-run", action="store_true", help="the table of what was kept")
    args = parser.parse_args()
    kept = RESULTS / "versions.json"
    record = json.loads(kept.read_text()) if kept.exists() else {"rows": {}}
    record["machine"] = f"{platform.system()} {platform.machine()}, CPU"
    if not args.no_run:
        parts = [part for part in args.only.split(",") if part]
        rows = [row for row in ROWS if not parts or any(part in row.name for part in parts)]
        run_rows(rows, record, uv=args.uv, folder=args.environments, find_links=args.find_links)
    if args.docs is None:
        sys.stdout.write(table(record) + "\n")
        return
    before, _, rest = args.docs.read_text().partition(BEGIN)
    _, _, after = rest.partition(END)
    args.docs.write_text(f"{before}{BEGIN}\n{table(record)}\n{END}{after}")


if __name__ == "__main__":
    main()
