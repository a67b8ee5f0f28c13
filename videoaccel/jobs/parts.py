"""What a run needs in memory, from a work order: text states, the other networks, given pictures and clips.

Shape legend: B prompts, T frames, H, W pixels.
"""

from __future__ import annotations

import gc
import math
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from videoaccel.common.home import expand
from videoaccel.common.user_warning import warn_user
from videoaccel.common.wording import counted
from videoaccel.generation.loading import Source, torch_dtype, transformer_class
from videoaccel.generation.pipeline import VideoPipeline
from videoaccel.generation.references import (
    References,
    continue_clip,
    edit_clip,
    first_and_last_frame,
    first_frame,
    frames_before,
    lead_to_clip,
    read_clip,
    read_references,
)
from videoaccel.generation.releases import class_labels
from videoaccel.jobs.resolve import WorkOrder
from videoaccel.jobs.samples import Sample
from videoaccel.models.checkpoint import hub_reason, read_config
from videoaccel.sampling.kinds import with_fields
from videoaccel.settings.config import Part
from videoaccel.settings.early import parse_lora
from videoaccel.settings.generate import GenerateSettings
from videoaccel.settings.latent_frames import clip_of, frames_of
from videoaccel.settings.mask_strategy import check_places
from videoaccel.text.cache import TextCache, TextKey, encode_cached, encoder_identity
from videoaccel.text.classes import ClassNames
from videoaccel.text.encoder import PromptStates, encode, load_text_encoder
from videoaccel.text.prompts import cut_options

TILE = 256
"""Side in pixels of the tiles that ``vae_tiling`` decodes in."""

GOLDEN = (math.sqrt(5) - 1) / 2


def texts_needed(order: WorkOrder) -> list[str]:
    """Every text that a work order reads, once: of prompts, of the negative prompt, of the null text."""
    s = order.settings
    texts = [text for batch in order.batches for sample in batch for text in sample.texts]
    if order.negative is not None:
        texts.append(order.negative)
    elif s.guidance != 1 and not transformer_class(order.source).learns_null_text:
        texts.append("")
    return list(dict.fromkeys(texts))


def text_key(order: WorkOrder) -> TextKey:
    """What the states of a work order's texts depend on besides the texts."""
    source = order.source
    encoder = encoder_identity(source.text.source, subfolder=source.text.subfolder)
    return TextKey(encoder, _text_length(source), torch_dtype(source.spec.defaults.text_dtype))


def load_text(order: WorkOrder) -> tuple[Any, Any]:
    """Tokenizer and text encoder of a work order, on its device; or no tokenizer, and the names of its classes.

    Raises:
        ValueError: The text encoder's files do not fit.
        FileNotFoundError: They are not there.
    """
    part, dtype = order.source.text, torch_dtype(order.source.spec.defaults.text_dtype)
    if transformer_class(order.source).reads_classes:
        return None, ClassNames(class_labels(part.source))
    tokenizer, encoder = load_text_encoder(part.source, subfolder=part.subfolder, dtype=dtype)
    return tokenizer, encoder.to(str(order.settings.device))


def free_cached(device: str) -> None:
    """Give memory that nothing refers to any more back to the device."""
    gc.collect()
    if device.startswith("cuda"):
        torch.cuda.empty_cache()


def encode_texts(order: WorkOrder) -> dict[str, PromptStates]:
    """Text states of all prompts, one row each, on the CPU.

    The text encoder is in memory only while this runs, and not even then if the cache has all of them.

    Raises:
        ValueError: The text encoder's files do not fit.
        FileNotFoundError: They are not there.
    """
    texts = texts_needed(order)
    if order.settings.text_cache:
        states = encode_cached(texts, cache=TextCache(), key=text_key(order), load=lambda: load_text(order))
    else:
        length = _text_length(order.source)  # asked first: a model that is not here says so before T5 is loaded
        tokenizer, encoder = load_text(order)
        states = encode(texts, tokenizer=tokenizer, text_encoder=encoder, max_length=length).to("cpu")
        del tokenizer, encoder
    free_cached(str(order.settings.device))
    return {text: states.rows([row]) for row, text in enumerate(texts)}


def load_pipeline(order: WorkOrder) -> VideoPipeline:
    """Everything but the text encoder, on its device.

    Raises:
        ValueError: The model's files do not fit, or the scheduler has no such field.
        FileNotFoundError: They are not there.
    """
    s = order.settings
    replaced = {"vae": s.vae} if s.vae else {}
    parts = {"text_encoder": None, "tokenizer": None}
    pipe = VideoPipeline.from_pretrained(s.model, torch_dtype=torch_dtype(str(s.dtype)), **parts, **replaced)
    pipe.set_progress_bar_config(disable=True)
    for text in s.lora:
        name, weight = parse_lora(text)
        pipe.load_lora_weights(name, weight=weight)
    pipe.fuse_lora()
    if s.scheduler:
        pipe.scheduler = with_fields(type(pipe.scheduler), pipe.scheduler.config, s.scheduler)
    if s.vae_tiling:
        pipe.vae.enable_tiling(tile_size=TILE)
    if s.offload:
        pipe.enable_model_cpu_offload(device=str(s.device))
    else:
        pipe.to(str(s.device))
    return pipe.tune(kernels=s.kernels, precision=s.precision, compile=s.compile, tf32=s.tf32, graphs=s.graphs)


