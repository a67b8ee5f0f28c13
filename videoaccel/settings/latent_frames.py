"""What a VAE makes of frames and sides: how many of one stand for how many of the other. Nothing here needs torch."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from videoaccel.common.home import expand
from videoaccel.common.package import packaged
from videoaccel.common.plain_json import read_json
from videoaccel.common.wording import counted
from videoaccel.settings.config import Defaults, ModelSpec, config_names, load_named
from videoaccel.settings.pipeline_folder import INDEX, read_index

FRAME_BY_FRAME = "frame_vae.FrameAutoencoder"
"""The VAE that knows nothing of time."""


class Chunks(NamedTuple):
    """How a VAE takes a clip apart in time; as it is, Open-Sora's."""

    frames: int | None = 17
    """To a chunk; None if a clip is one."""
    factor: int = 4
    """Frames to a latent frame."""
    least: int = 1
    """Pixels of the smallest picture's side, as far as they are known."""

    def latents(self, frames: int) -> int:
        """Latent frames of a clip.

        >>> Chunks().latents(17), Chunks().latents(18), Chunks(None, 4).latents(18), Chunks(None, 1).latents(18)
        (5, 6, 5, 18)
        """
        whole, rest = divmod(frames, self.frames) if self.frames else (0, frames)
        return -(-rest // self.factor) + (whole * -(-self.frames // self.factor) if self.frames else 0)


def chunks_of(config: Mapping[str, Any]) -> Chunks:
    """What the ``config.json`` of a VAE says of time.

    >>> chunks_of({"micro_frame_size": None, "vae_temporal": {"temporal_downsample": [True, True]}})
    Chunks(frames=None, factor=4, least=1)
    """
    blocks = {**config, **(config.get("vae_2d") or {})}.get("block_out_channels") or [0]
    least = 2 ** (len(blocks) - 1)
    if "vae_temporal" not in config:
        return Chunks(None, 1, least)
    halved = config["vae_temporal"].get("temporal_downsample", (False, True, True))
    return Chunks(config.get("micro_frame_size", 17), 2 ** sum(halved), least)


def clip_of(model: str, *, vae: str | None = None) -> tuple[Defaults, Chunks] | None:
    """What a model makes by default and how its VAE takes clips apart; None where only a look at the model would say.

    Args:
        model: As the user gave it.
        vae: The VAE in place of the model's own.
    """
    specs = {name: load_named("models", name, ModelSpec) for name in config_names("models")}
    spec = specs.get(model) or next(
        (s for s in specs.values() if s.transformer and s.transformer.source == model), None
    )
    folder = expand(model) if spec is None else packaged(spec.folder) if spec.folder is not None else None
    try:
        if vae is not None:
            config = expand(vae) / "config.json"
            return (spec.defaults, chunks_of(read_json(config))) if spec is not None and config.is_file() else None
        if folder is not None:
            return _of_folder(folder)
    except (ValueError, TypeError, AttributeError, OSError):  # what is wrong with it is said where it is read
        return None
    assert spec is not None
    frame_by_frame = spec.vae is not None and spec.vae.network == FRAME_BY_FRAME
    return spec.defaults, Chunks(None, 1) if frame_by_frame else Chunks()


def _of_folder(folder: Path) -> tuple[Defaults, Chunks] | None:
    index, config = folder / INDEX, folder / "vae" / "config.json"
    if not (index.is_file() and config.is_file()) or (defaults := read_index(index).get("defaults")) is None:
        return None
    return Defaults(**defaults), chunks_of(read_json(config))


def frames_of(latents: int) -> int:
    """Frames that the first ``latents`` latent frames of a clip stand for: 17 to 5, the first of each 5 for one frame.

    >>> [frames_of(latents) for latents in (1, 2, 5, 6, 10)]
    [1, 5, 17, 18, 34]
    """
    whole, rest = divmod(latents, 5)
    return 17 * whole + (4 * rest - 3 if rest else 0)


def check_overlap(frames: int, condition_latents: int | None) -> None:
    """Make sure that a clip has more frames than it takes over from the one before.

    Raises:
        ValueError: It has not.
    """
    if condition_latents and frames <= (over := frames_of(condition_latents)):
        raise ValueError(
            f"`frames` must be above the {counted(over, 'frame')} that a clip takes over from the one before "
            f"(`condition_latents` {condition_latents}), got {frames}"
        )
