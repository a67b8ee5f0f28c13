"""Decoding a latent by all ranks of a clip: chunks are dealt out in turn, and every rank gets all of them.

Shape legend: B batch, Z latent channels, t, h, w latent sizes, F frames of a chunk, H, W pixels.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from videoaccel.models.protocols import Autoencoder
from videoaccel.parallel.mesh import Mesh


def decoded(vae: Autoencoder, latents: Tensor, num_frames: int, *, mesh: Mesh) -> Iterator[Tensor]:
    """Chunks in their order, [B, 3, F, H, W] each, not clamped; the bits of a lone process.

    Args:
        vae: The VAE, whose chunks do not depend on each other.
        latents: [B, Z, t, h, w], the same on all ranks.
        num_frames: Of the whole clip.
        mesh: The ranks.
    """
    if mesh.clip.size == 1:
        yield from vae.decode_chunks(latents, num_frames)
        return
    chunks = vae.chunks(latents, num_frames)
    for start in range(0, len(chunks), mesh.clip.size):
        dealt = chunks[start : start + mesh.clip.size]
        own = None
        if mesh.clip.rank < len(dealt):
            (own,) = vae.decode_chunks(*dealt[mesh.clip.rank])
        shapes = mesh.calm.each(None if own is None else (tuple(own.shape), own.dtype))
        # All of them before the first is written: ranks that wait in a broadcast do not wait for a disk.
        yield from [
            _from(source, own, shape, mesh, latents.device) for source, shape in enumerate(shapes[: len(dealt)])
        ]


def _from(source: int, own: Tensor | None, shape: Any, mesh: Mesh, device: torch.device) -> Tensor:
    size, dtype = shape
    held = own if source == mesh.clip.rank else torch.empty(size, dtype=dtype, device=device)
    assert held is not None
    return mesh.clip.broadcast(held, source=source)
