"""The snippets of docs/diffusers.md run as they stand, on tiny random pipelines of the same classes."""

import functools
import inspect
import re
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import diffusers
import pytest

from tests.adapters import image_pipes as images
from tests.adapters import video_pipes as videos
from tests.adapters.tiny import Tiny

PAGE = Path(__file__).parent.parent.parent / "docs" / "diffusers.md"
SHALLOW: dict[str, Any] = {  # called 136 times; attention is in its middle block
    "block_out_channels": (8,), "down_block_types": ("DownBlock2D",), "up_block_types": ("UpBlock2D",)
}  # fmt: skip
TINY: dict[str, tuple[Callable[[], Tiny], int]] = {
    "WanPipeline": (videos.wan, 8),
    "FluxPipeline": (images.flux, 28),
    "StableDiffusionXLPipeline": (functools.partial(images.stable_diffusion_xl, **SHALLOW), 8),
    "PixArtSigmaPipeline": (images.pixart, 20),
    "MusicLDMPipeline": (images.music_ldm, 8),
}
"""How to make it, and its steps: fewer than in the snippet where that takes long."""


def snippets() -> dict[str, str]:
    """By the class that each loads."""
    part = (
        PAGE.read_text(encoding="utf-8").partition("<!-- snippets: begin -->")[2].partition("<!-- snippets: end -->")[0]
    )
    found = re.findall(r"^```python\n(.*?)^```", part, re.M | re.S)
    return {re.findall(r"^from diffusers import (\w+)$", text, re.M)[0]: text for text in found}


def stands_in(kind: Any, tiny: Tiny, steps: int, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Have a class load a tiny pipeline, which is called with embeddings in place of a prompt; the ids it was asked."""
    plain, asked = kind.__call__, []

    @functools.wraps(plain)
    def called(self: Any, prompt: str, **said: Any) -> Any:
        assert isinstance(prompt, str)
        inspect.signature(plain).bind(self, prompt, **said)  # a wrong name is an error, as on the real one
        return plain(self, **{**said, **tiny.options, "num_inference_steps": steps})

    def loaded(name: str, **options: Any) -> Any:
        assert {*options} <= {"dtype"}
        asked.append(name)
        return tiny.pipe

    monkeypatch.setattr(kind, "from_pretrained", loaded)
    monkeypatch.setattr(kind, "to", lambda self, *where: self)
    monkeypatch.setattr(kind, "__call__", called)
    return asked


def test_there_is_one_for_each() -> None:
    assert {*snippets()} == {*TINY}
    assert all(len(text.split("\n\n")[1].splitlines()) <= 5 for text in snippets().values())


@pytest.mark.parametrize("name", TINY)
def test_it_runs_and_leaves_calls_out(
    name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    tiny, steps = TINY[name]
    asked = stands_in(getattr(diffusers, name), tiny(), steps, monkeypatch)
    names: dict[str, Any] = {"prompts": ["a cat", "a harbour", "rain", "a forest", "waves"]}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        exec(snippets()[name], names)
    report = names["fast"].report()
    assert len(asked) == 1 and report.evaluations == steps
    assert 0 < report.calls_computed < report.calls and name.removesuffix("Pipeline") in capsys.readouterr().out
