"""For what a pipeline's calibration holds: its networks, its scheduler, and the arguments of the call that count."""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from videoaccel.adapters.attach import networks_of, schedulers_of
from videoaccel.adapters.swap import original
from videoaccel.planning.prior import fingerprint

FREE = frozenset(
    {
        "num_inference_steps", "strength", "timesteps", "sigmas", "denoising_start", "denoising_end", "output_type",
        "return_dict", "num_images_per_prompt", "num_videos_per_prompt", "num_waveforms_per_prompt", "callback_steps",
        "clip_skip", "decode_timestep", "decode_noise_scale", "decode_chunk_size", "seed", "fps", "frame_rate",
        "batch_size",
    }
)  # fmt: skip
"""Arguments that one calibration serves for, whatever they are: curves are kept over the noise level."""

FATAL = ("model", "scheduler", "dtype")
"""What must be the same even where a foreign prior is allowed."""


def setting_of_call(pipe: Any, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """What a prior for this call must have been made for.

    Args:
        pipe: The pipeline.
        arguments: Of the call, by name, those that were left out with their defaults; only numbers and switches
            count, since texts and pictures are what the errors are means over.
    """
    networks = networks_of(pipe)
    identity = hashlib.sha256()
    for name, network in networks.items():
        identity.update(f"{name} {original(type(network)).__name__} {fingerprint(network)}\n".encode())
    counted = {
        name: value for name, value in arguments.items() if isinstance(value, bool | int | float) and name not in FREE
    }
    return {
        "model": identity.hexdigest(),
        "scheduler": "; ".join(map(_scheduler, schedulers_of(pipe))),
        "dtype": ", ".join(sorted({str(_dtype(network)) for network in networks.values()})),
        "call": dict(sorted(counted.items())),
    }


def differences(made_for: Mapping[str, Any], setting: Mapping[str, Any]) -> list[str]:
    """In what a prior's setting differs from another, as "num_frames 81, here 49"."""
    found = []
    for name in FATAL:
        if made_for.get(name) != setting.get(name):
            found.append(f"another {name}")
    was, now = made_for.get("call") or {}, setting["call"]
    return found + [f"{k} {was.get(k)}, here {now.get(k)}" for k in sorted({*was, *now}) if was.get(k) != now.get(k)]


def _scheduler(scheduler: Any) -> str:
    config = {key: value for key, value in dict(scheduler.config).items() if not key.startswith("_")}
    return f"{original(type(scheduler)).__name__} {json.dumps(config, sort_keys=True, default=str)}"


def _dtype(network: Any) -> Any:
    return next((parameter.dtype for parameter in network.parameters()), None)
