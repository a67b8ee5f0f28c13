"""Where the time of the demo clip goes: seconds of every stage, from a cold process each time, and peak memory.

    python -m benchmarks.stages

Runs ``videoaccel generate`` as a user would, several times, and takes medians from the sidecars; the whole command is
timed from outside, start of the interpreter included.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.measure import keep

PROMPT = "a red circle moves left on a dark blue background"


def main() -> None:
    """Measure and keep the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    walls, sidecars = [], []
    with tempfile.TemporaryDirectory() as folder:
        for round_ in range(rounds + 1):
            out = Path(folder) / f"{round_}.mp4"
            command = [sys.executable, "-m", "videoaccel", "generate", PROMPT, "-o", str(out), "--quiet"]
            start = time.perf_counter()
            subprocess.run(command, check=True)
            if round_:  # the first one warms the disk cache
                walls.append(time.perf_counter() - start)
                sidecars.append(json.loads(out.with_suffix(".json").read_text()))
    stages = sidecars[0]["seconds"]
    seconds = {name: [sidecar["seconds"][name] for sidecar in sidecars] for name in stages}
    result = {
        "prompt": PROMPT,
        "rounds": rounds,
        "whole_command_seconds": {
            "median": round(statistics.median(walls), 2),
            "all": [round(wall, 2) for wall in walls],
        },
        "stage_seconds_median": {name: round(statistics.median(values), 3) for name, values in seconds.items()},
        "stage_seconds_spread": {name: [round(min(v), 3), round(max(v), 3)] for name, v in seconds.items()},
        "peak_memory_mib": round(max(sidecar["peak_memory_bytes"] for sidecar in sidecars) / 2**20),
    }
    keep("stages", result)


if __name__ == "__main__":
    main()
