"""What other tools do on the pipelines that ``accelerate`` takes, every cell from runs on tiny random networks.

    python -m benchmarks.peers --python FOLDER/bin/python --docs docs/diffusers.md

``--python`` is that of an environment with torch, diffusers, transformers, accelerate and ``cache-dit`` (1.5); ours
runs in this one. How a cell comes about is told in ``benchmarks.peer_cells``; settings stand in
``benchmarks.peer_tools``.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.measure import RESULTS, keep
from benchmarks.peer_cases import CASES
from benchmarks.peer_tools import LETTERS, TOOLS

BEGIN, END = "<!-- peers: begin -->", "<!-- peers: end -->"

MARKS = {"right": "✓", "computed all, said": "◌", "computed all": "=", "refused": "–", "error": "!", "wrong": "✗"}  # noqa: RUF001
"""Verdicts and their marks, best first."""

MEANING = (
    "✓ it reuses, and rightly · ◌ it computes all and says so · = it computes all without a word · – it refuses "  # noqa: RUF001
    "when it is put on · ! it raises something else, or while generating · ✗ wrong without a word"
)


def versions(python: str) -> dict[str, str]:
    """Of packages in an environment."""
    program = (
        "import json, importlib.metadata as m\n"
        "names = ('torch', 'diffusers', 'transformers', 'cache-dit')\n"
        "found = {d.metadata['Name'].lower(): d.version for d in m.distributions() if d.metadata['Name']}\n"
        "print(json.dumps({n: found[n] for n in names if n in found}))"
    )
    return dict(json.loads(subprocess.run([python, "-c", program], check=True, capture_output=True, text=True).stdout))


def worked(python: str, tools: Sequence[str], cases: Sequence[str], lines: list[dict[str, Any]]) -> None:
    """Run a worker and take in its lines.

    Raises:
        RuntimeError: It ended with an error.
    """
    command = [python, "-W", "ignore", "-m", "benchmarks.peer_cells", "--tools", ",".join(tools)]
    with tempfile.TemporaryDirectory() as folder:
        quiet = {"CACHE_DIT_LOG_LEVEL": "warning", "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
        env = {**os.environ, **quiet, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.getcwd(), "XDG_CACHE_HOME": folder}
        child = subprocess.Popen(
            [*command, "--cases", ";".join(cases)],
            env=env,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        assert child.stdout is not None
        for line in child.stdout:
            if line.startswith('{"case"'):
                lines.append(json.loads(line))
                print(line.rstrip()[:160], file=sys.stderr, flush=True)
        if child.wait():
            raise RuntimeError(f"the worker of {python} ended with {child.returncode}")


def sums(cells: Sequence[dict[str, Any]]) -> dict[str, dict[str, int]]:
    """How many verdicts of each kind a tool has."""
    counted = {tool.name: Counter(one["verdict"] for one in cells if one.get("tool") == tool.name) for tool in TOOLS}
    return {name: {verdict: count[verdict] for verdict in MARKS} for name, count in counted.items() if count}


def table(cells: Sequence[dict[str, Any]]) -> str:
    """Both tables in Markdown: sums by tool, then a mark a cell."""
    found = {(one["case"], one["tool"]): one for one in cells if "tool" in one}
    tools = [(letter, tool) for letter, tool in zip(LETTERS, TOOLS, strict=True)]
    tools = [(letter, tool) for letter, tool in tools if any(name == tool.name for _, name in found)]
    counted = sums(cells)
    rows = [
        f"| {letter} | {tool.name}, {tool.package} | {' | '.join(str(counted[tool.name][v]) for v in MARKS)} |"
        for letter, tool in tools
    ]
    head = f"| | tool | {' | '.join(MARKS.values())} |\n{'|---' * (2 + len(MARKS))}|"
    marks = [
        f"| {case.name} | {' | '.join(MARKS[found[case.name, tool.name]['verdict']] for _, tool in tools)} |"
        for case in CASES
        if all((case.name, tool.name) in found for _, tool in tools)
    ]
    wide = f"| | {' | '.join(letter for letter, _ in tools)} |\n{'|---' * (1 + len(tools))}|"
    return "\n".join([MEANING, "", head, *rows, "", wide, *marks])


def in_order(cells: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """As the table has them; of two of a case and a tool the later."""
    found = {(one["case"], one["tool"]): one for one in cells}
    return [found[case.name, tool.name] for case in CASES for tool in TOOLS if (case.name, tool.name) in found]


def write(page: Path, cells: Sequence[dict[str, Any]]) -> None:
    """Put the tables into a page, between their marks."""
    before, rest = page.read_text().split(BEGIN)
    page.write_text(f"{before}{BEGIN}\n{table(cells)}\n{END}{rest.split(END)[1]}")


def main() -> None:
    """Run, keep and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--python", help="of the environment of the other tools; without it only ours run")
    parser.add_argument("--tools", default="", help="names, with commas between; default all")
    parser.add_argument("--cases", default="", help="names, with semicolons between; default all")
    parser.add_argument("--merge", action="store_true", help="put the cells in place of those of the last result")
    parser.add_argument("--jobs", type=int, default=1, help="processes of each environment")
    parser.add_argument("--docs", type=Path, help="the page to write the tables into")
    args = parser.parse_args()
    tools = [tool for tool in TOOLS if not args.tools or tool.name in args.tools.split(",")]
    cases = args.cases.split(";") if args.cases else [case.name for case in CASES]
    pythons = {"videoaccel": sys.executable, "cache-dit": args.python, "diffusers": args.python}
    lines: list[dict[str, Any]] = []
    threads = []
    for python in filter(None, dict.fromkeys(pythons.values())):
        names = [tool.name for tool in tools if pythons[tool.package] == python]
        for job in range(args.jobs if names else 0):
            threads.append(threading.Thread(target=worked, args=(python, names, cases[job :: args.jobs], lines)))
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if sum("tool" in one for one in lines) < len(cases) * sum(1 for tool in tools if pythons[tool.package]):
        raise SystemExit("a worker ended before its last cell")
    whole = args.merge or not (args.tools or args.cases)
    last = json.loads((RESULTS / "peers.json").read_text()) if args.merge else {"cells": [], "apart": {}}
    cells = in_order([*last["cells"], *(one for one in lines if "tool" in one)])
    if args.docs:
        write(args.docs, cells)
    if not whole or args.python is None:
        print(table(cells))
        return
    apart = {**last["apart"], **{one["case"]: one["apart"] for one in lines if "tool" not in one}}
    sys.argv = [sys.argv[0], "--python", "PEERS/bin/python"]
    keep("peers", {"peers": versions(args.python), "apart": apart, "sums": sums(cells), "cells": cells})


if __name__ == "__main__":
    main()
