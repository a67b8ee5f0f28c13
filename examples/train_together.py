"""Make the data and train the demo's transformer and the small image models side by side on one GPU.

    python -m examples.train_together --work /tmp/work --out results --seconds 360

For minutes on a GPU: every part is a program of its own and starts at once; the trainings compile and
record their steps while clips and stills are drawn and encoded. ``--models`` says which are trained; the small ones get
:data:`SMALL_SHARE` of the time, then the demo's transformer, if it is among them, has the GPU alone. A training begins
with the data there are once it has waited :data:`WAIT_SHARE` of the time. Every minute, and at the end, the averaged
weights go to ``--out`` in float16: a tar of each model's export, in parts of at most 15 MiB (``cat demo.tar.* | tar
x``), ``summary.json`` with the parts' SHA-256, all logs, and what the programs printed. A program that fails is started
once more, a training without compiler and CUDA graphs, from its checkpoint.
"""

import argparse
import hashlib
import io
import json
import os
import signal
import subprocess
import sys
import tarfile
import time
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save

from examples.demo_model.recipe import PACKAGED

SMALL_SHARE = 0.53  # of the seconds, for DiT and PixArt
WAIT_SHARE = 0.15  # of the seconds, for data once a training is ready; then it begins with those there are
START_UP, WIND_DOWN = 12.0, 14.0  # seconds that a training takes to begin, and that its last export takes
COLLECT_SECONDS, PART_BYTES = 60.0, 15 << 20
PLAIN = ["--no-compile", "--no-record"]
SMALL = Path(__file__).parent / "small_models"
MODELS = ("demo", "dit", "pixart", "pixart_lcm")


class Program:
    """One part of the work; a training is told how many seconds it has."""

    def __init__(self, name: str, command: list[str], args: argparse.Namespace, *, until: float | None = None) -> None:
        self.name, self.command, self.until = name, command, until
        self.printed = args.work / f"{name}.txt"
        self.failures = 0
        self.start()

    def start(self) -> None:
        """Start it, after a failure in its plain form."""
        extra: list[str] = []
        if self.until is not None:
            extra = ["--seconds", f"{max(5.0, self.until - time.monotonic() - START_UP):.0f}"]
            extra += PLAIN if self.failures else []
        environment = os.environ | {"OMP_NUM_THREADS": "2", "TORCHINDUCTOR_COMPILE_THREADS": "4"}
        with self.printed.open("a") as printed:
            self.process = subprocess.Popen(
                [sys.executable, "-m", *self.command, *extra],
                stdout=printed,
                stderr=subprocess.STDOUT,
                env=environment,
                start_new_session=True,
            )

    def alive(self) -> bool:
        """Tell whether it is at work, starting it again if it has failed for the first time."""
        code = self.process.poll()
        if code is None:
            return True
        if code != 0 and self.failures < 1:
            self.failures += 1
            print(f"{self.name} ended with {code}, once more:\n{self.tail(1500)}", flush=True)
            self.start()
            return True
        return False

    def tail(self, count: int) -> str:
        """The end of what it printed."""
        return self.printed.read_text(errors="replace")[-count:]

    def stop(self) -> None:
        """End it and what it started."""
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGTERM)


def programs(args: argparse.Namespace) -> tuple[list[Program], list[Program]]:
    """The programs that make data, and those that train."""
    device = ["--device", args.device]
    end = time.monotonic() + args.seconds - WIND_DOWN
    small_end = time.monotonic() + SMALL_SHARE * args.seconds
    stills, clips = str(args.work / "stills"), str(args.work / "latents")
    tiny = args.tiny
    makers = {
        "stills": [
            "examples.small_models.recipe", "--vae", str(args.vae), "--out", stills, *device,
            "--shards", "1" if tiny else "12", "--workers", str(args.workers), *(["--size", "64"] if tiny else []),
        ],
        "clips": [
            "examples.demo_model.encode_clips", "--vae", str(PACKAGED / "vae"), "--out", clips, *device,
            "--hard", "0.5", "--batch", "128", "--shards", "2" if tiny else str(args.clip_shards),
            "--workers", str(args.clip_workers), *(["--size", "16"] if tiny else []),
        ],
    }  # fmt: skip
    wanted = {"clips" if name == "demo" else "stills" for name in args.models}
    making = [Program(name, command, args) for name, command in makers.items() if name in wanted]
    compile = [] if tiny else ["--compile"]
    batch = ["--batch", "2", "--log-steps", "2"] if tiny else []
    wait = ["--wait", f"{WAIT_SHARE * args.seconds:.0f}"]
    small = ["--vae", str(args.vae), "--stills", stills, *device, "--shards", "1" if tiny else "12", *wait]
    small += [*(batch or ["--batch", "256"]), *compile]
    commands = {
        "demo": [
            "examples.demo_model.train_transformer", "--from", "demo", "--text", str(args.text), "--latents", clips,
            "--last-weight", "1.5", "--lr", "1e-3", "--warmup", "300", *device, "--shards", "1" if tiny else "40",
            *wait, *(batch or ["--batch", "128"]), *(compile or ["--no-compile"]),
        ],
        "dit": ["examples.small_models.dit", *small],
        "pixart": [
            "examples.small_models.pixart", *small, "--text", str(args.text),
            *(["--from", str(args.teacher)] if args.on else []),
        ],
        "pixart_lcm": ["examples.small_models.pixart_lcm", "--from", str(args.teacher), *small],
    }  # fmt: skip
    training = [
        Program(
            name,
            [*commands[name], "--out", str(args.work / name)],
            args,
            until=end if name == "demo" or "demo" not in args.models else small_end,
        )
        for name in args.models
    ]
    return making, training


