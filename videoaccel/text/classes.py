"""Prompts of a class-conditional model: the name of a class, or its number.

Shape legend: B prompts.

Source of the names: ``id2label`` in the ``model_index.json`` of diffusers' ``DiTPipeline``, where commas stand between
the names of a class.
"""

from collections.abc import Mapping, Sequence
from difflib import get_close_matches

import torch
from typing_extensions import Self

from videoaccel.text.encoder import PromptStates
from videoaccel.text.prompts import clean_text, plain_text

_SHOWN = 5


class ClassNames:
    """Reads classes where a text encoder reads texts: its states are one token whose one number is the class.

    Args:
        labels: Names by class; "tench, Tinca tinca" is known by both names, and by both together. Of a class that is
            not there only the number is known.
    """

    def __init__(self, labels: Mapping[str, str] | None = None) -> None:
        self.known: dict[str, list[int]] = {}
        for key, label in sorted((int(key), label) for key, label in (labels or {}).items()):
            forms = {form(name) for name in (label, *label.split(",")) for form in (plain_text, clean_text)}
            for name in forms:
                self.known.setdefault(name, []).append(key)

    def read(self, prompts: Sequence[str]) -> PromptStates:
        """Classes of prompts, float32 [B, 1, 1, 1].

        Raises:
            ValueError: A prompt names no class, or several.
        """
        classes = torch.tensor([float(self.number(prompt)) for prompt in prompts])
        return PromptStates(classes.view(-1, 1, 1, 1), torch.ones(len(prompts), 1, dtype=torch.long))

    def number(self, prompt: str) -> int:
        """The class that a prompt names.

        Raises:
            ValueError: There is none of this name, or several are.
        """
        name = plain_text(prompt)
        if name.isdecimal():
            return int(name)
        found = self.known.get(name, [])
        if len(found) > 1:
            raise ValueError(f"classes {' and '.join(map(str, found))} are both called {name!r}; give the number")
        if not found:
            near = get_close_matches(name, self.known, n=_SHOWN)
            like = f"like it are {', '.join(near)}" if near else f"{len(self.known)} names are known"
            raise ValueError(f"no class is called {name!r}; {like}; the number of a class will do, too")
        return found[0]

    def to(self, device: str) -> Self:
        """Nothing of it is on a device."""
        return self
