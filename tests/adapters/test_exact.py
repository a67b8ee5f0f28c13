"""On tiny pipelines of diffusers: computing everything changes no bit, and forecasts compute what they should."""

from collections.abc import Callable

import pytest
import torch

from tests.adapters import image_pipes as images
from tests.adapters import video_pipes as videos
from tests.adapters.tiny import Tiny
from videoaccel.generation.accelerate import accelerate

EVERY_SECOND = [0, 1, 3, 5, 7, 9, 11]


def truncated() -> Tiny:
    """The batch halves in the midst."""
    tiny = images.z_image()
    tiny.options["cfg_truncation"] = 0.5
    return tiny


def halved(tiny: Tiny) -> Tiny:
    tiny.pipe.to(torch.bfloat16)
    return tiny


CORE: dict[str, tuple[Callable[[], Tiny], list[int]]] = {
    "stable diffusion, pndm": (images.stable_diffusion, EVERY_SECOND),
    "flux": (images.flux_true_guidance, EVERY_SECOND),
    "sd3, layers skipped in some steps": (images.stable_diffusion_3_skipping_layers, [0, 1, 2, 3, 5, 7, 9, 11]),
    "z-image": (images.z_image, EVERY_SECOND),
    "z-image, guided in some steps only": (truncated, [0, 1, 3, 5, 7, 9, 10, 11]),
    "wan, unipc": (videos.wan, EVERY_SECOND),
    "wan, half precision": (lambda: halved(videos.wan()), EVERY_SECOND),
    "wan, two networks": (videos.wan_two, [0, 1, 3, 5, 6, 7, 9, 11]),
    "wan, from a video": (videos.wan_from_video, [0, 1, 3, 5, 7]),
    "wan, modular": (videos.wan_modular, EVERY_SECOND),
    "cogvideox, dpm": (videos.cogvideox_dpm, EVERY_SECOND),
    "kandinsky 5": (videos.kandinsky_5, EVERY_SECOND),
}
"""How to make it, and which evaluations ``fixed_linear`` computes."""


@pytest.mark.parametrize("name", CORE)
def test_off_changes_no_bit_and_a_forecast_computes_what_it_should(name: str) -> None:
    make, computed = CORE[name]
    tiny = make()
    plain, calls = tiny(), tiny.calls.copy()

    with accelerate(tiny.pipe, "off") as off:
        assert tiny().equals(plain) and tiny.calls == calls
        report = off.report()
        assert report.calls == report.calls_computed == calls.total() and not report.reasons
        assert off.computed == list(range(report.evaluations))

    with accelerate(tiny.pipe, "fixed_linear") as fast:
        found = tiny()
        assert fast.computed == computed
        assert tiny.calls.total() == fast.report().calls_computed < calls.total() == fast.report().calls
        assert found.finite() and found.same_draws(plain) and 0 < found.away_from(plain) < 0.1
        assert tiny().equals(found), "nothing is left of the generation before"
    assert tiny().equals(plain) and tiny.calls == calls
