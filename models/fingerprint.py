"""Identities of networks: by their weights, in whatever type they are held."""

import hashlib
import math

import torch
from torch import Tensor, nn


def fingerprint(model: nn.Module) -> str:
    """Identity of a network's weights, whatever type they are held in: a hash over a sample of every parameter."""
    return _hashed(*_sample(model))


class Fingerprints:
    """Fingerprints of networks that are asked for again and again: hashed anew only where the sample has changed."""

    def __init__(self) -> None:
        self._known: dict[tuple[bytes, str], str] = {}

    def of(self, model: nn.Module) -> str:
        """As :func:`fingerprint`."""
        names, sample = _sample(model)
        key = (hashlib.sha256(sample.view(torch.int16).numpy().tobytes()).digest(), repr(names))
        if key not in self._known:
            self._known[key] = _hashed(names, sample)
        return self._known[key]


def _sample(model: nn.Module) -> tuple[list[tuple[str, list[int]]], Tensor]:
    """Names and shapes of parameters, and up to 64 values of each, one behind the other, bfloat16 on the CPU."""
    names, picked = [], []
    for name, parameter in sorted(model.state_dict().items()):
        flat = parameter.detach().flatten()
        names.append((name, list(parameter.shape)))
        picked.append(flat[:: max(1, len(flat) // 64)][:64].to(torch.bfloat16))
    devices = {part.device for part in picked}
    joined = torch.cat(picked if len(devices) == 1 else [part.cpu() for part in picked]) if picked else torch.empty(0)
    return names, joined.to("cpu", torch.bfloat16)


def _hashed(names: list[tuple[str, list[int]]], sample: Tensor) -> str:
    digest, start = hashlib.sha256(), 0
    for name, shape in names:
        count = math.prod(shape)
        end = start + len(range(0, count, max(1, count // 64))[:64])
        digest.update(f"{name} {shape} {sample[start:end].float().tolist()}\n".encode())
        start = end
    return digest.hexdigest()
