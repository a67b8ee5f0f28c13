"""Reads a clip with decord, in a process of its own, which runs this file.

decord crashes when a process ends in which torch was imported first (dmlc/decord issues 293 and 324), so it never
meets torch. What comes out of stdout is one line of JSON, ``{"shape": [T, H, W, 3], "fps": ...}``, then the bytes.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray


def read_with_decord(path: Path) -> tuple[NDArray[np.uint8], float]:
    """Frames uint8 [T, H, W, 3] and frames per second.

    Raises:
        ValueError: decord is not installed, or cannot read the file.
    """
    command = [sys.executable, "-c", Path(__file__).read_text(encoding="utf-8"), str(path)]
    done = subprocess.run(command, capture_output=True, check=False)
    head, _, data = done.stdout.partition(b"\n")
    if done.returncode or not head:
        told = done.stderr.decode(errors="replace").strip().splitlines() or [f"exit code {done.returncode}"]
        raise ValueError(f"decord cannot read {path}: {told[-1]}")
    about: dict[str, Any] = json.loads(head)
    return np.frombuffer(data, np.uint8).reshape(about["shape"]).copy(), float(about["fps"])


def main(arguments: list[str]) -> int:
    """Read one clip and write it to stdout."""
    try:
        import decord
    except ImportError:
        print("decord is not installed; pip install 'videoaccel[decord]' brings it", file=sys.stderr)
        return 1
    try:
        reader = decord.VideoReader(arguments[0], num_threads=1)
        frames = reader.get_batch(range(len(reader))).asnumpy()
        fps = float(reader.get_avg_fps())
    except Exception as error:  # decord raises its own kind, with a C++ trace
        print(str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__, file=sys.stderr)
        return 1
    sys.stdout.buffer.write(json.dumps({"shape": list(frames.shape), "fps": fps}).encode() + b"\n")
    sys.stdout.buffer.write(np.ascontiguousarray(frames).tobytes())
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
