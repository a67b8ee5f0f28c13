"""Arguments of a call of the pipeline, as one value; what is None there comes from the model's defaults.

Shape legend: B samples (prompts times samples of each), Z latent channels, t, h, w latent sizes.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor
from typing_extensions import Self

from videoaccel.generation.attention_kernels import NATIVE
from videoaccel.generation.references import References
from videoaccel.generation.request import check_numbers
from videoaccel.parallel.schemes import AUTO, choose_scheme
from videoaccel.planning.prior import Prior
from videoaccel.session.policy import Policy
from videoaccel.settings.refused import nearest
from videoaccel.text.encoder import PromptStates

Generators = torch.Generator | Sequence[torch.Generator]


@dataclass(frozen=True, kw_only=True)
class Call:
    """What ``pipe(...)`` is told.

    Attributes:
        prompt: One or several; ``|0|...|2|...`` gives loops their own texts.
        negative_prompt: What to stay away from, in place of the null text.
        height: Pixels.
        width: Pixels.
        num_frames: Frames; 1 makes an image.
        fps: Frames per second that the model is told.
        num_inference_steps: Denoising steps.
        guidance_scale: Guidance; 1 runs the conditional branch only.
        num_videos_per_prompt: Samples of each prompt; sample k has ``seed + k``.
        seed: Of the first sample of each prompt, 0 unless given, or a list with one for every sample. A seed gives the
            same clip whatever the batch it is made in.
        generator: One generator or one a sample, in place of ``seed``.
        references: What to condition on, see :mod:`videoaccel.generation.references`; one, or one a prompt.
        loops: Clips to make one after the other, each going on from the last.
        condition_latents: How many latents of it a loop takes over.
        condition_edit: How freely it may change these.
        clean_prompt: Clean prompts as the release does.
        prompt_states: Text states in place of prompts, one a loop.
        negative_prompt_states: Text states in place of ``negative_prompt``.
        empty_prompt_states: Text states of "", for a model that takes these for the null text (Latte).
        latents: Initial noise [B, Z, t, h, w].
        policy: Acceleration, see :func:`videoaccel.make_policy`; default that of ``pipe.accelerate``.
        prior: Calibrated errors for policies that need them; default those found for this model and setting.
        foreign_prior: Take a prior made for other steps, size, frames, guidance or type.
        cache_memory: Bytes that stored values may take, such as 2**30 or "1GiB".
        attention_backend: Attention kernel by name.
        sequence_parallel: How ranks share places: ``dsp``, ``ulysses``, or ``auto``.
        callback_on_step_end: Called as ``callback(pipeline, step, timestep, {"latents": ...})``; may return changed
            latents.
        explain: Have sessions note what :func:`videoaccel.explain` tells of guidance.
    """

    prompt: str | Sequence[str] | None = None
    negative_prompt: str | None = None
    height: int | None = None
    width: int | None = None
    num_frames: int | None = None
    fps: float | None = None
    num_inference_steps: int | None = None
    guidance_scale: float | None = None
    num_videos_per_prompt: int = 1
    seed: int | Sequence[int] | None = None
    generator: Generators | None = None
    references: References | Sequence[References] | None = None
    loops: int = 1
    condition_latents: int | None = None
    condition_edit: float = 0.0
    clean_prompt: bool = True
    prompt_states: Sequence[PromptStates] | None = None
    negative_prompt_states: PromptStates | None = None
    empty_prompt_states: PromptStates | None = None
    latents: Tensor | None = None
    policy: Policy | None = None
    prior: Prior | None = None
    foreign_prior: bool = False
    cache_memory: int | str | None = None
    attention_backend: str = NATIVE
    sequence_parallel: str = AUTO
    callback_on_step_end: Callable[..., dict[str, Any]] | None = None
    explain: bool = False

    @classmethod
    def of(cls, prompt: str | Sequence[str] | None, options: dict[str, Any]) -> Self:
        """From the arguments of a call.

        Raises:
            TypeError: One of them does not exist.
        """
        known = [field.name for field in fields(cls)]
        if unknown := [name for name in options if name not in known]:
            raise TypeError(f"a pipeline's call takes no {unknown[0]!r}{nearest(unknown[0], known)}")
        return cls(prompt=prompt, **options)

    def check(self) -> None:
        """Refuse values of the wrong kind before anything is computed with them.

        Raises:
            ValueError: Says which argument is wrong and what would work.
        """
        counts = ("height", "width", "num_frames", "num_inference_steps", "num_videos_per_prompt", "loops",
                  "condition_latents")  # fmt: skip
        numbers = ("fps", "guidance_scale", "condition_edit")
        check_numbers({n: getattr(self, n) for n in counts}, {n: getattr(self, n) for n in numbers})
        choose_scheme(self.sequence_parallel, frames=1)  # known at all?
        if self.policy is not None and not isinstance(self.policy, Policy):
            raise ValueError(f"policy takes a method such as make_policy('fora', period=3), got {self.policy!r}")
