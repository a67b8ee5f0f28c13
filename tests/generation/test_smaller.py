"""The network on smaller latents than the generation's, as a session may call it."""

import math
from dataclasses import replace

import pytest
import torch

from tests.tiny_pipeline import tiny_pipeline
from videoaccel.models.seam import direct


@pytest.mark.parametrize("given", [False, True])
@torch.inference_mode()
def test_a_session_may_try_the_network_on_a_smaller_latent(given: bool) -> None:
    """What comes is what the network says of that latent alone; a frame of two that is being made makes both."""
    pipe = tiny_pipeline()
    model = pipe.transformer
    run = pipe.denoising(pipe.request("a cat", seed=3, num_frames=34))
    if given:
        run = replace(run, mask=torch.tensor([[0.0, 0.0, 0.0, *[1.0] * (run.z.shape[2] - 3)]]))
    job = run.job(start=1)
    assert job.smaller is not None
    small = run.z[:, :, ::2, ::4, ::4]
    found = job.smaller.call(0, small)
    frames = small.shape[2]
    mask = torch.tensor([[False, *[True] * (frames - 1)]] * 2) if given else None
    context = run.context_of(tuple(small.shape[2:]))  # type: ignore[misc]
    t = run.timesteps[1].expand(2)
    expected = model(torch.cat([small] * 2), t, x_mask=mask, context=context, run=direct)
    torch.testing.assert_close(torch.cat([found["cond"], found["uncond"]]), expected[:, :4])
    rows, columns = run.z.shape[3:]
    share = math.prod(model.token_grid(small.shape[2:])) / math.prod(model.token_grid((run.z.shape[2], rows, columns)))
    assert job.smaller.share(small.shape[2:]) == share < 1
