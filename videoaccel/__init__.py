"""VideoAccel: fast, honest video generation with spatio-temporal diffusion transformers.

The names below are loaded when they are first asked for, so that importing the package does not import torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from videoaccel.calibration.calibrate import calibrate
    from videoaccel.generation.accelerate import accelerate
    from videoaccel.generation.pipeline import VideoPipeline
    from videoaccel.jobs.generate import generate
    from videoaccel.settings.calibrate import CalibrateSettings
    from videoaccel.settings.generate import GenerateSettings

__version__ = "0.1.0"
__all__ = [
    "CalibrateSettings",
    "GenerateSettings",
    "VideoPipeline",
    "__version__",
    "accelerate",
    "calibrate",
    "generate",
]

_HOMES = (
    ("CalibrateSettings", "calibration_settings"),
    ("GenerateSettings", "settings"),
    ("VideoPipeline", "pipeline"),
    ("accelerate", "acceleration"),
    ("calibrate", "calibration"),
    ("generate", "generation"),
)


def __getattr__(name: str) -> Any:
    for known, module in _HOMES:
        if name == known:
            return getattr(import_module(f"videoaccel.{module}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
