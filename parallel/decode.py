"""Decoding a latent by all ranks of a clip: chunks are dealt out in turn, frames of chunks where these are few.

Every rank gets all of them, since any may go on from the clip's end.

Shape legend: B batch, Z latent channels, t, h, w latent sizes, F frames of a chunk, H, W pixels.
"""

from collections.abc import Iterator
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from videoaccel.models.protocols import Autoencoder
from videoaccel.parallel.deal import dealt
from videoaccel.parallel.mesh import Mesh


class Piece(NamedTuple):
    """Frames ``start`` to ``stop - 1`` of a chunk [B, Z, t, h, w] that decodes to so many."""

    chunk: Tensor
    frames: int
    start: int
    stop: int


def decoded(vae: Autoencoder, latents: Tensor, num_frames: int, *, mesh: Mesh) -> Iterator[Tensor]:
    """Chunks in their order, [B, 3, F, H, W] each, not clamped.

    Args:
        vae: The VAE, whose chunks do not depend on each other.
        latents: [B, Z, t, h, w], the same on all ranks.
        num_frames: Of the whole clip.
        mesh: The ranks.
    """
    size = mesh.clip.size
    if size == 1:
        yield from vae.decode_chunks(latents, num_frames)
        return
    mesh.where.site = "decode"
    pieces = cut_pieces(vae.chunks(latents, num_frames), size)
    whole: list[Tensor] = []
    for start in range(0, len(pieces), size):
        some = pieces[start : start + size]
        # All of a round before one is written: ranks that wait in a broadcast do not wait for a disk.
        done = dealt([partial(vae.decode_piece, *piece) for piece in some], mesh=mesh, device=latents.device)
        for piece, frames in zip(some, done, strict=True):
            whole.append(frames)
            if piece.stop == piece.frames:
                yield torch.cat(whole, dim=2)
                whole.clear()


def cut_pieces(chunks: list[tuple[Tensor, int]], ranks: int) -> list[Piece]:
    """Chunks as they are, or so many equal pieces of each that every rank has something to do."""
    parts = -(-ranks // len(chunks))
    found = []
    for chunk, frames in chunks:
        each = -(-frames // parts)
        found += [Piece(chunk, frames, start, min(start + each, frames)) for start in range(0, frames, each)]
    return found
