"""Conditioning: frames given in advance (images, clips, the end of the last loop), and the numbers the network is told.

A mask strategy says which reference frames go where. It is text, groups joined by ``;``, each of up to six fields::

    loop,reference,reference_start,target_start,length,edit     # missing ones at the end are 0,0,0,0,1,0

===================== ===================================================================
``0``                 reference 0 (an image) is the first frame
``0;0,1,0,-1,1``      reference 0 begins the clip, reference 1 ends it
``0,0,0,-8,8``        8 latents from reference 0's start are the clip's last ones: extend backwards
``0,0,0,0,5,0.4``     edit 5 latents of reference 0, free to change from timestep 400 on
===================== ===================================================================

Everything is counted in *latent* frames; negative starts count from the end. With ``align`` both starts snap to whole
VAE chunks of 5 latents, so -1 of 15 is 10, not 14. Source: Open-Sora v1.2.

Shapes: B rows, C channels, T latent frames, H/W latent height and width; reference latents are [C, T', H, W].
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from videoaccel.settings.mask_strategy import Group, check_group, check_start, format_mask_strategy, parse_mask_strategy

LATENTS_PER_CHUNK = 5  # the VAE turns 17 frames into 5 latent ones
IMAGE_FPS = 120.0  # what the network is told for a single frame


def nearest_point(value: int, *, point: int, max_value: int) -> int:
    """Snap a start to a multiple of ``point``: down, or up if it is nearer and a whole group lies beyond it.

    >>> [nearest_point(value, point=5, max_value=15) for value in (2, 3, 8, 14)]
    [0, 5, 10, 10]
    """
    group, rest = divmod(value, point)
    up = rest > point / 2 and group < max_value // point - 1
    return (group + up) * point


def apply_mask_strategy(
    z: Tensor,
    *,
    references: Sequence[Sequence[Tensor]],
    strategies: Sequence[str | None],
    loop: int = 0,
    align: int | None = LATENTS_PER_CHUNK,
) -> tuple[Tensor, Tensor]:
    """Write reference frames into an initial latent, and say which frames are left to generate.

    Args:
        z: Noise, ``[B, C, T, H, W]``; it is not changed.
        references: Per row, its reference latents ``[C, T', H, W]``.
        strategies: Per row, its mask strategy. Groups of other loops are checked and passed over.
        loop: Which loop this is.
        align: Snap starts to multiples of this many latents (release: 5); None takes them as they are.

    Returns:
        z with the references in it, and the mask ``[B, T]``, float32: 1 to generate, else the group's ``edit``.

    Raises:
        ValueError: If a group is malformed, asks for a reference or a start that is not there, or a reference does not
            have z's channels, height and width; or if there is not one entry per row.
    """
    for name, per_row in (("references", references), ("strategies", strategies)):
        if len(per_row) != len(z):
            raise ValueError(f"{name} must have one entry per row: {len(z)}; got {len(per_row)}")
    z = z.clone()
    mask = torch.ones(z.shape[0], z.shape[2], device=z.device)
    for row, strategy in enumerate(strategies):
        for number, group in enumerate(parse_mask_strategy(strategy)):
            where = f"group {number} ({(strategy or '').split(';')[number]}) of the mask strategy"
            where += f" of sample {row}" if len(z) > 1 else ""
            # Every loop adds a reference (append_generated): a later loop's slip is told now, not hours from here.
            known = len(references[row]) + max(0, group.loop - loop)
            if group.reference >= known:
                raise ValueError(f"{where}: there is no reference {group.reference}; loop {group.loop} has {known}")
            if group.loop == loop:
                source, target = _spans(group, references[row], z[row], align, where)
                z[row, :, target] = references[row][group.reference][:, source].to(z)
                mask[row, target] = group.edit
    return z, mask


def append_generated(
    generated: Tensor,
    *,
    references: Sequence[Sequence[Tensor]],
    strategies: Sequence[str | None],
    loop: int,
    length: int = LATENTS_PER_CHUNK,
    edit: float = 0.0,
) -> tuple[list[list[Tensor]], list[str]]:
    """Let a loop go on from the clip before it: that clip becomes a further reference, its end the new beginning.

    Args:
        generated: The previous clip's latent, encoded anew, ``[B, C, T, H, W]``.
        references: Per row, the reference latents so far.
        strategies: Per row, the mask strategy so far.
        loop: The loop about to start, at least 1.
        length: Latents to carry over (release: 5). The new clip begins with the frames of these.
        edit: As in `Group`.

    Returns:
        The longer references and strategies; the arguments are left alone.

    Raises:
        ValueError: If there is not one entry per row, or loop, length or edit is out of range.
    """
    if not len(generated) == len(references) == len(strategies):
        raise ValueError(
            f"{len(generated)} clips, {len(references)} references, {len(strategies)} strategies: not one a row"
        )
    if not 1 <= length <= generated.shape[2]:
        raise ValueError(f"length must be between 1 and the clip's {generated.shape[2]} latents; got {length}")
    if loop < 1:
        raise ValueError(f"loop must be at least 1, the first one that has a clip before it; got {loop}")
    grown = [[*known, clip] for known, clip in zip(references, generated, strict=True)]
    groups = [Group(loop, len(known) - 1, -length, 0, length, float(edit)) for known in grown]
    for group in groups:
        check_group(group, f"the group for loop {loop}")
    added = [format_mask_strategy([group]) for group in groups]
    return grown, [f"{old};{new}" if old else new for old, new in zip(strategies, added, strict=True)]


def size_numbers(
    rows: int, *, height: int, width: int, num_frames: int, fps: float, dtype: torch.dtype = torch.float32
) -> dict[str, Tensor]:
    """What the network is told about the clip, by argument name, each ``[rows]``.

    Args:
        rows: B.
        height: Pixels.
        width: Pixels.
        num_frames: Pixel frames.
        fps: Frames per second; a single frame says 120 whatever this is.
        dtype: The release takes the run's type: in bfloat16 a width of 854 is told as 856.

    Returns:
        ``height``, ``width``, ``num_frames``, ``ar`` (height divided by width) and ``fps``.
    """
    told = IMAGE_FPS if num_frames == 1 else fps
    numbers = {"height": height, "width": width, "num_frames": num_frames, "ar": height / width, "fps": told}
    return {name: torch.full((rows,), number, dtype=dtype) for name, number in numbers.items()}


def _spans(
    group: Group, references: Sequence[Tensor], clip: Tensor, align: int | None, where: str
) -> tuple[slice, slice]:
    """The frames a group takes from its reference, and the frames of the clip it puts them on: equally many."""
    reference = references[group.reference]
    if reference.dim() != 4 or [*reference.shape[:1], *reference.shape[2:]] != [*clip.shape[:1], *clip.shape[2:]]:
        raise ValueError(
            f"{where}: reference {list(reference.shape)} must be [C, T, H, W] like the clip {list(clip.shape)}"
        )
    source = _start(group.reference_start, reference.shape[1], align, f"{where}: reference_start")
    target = _start(group.target_start, clip.shape[1], align, f"{where}: target_start")
    length = min(group.length, reference.shape[1] - source, clip.shape[1] - target)
    return slice(source, source + length), slice(target, target + length)


def _start(start: int, frames: int, align: int | None, what: str) -> int:
    check_start(start, frames, what)
    start += frames if start < 0 else 0
    return start if align is None else nearest_point(start, point=align, max_value=frames)
