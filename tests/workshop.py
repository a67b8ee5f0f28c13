"""Generates in a folder of its own, with the tiny model."""

import json
from pathlib import Path
from typing import Any

from videoaccel.jobs.generate import generate
from videoaccel.jobs.sidecar import Sidecar
from videoaccel.settings.generate import GenerateSettings
from videoaccel.settings.layers import Layer, merge


class Workshop:
    """A folder and a model; call it to generate."""

    def __init__(self, folder: Path, model: Path) -> None:
        self.folder, self.model = folder, model

    def settings(self, output: str = "out.mp4", **values: Any) -> GenerateSettings:
        end = "/" if output.endswith("/") else ""
        given = {"prompt": "a red circle", "model": str(self.model), "output": f"{self.folder / output}{end}", **values}
        return merge([Layer(given)])

    def __call__(self, output: str = "out.mp4", *, listener: Any = None, done: Any = None, **values: Any) -> list[Path]:
        return generate(self.settings(output, **values), listener=listener, done=done)

    def again(self, name: str, output: str) -> bytes:
        sidecar = Sidecar.read(self.folder / name)
        settings = merge([Layer(sidecar.settings), Layer({"output": str(self.folder / output)})])
        (path,) = generate(settings, origin=sidecar)
        return path.read_bytes()

    def record(self, name: str = "out.json") -> Any:
        return json.loads((self.folder / name).read_text())

    @property
    def files(self) -> list[str]:
        return sorted(path.name for path in self.folder.iterdir())
