"""What every method decides on the demo model, against a file of digests: what should change no method shows here.

Decisions and no pixels, so that the file holds on any processor. Where a method compares something with a threshold, no
comparison is near a tie: writing the file (``python -m tests.policies.test_decisions``) refuses a case that noise of
0.002 makes decide otherwise, twenty times what latents differ by from one machine to another. Whoever means a method to
decide otherwise writes it anew.
"""

import json
import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from videoaccel import VideoPipeline
from videoaccel.cli.app import run

FILE = Path(__file__).with_name("decisions.json")
PROMPT = "a red circle moves left on a dark blue background"
SMALL = {"num_inference_steps": 12, "height": 32, "width": 32, "num_frames": 5}
SHAPE = (1, 8, 2, 8, 8)

SOME_FIRE: dict[str, dict[str, Any]] = {
    "adacache": {"fastest": 12},
    "easycache": {"threshold": 0.3, "warmup": 3},
    "first_block": {"threshold": 0.25},
    "lemica": {"budget": 6},
    "precisecache": {"factor": 0.3},
    "sada": {"threshold": 0.3},
    "soda-dit-ddim": {"anchors": 5, "flops_ratio": 1.6},
    "soda-dit-ddpm": {"anchors": 4, "flops_ratio": 1.7},
    "soda-pixart-7": {"anchors": 5, "flops_ratio": 1.7},
    "soda-pixart-8": {"anchors": 6, "flops_ratio": 1.4},
    "soda-published": {"flops_ratio": 1.5},
    "teacache": {"threshold": 0.5},
    "fora+sada": {"sada": {"threshold": 0.3}},
    "delta_dit+sada": {"sada": {"threshold": 0.3}},
    "soda+sada": {"sada": {"threshold": 0.3}},
}
"""Fields for those that would compute next to everything in so few steps, or cannot run; the others are at defaults."""

PAIRS = ("delta_dit+sada", "fora+sada", "soda+sada")
KNOWN: dict[str, dict[str, Any]] = json.loads(FILE.read_text(encoding="utf-8"))


def load() -> VideoPipeline:
    pipe = VideoPipeline.from_pretrained("demo")
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.fixture(scope="module")
def pipe() -> VideoPipeline:
    return load()


def decided(pipe: VideoPipeline, name: str, *, shaken: int = 0) -> dict[str, Any]:
    """Digest and counts of a method's decisions; ``shaken`` numbers a draw that is put on the noise it starts from."""
    latents = torch.randn(SHAPE, generator=torch.Generator().manual_seed(1))
    if shaken:
        latents = latents + 2e-3 * torch.randn(SHAPE, generator=torch.Generator().manual_seed(shaken))
    sessions: list[Any] = []
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*interpolated")  # the prior in the box is of 30 steps at 64x64
        pipe.accelerate(name, foreign_prior=True, **SOME_FIRE.get(name, {}))
        for _ in pipe.stream(pipe.request(PROMPT, latents=latents, **SMALL), sessions=sessions):
            pass
    (session,) = sessions
    return {"digest": session.digest(), "actions": dict(sorted(session.counts().items()))}


def listed(text: str) -> list[str]:
    """Methods, and names in the box, as ``videoaccel methods`` prints them; and the pairs."""
    methods = re.findall(r"^([a-z_]+) {2,}\S", text, re.MULTILINE)[1:]  # after the heading
    boxed = re.search(r"for --accel: ([^.]+)\.", text)
    assert boxed is not None
    return [*methods, *boxed[1].replace("\n", " ").replace(" ", "").split(","), *PAIRS]


def test_the_file_has_every_method(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["methods"]) == 0
    assert sorted(listed(capsys.readouterr().out)) == sorted(KNOWN)


@pytest.mark.parametrize("name", KNOWN)
def test_decisions(pipe: VideoPipeline, name: str) -> None:
    assert decided(pipe, name) == KNOWN[name]


@pytest.mark.parametrize("name", sorted(KNOWN.keys() - {"off", "fewer_steps"}))
def test_every_method_leaves_something_out(name: str) -> None:
    """Digests of runs that compute everything would say nothing."""
    assert set(KNOWN[name]["actions"]) - {"compute"}


def write(names: list[str]) -> Mapping[str, Any]:
    """Everything anew.

    Raises:
        ValueError: A method decides near a tie.
    """
    pipe, found = load(), {}
    for name in names:
        found[name] = decided(pipe, name)
        if any(decided(pipe, name, shaken=draw) != found[name] for draw in range(1, 5)):
            raise ValueError(f"{name} decides near a tie: give it other fields in SOME_FIRE")
    FILE.write_text(json.dumps(found, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    return found


if __name__ == "__main__":
    import contextlib
    import io

    with contextlib.redirect_stdout(io.StringIO()) as said:
        run(["methods"])
    write(listed(said.getvalue()))
