"""What one generation is asked for, as one checked value.

Shape legend: P prompts, B samples (P times samples per prompt), N steps, T frames, Z latent channels, t, h, w latent
sizes.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any

import torch
from torch import Tensor

from videoaccel.common.user_warning import warn_user
from videoaccel.common.wording import counted
from videoaccel.generation.denoise import StepCallback
from videoaccel.generation.references import References
from videoaccel.models.protocols import Transformer
from videoaccel.planning.prior import Prior
from videoaccel.sampling.noise import SampleNoise, sample_seeds
from videoaccel.session.policy import Policy
from videoaccel.settings.config import Defaults
from videoaccel.settings.latent_frames import frames_of
from videoaccel.settings.mask_strategy import parse_mask_strategy
from videoaccel.text.encoder import PromptStates
from videoaccel.text.prompts import clean_text, empty_segments, lost_words, plain_text, prepare


@dataclass(frozen=True)
class Request:
    """One batch, fully said. Made by :meth:`VideoPipeline.request`; what is not given there comes from the defaults.

    Attributes:
        height: Pixels.
        width: Pixels.
        num_frames: T of one loop.
        fps: Frames per second.
        steps: N.
        guidance: Scale of classifier-free guidance.
        states: Text states of every loop, B rows each.
        negative: Text states in place of the null text, B rows; None for the null text.
        noise: Random numbers of every sample.
        seed: Seed of the first sample.
        references: What every sample is conditioned on.
        condition_latents: Latents that a loop takes over from the one before.
        condition_edit: Edit ratio of these, 0 keeps them.
        align: Latents to which references snap.
        latents: Initial noise of the first loop [B, Z, t, h, w] in place of that of ``noise``.
        policy: Acceleration; None runs the model as it is.
        prior: Calibrated errors for policies that need them; None looks for those of this model and setting.
        foreign_prior: Take a prior made for other steps, size, frames, guidance or type.
        cache_memory: Bytes that stored values may take; None for any number.
        attention: Name of the attention kernel.
        sequence: How ranks share places: ``dsp``, ``ulysses``, or ``auto``.
        callback: Called after every step.
        explain: Note what is needed to explain what a method did, see :mod:`videoaccel.jobs.explanation`.
    """

    height: int
    width: int
    num_frames: int
    fps: float
    steps: int
    guidance: float
    states: tuple[PromptStates, ...]
    negative: PromptStates | None
    noise: SampleNoise
    seed: int
    references: tuple[References, ...]
    condition_latents: int
    condition_edit: float
    align: int | None
    latents: Tensor | None
    policy: Policy | None
    prior: Prior | None
    foreign_prior: bool
    cache_memory: int | None
    attention: str
    sequence: str
    callback: StepCallback | None
    explain: bool

    def check(self, *, space_factor: int) -> None:
        """Refuse what cannot be generated.

        Args:
            space_factor: Pixels to a latent place.

        Raises:
            ValueError: Says which value is wrong and what would work.
        """
        for name in ("height", "width"):
            if (pixels := getattr(self, name)) < space_factor:
                raise ValueError(f"{name} must be at least {space_factor} pixels, got {pixels}")
        for name, number in (("fps", self.fps), ("guidance_scale", self.guidance)):
            if not math.isfinite(number):
                raise ValueError(f"{name} must be a finite number, got {number}")
        if self.fps <= 0:
            raise ValueError(f"fps must be above 0, got {self.fps}")
        overlap = frames_of(self.condition_latents)
        if len(self.states) > 1 and overlap >= self.num_frames:
            raise ValueError(
                f"num_frames must be above the {counted(overlap, 'frame')} that a loop takes over (condition_latents "
                f"{self.condition_latents}), got {self.num_frames}"
            )
        if not 0 <= self.condition_edit <= 1:
            raise ValueError(f"condition_edit must be between 0 and 1, got {self.condition_edit}")
        for reference in self.references:
            parse_mask_strategy(reference.strategy)
            reference.check_size(height=self.height, width=self.width, space_factor=space_factor)

    def check_model(self, transformer: Transformer, *, latent_size: Sequence[int]) -> None:
        """Refuse what this network cannot make.

        Args:
            transformer: The network.
            latent_size: t, h, w of a loop.

        Raises:
            ValueError: Says what does not fit it.
        """
        transformer.token_grid(latent_size)
        if not transformer.keeps_frames and (len(self.states) > 1 or any(given.strategy for given in self.references)):
            raise ValueError(
                f"{type(transformer).__name__} makes every frame of a clip: it takes no images, no clips to go on from "
                f"and no loops"
            )


def check_numbers(counts: Mapping[str, Any], numbers: Mapping[str, Any]) -> None:
    """Refuse arguments of the wrong kind before anything is computed with them; None stands for the model's own.

    Args:
        counts: By name, what must be a whole number of at least 1.
        numbers: By name, what must be a number.

    Raises:
        ValueError: Says which argument is none.
    """
    for name, value in counts.items():
        if value is not None and not _is(value, Integral):
            raise ValueError(f"{name} must be a whole number, got {value!r}")
        if value is not None and value < 1:
            raise ValueError(f"{name} must be at least 1, got {value}")
    for name, value in numbers.items():
        if value is not None and not _is(value, Real):
            raise ValueError(f"{name} must be a number, got {value!r}")


def _is(value: Any, kind: type) -> bool:
    return isinstance(value, kind) and not isinstance(value, bool)


def null_states(empty: PromptStates, prompts: PromptStates, *, padded: bool) -> PromptStates:
    """What stands for no text beside each prompt: the states of the empty one.

    Args:
        empty: Of the empty prompt, one row.
        prompts: Of the prompts.
        padded: As many tokens are read as the prompt has, as in the release of Latte; else the end token only.
    """
    count = len(prompts)
    mask = prompts.mask if padded else empty.mask.expand(count, -1).to(prompts.mask)
    return PromptStates(empty.states.expand(count, -1, -1, -1).to(prompts.states), mask)


def sample_noise(
    seed: int | Sequence[int] | None,
    generator: torch.Generator | Sequence[torch.Generator] | None,
    *,
    prompts: int,
    samples: int,
) -> tuple[SampleNoise, int]:
    """Random numbers of all samples, and the first one's seed; with neither seed nor generator that is 0.

    Raises:
        ValueError: Both a seed and a generator, something else, or not one for every sample.
    """
    if generator is None:
        seeds = sample_seeds(0 if seed is None else seed, prompts=prompts, samples=samples)
        return SampleNoise.from_seeds(seeds), seeds[0]
    if seed is not None:
        raise ValueError(f"give a seed or a generator, not both; got seed {seed!r} and a generator")
    generators = list(generator) if isinstance(generator, Iterable) else [generator]
    if wrong := [other for other in generators if not isinstance(other, torch.Generator)]:
        raise ValueError(f"generator must be a torch.Generator, or a list with one for each sample, got {wrong[0]!r}")
    if len(generators) == 1:
        # One generator for several samples: it gives each a seed of its own, so that their noise is independent.
        device = generators[0].device
        draws = torch.randint(2**31, (prompts * samples - 1,), generator=generators[0], device=device)
        generators += [torch.Generator().manual_seed(int(draw)) for draw in draws]
    if len(generators) != prompts * samples:
        raise ValueError(
            f"{counted(len(generators), 'generator')} for {counted(prompts * samples, 'sample')}; "
            f"give one, or one for each"
        )
    return SampleNoise(generators), generators[0].initial_seed()


def prompt_list(prompt: str | Sequence[str] | None) -> list[str]:
    """One prompt or several as a list; None gives none.

    Raises:
        ValueError: Something in it is no text.

    >>> prompt_list("a cat"), prompt_list(["a cat", "a dog"]), prompt_list(None)
    (['a cat'], ['a cat', 'a dog'], [])
    """
    if prompt is None:
        return []
    alone = isinstance(prompt, str) or not isinstance(prompt, Iterable)
    prompts: list[Any] = [prompt] if alone else list(prompt)
    if wrong := [other for other in prompts if not isinstance(other, str)]:
        raise ValueError(f"a prompt must be a text, got {wrong[0]!r}")
    return prompts


def states_of_loops(given: Sequence[PromptStates]) -> list[PromptStates]:
    """Given text states, one a loop.

    Raises:
        ValueError: They are something else, such as the states of one loop without a list around them.
    """
    known = isinstance(given, list | tuple) and all(isinstance(states, PromptStates) for states in given)
    if not known or not given:
        got = repr(given) if not given else type(given).__name__
        raise ValueError(f"prompt_states must be a list with the PromptStates of each loop, got {got}")
    return list(given)


def prompt_texts(prompts: Sequence[str], defaults: Defaults, *, loops: int, clean: bool = True) -> list[list[str]]:
    """Texts ready for the tokenizer, by prompt and loop.

    Raises:
        ValueError: There is no prompt, or one says nothing.
    """
    if not prompts:
        raise ValueError("there is no prompt")
    for number, prompt in enumerate(prompts):
        if empty_segments(prompt, clean=clean):
            where = f"prompt {number + 1} of {len(prompts)}" if len(prompts) > 1 else "the prompt"
            raise ValueError(f"{where} is empty{' once cleaned' if prompt.strip() else ''}: {prompt!r}")
        if clean and (lost := lost_words(prompt)):
            warn_user(
                f"cleaning takes {', '.join(map(repr, lost[:5]))}{' and more' if lost[5:] else ''} out of the prompt "
                f"{prompt!r}; --no-clean-prompt (`clean_prompt`) leaves it as it is"
            )
    scores = {"aes": defaults.aes, "flow": defaults.flow, "camera_motion": defaults.camera_motion}
    return [prepare(prompt, loops=loops, clean=clean, **scores) for prompt in prompts]  # type: ignore[arg-type]


def negative_text(prompt: str, *, clean: bool = True) -> str:
    """A negative prompt ready for the tokenizer; it takes no suffix and no segments.

    Raises:
        ValueError: It is no text, or says nothing.
    """
    (given,) = prompt_list([prompt])
    text = (clean_text if clean else plain_text)(given)
    if not text:
        raise ValueError(f"the negative prompt is empty: {prompt!r}; leave it out for the null text")
    return text
