"""What the loop asks of the host: single numbers read from the device, and lists of numbers sent to it.

On a CPU neither costs anything; on a GPU each waits for all that is queued. So they are counted here, as operations.
What a session reads by :meth:`Session.to_host`, once a step at most, is counted by itself.
"""

import warnings
from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from tests.models.test_compiled import EACH_KIND
from tests.policies.test_decisions import KNOWN, PROMPT, SHAPE, SMALL, SOME_FIRE, load
from videoaccel import VideoPipeline

READS = {torch.ops.aten._local_scalar_dense.default, torch.ops.aten.equal.default, torch.ops.aten.nonzero.default}
"""Operations whose results the host waits for."""

SENDS = {torch.ops.aten.lift_fresh.default}
"""What a tensor made of numbers of the host begins with."""

SENT = {"elastic": 2, "fastercache": 1}
"""A step at most: routers are judged on the host, and rows of different ages have different factors."""


class Counter(TorchDispatchMode):
    """Counts operations that make host and device wait for each other."""

    def __init__(self) -> None:
        super().__init__()
        self.reads = self.sends = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None) -> Any:
        self.reads += func in READS
        self.sends += func in SENDS
        return func(*args, **(kwargs or {}))


@pytest.fixture(scope="module")
def pipe() -> VideoPipeline:
    return load()


@pytest.mark.parametrize(
    "name",
    [
        name if name in {*EACH_KIND, *SENT} else pytest.param(name, marks=pytest.mark.slow)
        for name in sorted(KNOWN)
        if "-" not in name
    ],
)
def test_waits_of_a_step(pipe: VideoPipeline, name: str) -> None:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*interpolated")
        waits_of(pipe, name)


def waits_of(pipe: VideoPipeline, name: str) -> None:
    pipe.accelerate(name, foreign_prior=True, **SOME_FIRE.get(name, {}))
    latents = torch.randn(SHAPE, generator=torch.Generator().manual_seed(1))
    made = pipe._maker(pipe.request(PROMPT, latents=latents, **SMALL), None)
    with torch.inference_mode():
        denoising = made.denoising(made.request.references)
        session = made._session(denoising)
        with Counter() as counter:
            denoising.denoise(session)
    assert counter.reads == 0
    assert counter.sends <= SENT.get(name, 0) * session.job.steps
    assert max(session.reads) <= 1
