"""Peak memory of going on from a long film, of which only the end is needed.

    python -m benchmarks.extend_memory > benchmarks/results/extend-memory.txt

Makes a film of moving noise over moving gradients, 1280x720, 24 frames a second, 40 s (H.264), and one of its last
second. The demo model extends each forwards (`--video FILM --frames 17 --size 64x64`) in a process of its own; what
that process held at most (VmHWM) is printed, with what the whole film would take as bytes of RGB.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

import av
import numpy as np

HEIGHT, WIDTH, RATE, SECONDS = 720, 1280, 24, (1, 40)
_RUN = """
import sys
from videoaccel.cli.app import run
code = run(sys.argv[1:])
print(open("/proc/self/status").read())
sys.exit(code)
"""


def main() -> None:
    """Print a line a film."""
    with tempfile.TemporaryDirectory() as folder:
        for seconds in SECONDS:
            film = Path(folder, f"{seconds}.mp4")
            write_film(film, seconds * RATE)
            peak = _extended(film, Path(folder, f"{seconds}-on.mp4"))
            whole = seconds * RATE * HEIGHT * WIDTH * 3 / 2**30
            print(f"{seconds} s, {WIDTH}x{HEIGHT}: peak {peak / 2**20:.2f} GiB; the film's frames are {whole:.2f} GiB")


def write_film(path: Path, frames: int) -> None:
    """A film of moving noise over moving gradients."""
    noise = np.random.default_rng(0).integers(0, 64, (HEIGHT + 180, WIDTH + 320, 3), np.uint8)
    down, right = np.mgrid[0:HEIGHT, 0:WIDTH]
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=RATE, options={"preset": "ultrafast", "crf": "28"})
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        for t in range(frames):
            ramps = [right // 5 + t, down // 4 + 2 * t, right // 8 + down // 8 + 3 * t]
            shift = noise[t % 180 : t % 180 + HEIGHT, 2 * t % 320 : 2 * t % 320 + WIDTH]
            frame = np.stack([ramp % 192 for ramp in ramps], axis=-1).astype(np.uint8) + shift
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())


def _extended(film: Path, out: Path) -> int:
    """KiB that extending held at most."""
    told = ["generate", "a red circle", "--video", str(film), "--steps", "4", "-o", str(out), "--quiet"]
    told += ["--frames", "17", "--size", "64x64"]
    done = subprocess.run([sys.executable, "-c", _RUN, *told], capture_output=True, text=True, check=True)
    return next(int(line.split()[1]) for line in done.stdout.splitlines() if line.startswith("VmHWM"))


if __name__ == "__main__":
    main()
