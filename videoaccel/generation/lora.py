"""LoRA weights on a pipeline's transformer, under the names that diffusers' pipelines have for it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from videoaccel.common.home import expand
from videoaccel.models.lora import Adapters, read_lora


class TakesLora:
    """Puts LoRA weights on ``self.transformer``: switched, weighted and taken off between generations.

    Methods' calibrated tables belong to weights: with a LoRA on, those that need tables ask for their own.
    """

    transformer: Any
    _adapters: Adapters | None = None

    def load_lora_weights(self, path: str | Path, *, weight: float = 1.0, adapter_name: str | None = None) -> None:
        """Add low-rank weights to the transformer's own; several may be on together.

        Args:
            path: A file, or a folder with one, as diffusers, PEFT or Kohya's trainers write it.
            weight: How much of it.
            adapter_name: What it is called from now on; default its file's name without the ending, and a number where
                that is taken.

        Raises:
            FileNotFoundError: It is not there.
            ValueError: It is no LoRA, or not one of this transformer, or the name is taken; nothing was changed then.
        """
        place = expand(path)
        self._lora.add(adapter_name or self._free(place), read_lora(place), weight=weight, source=place)

    def set_adapters(
        self, adapter_names: str | Sequence[str], adapter_weights: float | Sequence[float] | None = None
    ) -> None:
        """Turn some on, each by its weight (default 1), and the others off.

        Raises:
            ValueError: There is none of a name, or not a weight for each.
        """
        names = [adapter_names] if isinstance(adapter_names, str) else list(adapter_names)
        several = adapter_weights if isinstance(adapter_weights, Sequence) else [adapter_weights] * len(names)
        if len(several) != len(names):
            raise ValueError(f"{len(several)} weights for {len(names)} LoRAs; give one for all, or one for each")
        self._lora.set({name: 1.0 if one is None else one for name, one in zip(names, several, strict=True)})

    def get_active_adapters(self) -> list[str]:
        """Names of those that are on."""
        return [name for name, weight in self._lora.weights.items() if weight]

    def get_list_adapters(self) -> dict[str, float]:
        """How much of each that was loaded, 0 if it is off."""
        return self._lora.weights

    def delete_adapters(self, adapter_names: str | Sequence[str]) -> None:
        """Take some off and forget them.

        Raises:
            ValueError: There is none of a name.
        """
        self._lora.remove([adapter_names] if isinstance(adapter_names, str) else adapter_names)

    def unload_lora_weights(self) -> None:
        """Take all off and forget them: the weights are what they were, to the bit."""
        self._lora.remove(list(self._lora.weights))

    def fuse_lora(self) -> None:
        """Make what is on part of the transformer for good, which frees the copy of its weights."""
        self._lora.fuse()

    @property
    def _lora(self) -> Adapters:
        if self._adapters is None or self._adapters.network is not self.transformer:
            self._adapters = Adapters(self.transformer)
        return self._adapters

    def _free(self, path: Path) -> str:
        taken, name = self._lora.weights, path.stem
        return next(free for free in (name, *(f"{name}-{n}" for n in range(2, len(taken) + 3))) if free not in taken)
