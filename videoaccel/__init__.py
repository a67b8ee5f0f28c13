"""VideoAccel: fast, honest video generation with spatio-temporal diffusion transformers.

What is named here is the public face, a line each in ``docs/api.md``; everything deeper may move. The names are loaded
when they are first asked for, so that importing the package does not import torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from videoaccel.calibration.calibrate import calibrate
    from videoaccel.comparison.compare import compare, compare_settings
    from videoaccel.eval.backbones import Backbones
    from videoaccel.eval.metric import Sample
    from videoaccel.eval.metric_names import metric_class, metric_names
    from videoaccel.eval.perceptual import Lpips, frame_lpips
    from videoaccel.evaluation.evaluate import evaluate
    from videoaccel.generation.accelerate import accelerate
    from videoaccel.generation.pipeline import VideoPipeline
    from videoaccel.generation.references import (
        References,
        continue_clip,
        edit_clip,
        first_and_last_frame,
        first_frame,
        lead_to_clip,
        read_clip,
    )
    from videoaccel.jobs.explanation import explain
    from videoaccel.outside.generate import generate
    from videoaccel.parallel.degrees import choose_degrees
    from videoaccel.parallel.mesh import Mesh, ranks_here
    from videoaccel.planning.prior import Prior
    from videoaccel.preview.door import plan
    from videoaccel.rendering.run import open_render, render, work
    from videoaccel.reporting.report import report
    from videoaccel.routers.training import train_router
    from videoaccel.session.registry import make_policy, policy_names
    from videoaccel.settings.calibrate import CalibrateSettings
    from videoaccel.settings.generate import GenerateSettings
    from videoaccel.settings.routers import RouterSettings
    from videoaccel.verification.verify import verify

__version__ = "0.1.0"
__all__ = [
    "Backbones",
    "CalibrateSettings",
    "GenerateSettings",
    "Lpips",
    "Mesh",
    "Prior",
    "References",
    "RouterSettings",
    "Sample",
    "VideoPipeline",
    "__version__",
    "accelerate",
    "calibrate",
    "choose_degrees",
    "compare",
    "compare_settings",
    "continue_clip",
    "edit_clip",
    "evaluate",
    "explain",
    "first_and_last_frame",
    "first_frame",
    "frame_lpips",
    "generate",
    "lead_to_clip",
    "make_policy",
    "metric_class",
    "metric_names",
    "open_render",
    "plan",
    "policy_names",
    "ranks_here",
    "read_clip",
    "render",
    "report",
    "train_router",
    "verify",
    "work",
]

_HOMES = (
    ("calibration.calibrate", "calibrate"),
    ("comparison.compare", "compare compare_settings"),
    ("eval.backbones", "Backbones"),
    ("eval.metric", "Sample"),
    ("eval.metric_names", "metric_class metric_names"),
    ("eval.perceptual", "Lpips frame_lpips"),
    ("evaluation.evaluate", "evaluate"),
    ("generation.accelerate", "accelerate"),
    ("generation.pipeline", "VideoPipeline"),
    (
        "generation.references",
        "References continue_clip edit_clip first_and_last_frame first_frame lead_to_clip read_clip",
    ),
    ("jobs.explanation", "explain"),
    ("outside.generate", "generate"),
    ("parallel.degrees", "choose_degrees"),
    ("parallel.mesh", "Mesh ranks_here"),
    ("planning.prior", "Prior"),
    ("preview.door", "plan"),
    ("rendering.run", "open_render render work"),
    ("reporting.report", "report"),
    ("routers.training", "train_router"),
    ("session.registry", "make_policy policy_names"),
    ("settings.calibrate", "CalibrateSettings"),
    ("settings.generate", "GenerateSettings"),
    ("settings.routers", "RouterSettings"),
    ("verification.verify", "verify"),
)


def __getattr__(name: str) -> Any:
    for module, names in _HOMES:
        if name in names.split():
            import_module("videoaccel.common.versions").check_versions()
            return getattr(import_module(f"videoaccel.{module}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