def halved(folder: Path) -> bytes:
    """A tar of a folder, its tensors in float16."""
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w") as tar:
        for path in sorted(path for path in folder.rglob("*") if path.is_file()):
            content = path.read_bytes()
            if path.suffix == ".safetensors":
                content = save({name: x.half() for name, x in load_file(path).items()}, metadata={"format": "pt"})
            entry = tarfile.TarInfo(str(path.relative_to(folder)))
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
    return made.getvalue()


def collect(args: argparse.Namespace, everything: list[Program]) -> None:
    """Write what there is to ``--out``; a model whose export is being written this moment keeps its former parts."""
    sums: dict[str, str] = {}
    for name in args.models:
        final = args.work / name / "final"
        if not final.exists():
            continue
        try:
            whole = halved(final)
        except Exception as error:
            print(f"{name} is not collected this time: {error}", flush=True)
            continue
        for index, at in enumerate(range(0, len(whole), PART_BYTES)):
            part = args.out / f"{name}.tar.{index}"
            write(part, whole[at : at + PART_BYTES])
            sums[part.name] = hashlib.sha256(whole[at : at + PART_BYTES]).hexdigest()
    logs = {name: read_log(args.work / name / "log.jsonl") for name in args.models}
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"
    summary = {"device": device, "torch": torch.__version__, "sha256": sums, "logs": logs}
    summary["commands"] = {program.name: " ".join(program.command) for program in everything}
    write(args.out / "summary.json", json.dumps(summary).encode())
    printed = "\n".join(f"== {program.name}\n{program.tail(200_000)}" for program in everything)
    write(args.out / "printed.txt", printed.encode())


def read_log(path: Path) -> list[dict[str, Any]]:
    """The lines of a log so far."""
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def write(path: Path, content: bytes) -> None:
    """Write so that an interruption leaves the old file or the new one."""
    partial = path.parent / f".{path.name}"
    partial.write_bytes(content)
    partial.replace(path)


def report(args: argparse.Namespace, start: float) -> None:
    """Print each training's last line."""
    for name in args.models:
        lines = read_log(args.work / name / "log.jsonl")
        print(f"{time.monotonic() - start:.0f} s {name}: {lines[-1] if lines else 'not yet'}", flush=True)


def options(words: list[str] | None = None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--vae", type=Path, default=SMALL / "pixart" / "vae", help="of the small models")
    parser.add_argument("--work", type=Path, default=Path("runs/together"))
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seconds", type=float, default=360.0)
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS[:3]))
    parser.add_argument("--teacher", type=Path, default=SMALL / "pixart", help="of pixart_lcm; where --on begins")
    parser.add_argument("--text", type=Path, default=SMALL / "pixart", help="pipeline folder whose T5 reads")
    parser.add_argument("--on", action="store_true", help="train PixArt on from the teacher, not anew")
    parser.add_argument("--clip-shards", type=int, default=128, help="of 512 clips each")
    parser.add_argument("--workers", type=int, default=5, help="programs that draw stills")
    parser.add_argument("--clip-workers", type=int, default=9, help="programs that draw clips")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--tiny", action="store_true", help="a rehearsal: little data, small batches")
    return parser.parse_args(words)


def main() -> None:
    """Run everything, collect."""
    args = options()
    for folder in (args.work, args.out):
        folder.mkdir(parents=True, exist_ok=True)
    start = time.monotonic()
    making, training = programs(args)
    everything = [*making, *training]
    collected = reported = start
    try:
        while any([program.alive() for program in training]) and time.monotonic() < start + args.seconds:
            [program.alive() for program in making]
            time.sleep(0.5)
            if time.monotonic() - reported > 20:
                report(args, start)
                reported = time.monotonic()
            if time.monotonic() - collected > COLLECT_SECONDS:
                collect(args, everything)
                collected = time.monotonic()
    finally:
        for program in everything:
            program.stop()
        collect(args, everything)
        report(args, start)


if __name__ == "__main__":
    main()
