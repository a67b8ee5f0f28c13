"""One call of a pipeline: its arguments with files read, and the random numbers of a seed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from PIL import Image

from videoaccel.adapters.pipeline_priors import NoPriorError
from videoaccel.common.versions import device_errors
from videoaccel.media.reader import read_image, read_video
from videoaccel.outside.arguments import BINS, CLASSES, Arguments, File


def called_with(arguments: Arguments, prompt: str | None, *, seed: int) -> dict[str, Any]:
    """The arguments of one call: files read, and the random numbers of a seed.

    Raises:
        ValueError: A file cannot be read.
    """
    call = {name: _read(value) for name, value in arguments.of(prompt).items()}
    names = arguments.signature.defaults
    if "generator" in names:
        # On the CPU, so that a seed means the same on every device; diffusers moves what it draws.
        call["generator"] = torch.Generator().manual_seed(seed)
    elif "seed" in names:
        call["seed"] = seed
    return call


def called_together(arguments: Arguments, prompts: Sequence[str | None], seeds: Sequence[int]) -> dict[str, Any]:
    """The arguments of one call that makes several clips: a prompt and a generator for each.

    Other texts, such as a negative prompt, are said for each, since pipelines want as many as there are prompts.

    Raises:
        ValueError: A file cannot be read.
    """
    each = [called_with(arguments, prompt, seed=seed) for prompt, seed in zip(prompts, seeds, strict=True)]
    if len(each) == 1:
        return each[0]
    call = dict(each[0])
    for name, value in call.items():
        if name == CLASSES:
            call[name] = [one for other in each for one in other[name]]
        elif name in (arguments.prompt, "generator") or (isinstance(value, str) and "prompt" in name):
            call[name] = [other[name] for other in each]
    return call


@contextmanager
def worded(kind: str, *, ranks: int = 1) -> Iterator[None]:
    """Say what a pipeline raises as a sentence about it, unless it is one already.

    Args:
        kind: Class of the pipeline.
        ranks: That its networks are spread over.
    """
    try:
        yield
    except NoPriorError as error:
        advice = "videoaccel calibrate measures one, and with `measure_first=4` the first clips do"
        raise NoPriorError(error.near, advice) from None
    except device_errors():
        raise
    except NotImplementedError:
        raise
    except ValueError as error:
        if _ours(error):
            raise
        binned = "Invalid sample size" in str(error)
        hint = f"; `args={BINS}=false` takes sizes that it has no bins for" if binned else ""
        raise ValueError(f"a {kind} does not take this call: {' '.join(str(error).split())[:300]}{hint}") from error
    except (RuntimeError, TypeError, LookupError, AttributeError, AssertionError) as error:
        if _ours(error):
            raise
        text = " ".join(str(error).split())[:300]
        if ranks > 1:
            raise ValueError(
                f"a {kind} does not take this call over {ranks} ranks ({type(error).__name__}: {text}); diffusers may "
                "not be able to spread all of it, so leave `sp` and `gpus` out"
            ) from error
        raise ValueError(
            f"a {kind} does not take this call ({type(error).__name__}: {text}); its size or length may not fit: "
            "`size`, `frames` and `args` tell others"
        ) from error


def _ours(error: BaseException) -> bool:
    """Whether it was raised in this package, not in what it calls."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return trace is not None and str(trace.tb_frame.f_globals.get("__name__")).startswith("videoaccel.")


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Give pipelines that draw from global generators the numbers of a seed; afterwards these are as they were."""
    devices = list(range(torch.cuda.device_count())) if torch.cuda.is_available() else []
    numpy_state = np.random.get_state()
    with torch.random.fork_rng(devices):
        torch.manual_seed(seed)
        np.random.seed(seed % 2**32)
        try:
            yield
        finally:
            np.random.set_state(numpy_state)


def _read(value: Any) -> Any:
    """Pictures of PIL in place of files; a clip is a list of these."""
    if isinstance(value, list):
        return [_read(item) for item in value]
    if not isinstance(value, File):
        return value
    frames = read_video(value.path)[0] if value.moves else read_image(value.path)
    pictures = [Image.fromarray(frame) for frame in frames]
    return pictures if value.moves else pictures[0]
