"""The loop, every method and the whole maker on a CUDA device without values, see ``fake_cuda.py``."""

import warnings
from collections.abc import Iterator
from unittest import mock

import pytest
import torch

from tests.generation.fake_cuda import CUDA, LISTED, FakeCuda, compiler, load_guard
from tests.policies.test_decisions import KNOWN, PROMPT, SHAPE, SMALL, SOME_FIRE, load
from tests.session.test_host import SENT
from videoaccel import VideoPipeline
from videoaccel.models import fingerprint

pytestmark = pytest.mark.skipif(compiler() is None, reason="a C++ compiler builds the device's guard")

AT_ONCE = ("fora+sada", "toca")
"""Methods that leave out modules, steps and columns; the others take a minute."""

PREPARES = ("precisecache",)
"""Run the network on smaller latents, whose texts are prepared when they are first needed."""

COMPUTE = ("bwcache", "elastic", "fewer_steps", "off", "precisecache")
"""Compute everything, three of them since the numbers that the host is told fall out so."""


@pytest.fixture(scope="module")
def cuda(tmp_path_factory: pytest.TempPathFactory) -> FakeCuda:
    load_guard(tmp_path_factory.mktemp("guard"))
    return FakeCuda()


@pytest.fixture(scope="module")
def pipe(cuda: FakeCuda) -> Iterator[VideoPipeline]:
    """The demo model there; its text encoder stays here, as texts do."""
    made = load()
    known = fingerprint.fingerprint(made.transformer)
    with (
        mock.patch.object(fingerprint, "_sample", lambda model: ()),
        mock.patch.object(fingerprint, "_hashed", lambda: known),
    ):
        with cuda.on():
            for network in (made.transformer, made.vae):
                cuda.move(network)
        made.tune(graphs="off", kernels="torch")
        yield made


@pytest.fixture
def quiet() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*interpolated")
        yield


def test_what_stays_on_the_host_is_caught(cuda: FakeCuda) -> None:
    with cuda.on(), torch.inference_mode():
        there = torch.zeros(3, device=CUDA)
        with pytest.raises(RuntimeError, match="two devices, cuda:0 and cpu"):
            there + torch.zeros(3)
        for asks in (bool, int, float, torch.Tensor.item, torch.Tensor.tolist):
            with pytest.raises(AssertionError, match="a test asks the device for a number"):
                asks(there.sum())
        with pytest.raises(Exception, match="nonzero"):
            there[there > 0]
        assert torch.equal(torch.ones(2) + 1, torch.full((2,), 2.0)), "the host's own numbers are there"


@pytest.mark.parametrize(
    "name",
    [
        name if name in AT_ONCE else pytest.param(name, marks=pytest.mark.slow)
        for name in sorted(KNOWN)
        if "-" not in name
    ],
)
@pytest.mark.usefixtures("quiet")
def test_every_method_stays_on_the_device(cuda: FakeCuda, pipe: VideoPipeline, name: str) -> None:
    pipe.accelerate(name, foreign_prior=True, **SOME_FIRE.get(name, {}))
    cuda.asked.clear()
    with cuda.on(), torch.inference_mode():
        made = pipe._maker(pipe.request(PROMPT, latents=torch.randn(SHAPE), **SMALL), None)
        denoising = made.denoising(made.request.references)
        session = made._session(denoising)
        asked, cuda.sent = cuda.asked.copy(), 0
        out = denoising.denoise(session)
    assert out.device == CUDA and max(session.reads) <= 1
    assert cuda.asked == asked or name in PREPARES, "numbers are asked for before the loop"
    assert cuda.sent <= SENT.get(name, 0) * session.job.steps
    assert set(session.counts()) != {"compute"} or name in COMPUTE


@pytest.mark.usefixtures("quiet")
def test_a_clip_whose_second_loop_goes_on_from_the_first(cuda: FakeCuda, pipe: VideoPipeline) -> None:
    pipe.accelerate("soda", foreign_prior=True, speedup=None, flops_ratio=1.5)
    given = {**SMALL, "num_inference_steps": 4, "loops": 2, "condition_latents": 1}
    with cuda.on(), torch.inference_mode():
        chunks = list(pipe.stream(pipe.request(PROMPT, seed=1, **given)))
    assert all(chunk.device == CUDA for chunk in chunks)
    assert SMALL["num_frames"] < sum(chunk.shape[2] for chunk in chunks) < 2 * SMALL["num_frames"]
    assert set(LISTED) >= set(cuda.asked)