def read_given(order: WorkOrder) -> list[Tensor]:
    """Given pictures and clips [3, T, H, W] in [-1, 1]. Warns about a clip that is longer than what is edited of it.

    Raises:
        ValueError: A file cannot be read, or has too many or too few frames.
    """
    s = order.settings
    read = partial(read_clip, height=order.height, width=order.width, ground=s.ground)
    video = [read(s.video, **_frames_read(order))] if s.video else []
    given = [*map(read, s.images), *video, *map(read, s.references)]
    if s.mask_strategy is None:
        _check_lengths(given, s)
        return given
    _, chunks = clip_of(s.model, vae=s.vae) or (None, None)
    files = [*s.images, *([s.video] if s.video else []), *s.references]
    lengths = [clip.shape[1] for clip in given]
    check_places(s.mask_strategy, files, loops=s.loops, frames=s.frames, chunks=chunks, lengths=lengths)
    return given


def _frames_read(order: WorkOrder) -> dict[str, Any]:
    """Which of the given clip's frames are enough, as arguments of `read_clip`; none for all."""
    s = order.settings
    if s.mask_strategy is not None:
        return {}
    if s.edit is not None:
        return {} if s.frames is None else {"max_frames": s.frames + 1}  # one more tells whether something is left out
    latents = s.condition_latents or 1
    if s.extend == "backward":
        return {"max_frames": frames_before(latents, align=order.source.spec.defaults.align)}
    return {"last": frames_of(latents)}


def references_of(sample: Sample, given: Sequence[Tensor], *, order: WorkOrder, pipe: VideoPipeline) -> References:
    """What a sample is conditioned on: what is ``given``, else what its prompt names.

    Raises:
        ValueError: A given clip is too short, or a file that the prompt names cannot be read.
    """
    s = order.settings
    if not given:
        options = cut_options(sample.prompt)
        size = {"height": order.height, "width": order.width}
        return read_references(options.reference_path, options.mask_strategy, **size, ground=s.ground)
    if s.mask_strategy is not None:
        return References(tuple(given), s.mask_strategy)
    places = {"align": pipe.defaults.align, "chunk": pipe.vae.chunk_frames}
    latents = s.condition_latents or 1
    if s.video is None:
        return first_frame(given[0]) if len(given) == 1 else first_and_last_frame(given[0], given[1], **places)
    if s.edit is not None:
        return edit_clip(given[0], frames=s.frames or 1, edit=s.edit)
    if s.extend == "backward":
        return lead_to_clip(given[0], latents=latents, **places)
    return continue_clip(given[0], latents=latents)


def _check_lengths(given: Sequence[Tensor], s: GenerateSettings) -> None:
    assert s.frames is not None
    for path, picture in zip(s.images, given, strict=False):
        if (frames := picture.shape[1]) > 1:
            raise ValueError(f"`images` takes pictures, but {path} is a clip of {frames} frames; `video` takes one")
    if s.edit is None:
        return
    if (frames := given[0].shape[1]) < s.frames:
        raise ValueError(
            f"{s.video} has {counted(frames, 'frame')}, which is too short for an `edit` of {s.frames}; "
            f"`frames={frames}` edits all of it"
        )
    if frames > s.frames:
        warn_user(
            f"only the first {counted(s.frames, 'frame')} of {s.video} will be edited; more `frames` edit more of it"
        )


def _text_length(source: Source) -> int:
    """Tokens that the transformer reads."""
    return transformer_class(source).tokens_read(network_config(source))


def network_config(source: Source) -> dict[str, Any]:
    """The transformer's configuration, read from its file.

    Raises:
        OSError: It is not there.
    """
    part = source.spec.transformer or Part(source=str(source.folder), subfolder="transformer")
    folder = expand(part.source)
    path = folder / (part.subfolder or "") / "config.json" if folder.is_dir() else _from_hub(part, "config.json")
    return read_config(path)


def _from_hub(part: Part, name: str) -> Path:
    from huggingface_hub import hf_hub_download

    try:
        return Path(hf_hub_download(part.source, name, subfolder=part.subfolder))
    except (OSError, ValueError) as error:  # no network, no such repository, no leave to read it
        raise OSError(
            f"{part.source} is no folder here and could not be had from the Hugging Face hub: {hub_reason(error)}; "
            f"without a network give folders as `model`, `vae` and `text_encoder`"
        ) from error


def known_classes(source: Source) -> tuple[str, ...]:
    """Numbers of a hundred classes, or of all if there are fewer; where some have names, of these.

    The first few of them lie as far apart as the rest, since a calibration takes no more.
    """
    named = sorted(map(int, class_labels(source.text.source)))
    known = named or range(transformer_class(source).classes_read(network_config(source)))
    return tuple(str(known[k]) for k in strewn(len(known))[:100])


def strewn(count: int) -> list[int]:
    """All numbers below ``count``, each about a golden section of the whole behind the one before.

    >>> strewn(10)
    [0, 7, 4, 1, 8, 5, 2, 9, 6, 3]
    """
    strides = (k for k in range(1, count + 1) if math.gcd(k, count) == 1)
    stride = min(strides, key=lambda k: abs(k - GOLDEN * count))
    return [k * stride % count for k in range(count)]
