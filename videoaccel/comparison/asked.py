"""What a comparison is asked for, as one checked value."""

from __future__ import annotations

import importlib.util
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from typing_extensions import Self

from videoaccel.common.alone import check_alone
from videoaccel.common.extras import need
from videoaccel.common.wording import short
from videoaccel.comparison.clip import Clip
from videoaccel.comparison.log import ROWS, check_folder
from videoaccel.comparison.settings import Setting, choose_settings
from videoaccel.comparison.values import Values, check_counts
from videoaccel.planning.prior import Prior
from videoaccel.sampling.noise import sample_seeds

OPTIONS = (
    "height", "width", "num_frames", "fps", "num_inference_steps", "guidance_scale", "attention_backend",
    "negative_prompt_states", "empty_prompt_states",
)  # fmt: skip
"""Arguments of a pipeline's call that all clips of a comparison may share."""


_MISSING = "{} needs {}, which is not installed; pip install 'videoaccel[{}]' brings it"


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What is compared, and how thoroughly.

    Attributes:
        out: Folder for the results.
        methods: Names; ``all`` for all of them. ``exact`` is always there.
        seeds: Of every prompt's clips.
        speedups: Where every method's PSNR is read off its curve.
        values: By method fields in place of its sweep, see :func:`videoaccel.comparison.settings.choose_settings`.
        controls: Add the two methods that others have to beat.
        settings: Further ones, such as one method in several forms; their ``method`` is what curves are drawn for.
        prior: Calibrated errors for the methods that need some; None looks for those of the model and setting.
        foreign_prior: Take a prior made for other steps, size, frames, guidance or type.
        timed_clips: How many clips, of the first, are timed.
        repeats: How often each; 0 times nothing.
        keep_clips: Write every clip to a file, see :mod:`videoaccel.comparison.kept`; those measured before are made
            again for it.
        picture: Draw the picture.
        name: What the model is called in the title.
        command: What was typed, for the record.
        options: Arguments of the pipeline's call, those in `OPTIONS`.
    """

    out: str | Path
    methods: Sequence[str] = ()
    seeds: Sequence[int] = (0,)
    speedups: Sequence[float] = ()
    values: Mapping[str, Values] | None = None
    controls: bool = True
    settings: Sequence[Setting] = ()
    prior: Prior | None = None
    foreign_prior: bool = False
    timed_clips: int = 4
    repeats: int = 3
    keep_clips: bool = False
    picture: bool = True
    name: str = "model"
    command: str = ""
    options: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, given: Mapping[str, Any], *, known: Sequence[str] | None = OPTIONS) -> Self:
        """From the arguments of :func:`videoaccel.compare`, options of the pipeline's call among them.

        Args:
            given: The arguments.
            known: Options of the call; None where the pipeline's call is to say.

        Raises:
            ValueError: One is neither, or there is no ``out``.
        """
        own = {one.name for one in fields(cls)} - {"options"}
        options = {name: value for name, value in given.items() if name not in own}
        if known is not None and (other := sorted(set(options) - set(known))):
            raise ValueError(f"{other[0]} is no option of a comparison; there are {', '.join(known)}")
        if "out" not in given:
            raise ValueError("a comparison needs a folder for its results, such as out='compared'")
        _check_kinds(given)
        told = {name: value for name, value in given.items() if name in own}
        return cls(**{**told, "prior": Prior.given(told.get("prior"))}, options=options)

    def check(self, prompts: Sequence[str]) -> tuple[tuple[Setting, ...], list[Clip]]:
        """Settings and clips, as far as can be told without a model that they can be made.

        Raises:
            ValueError: A value is wrong, an extra is missing, or the folder holds something else.
            OSError: The folder cannot be written, or another process compares there.
        """
        chosen = (*choose_settings(self.methods, values=self.values, controls=self.controls), *self.settings)
        if len({setting.key for setting in chosen}) < len(chosen):
            raise ValueError(f"a setting is there twice: {Counter(map(str, chosen)).most_common(1)[0][0]}")
        if isinstance(prompts, str) or not isinstance(prompts, Sequence) or not prompts:
            raise ValueError(f"prompts must be a list with at least one text, got {prompts!r}")
        check_counts(seeds=self.seeds, speedups=self.speedups, timed_clips=self.timed_clips, repeats=self.repeats)
        sample_seeds(self.seeds, prompts=len(self.seeds), samples=1)
        need("measuring quality", "torchmetrics", "eval")
        check_folder(out := Path(self.out))
        if out.exists():
            check_alone(out / ROWS)
        return chosen, [Clip(prompt, seed) for prompt in dict.fromkeys(prompts) for seed in dict.fromkeys(self.seeds)]

    @property
    def no_picture(self) -> str | None:
        """Why there will be no picture though one is asked for; None if there will, or none is."""
        if not self.picture or _there("matplotlib"):
            return None
        return _MISSING.format("the picture", "matplotlib", "report")


_LISTS = {"methods": "['fora', 'sada']", "seeds": "[0, 1]", "speedups": "[1.5, 2]", "settings": "[Setting('fora')]"}
"""What has to be a list, with an example."""


def _check_kinds(given: Mapping[str, Any]) -> None:
    """Refuse what is no list, number or mapping where one is wanted.

    Raises:
        ValueError: Says which, and what it looks like.
    """
    for name, example in _LISTS.items():
        if name in given and (isinstance(given[name], str) or not isinstance(given[name], Sequence)):
            raise ValueError(f"{name} is a list, such as {name}={example}, got {given[name]!r}")
    for name in ("seeds", "speedups"):
        if wrong := [one for one in given.get(name, ()) if isinstance(one, bool) or not isinstance(one, int | float)]:
            raise ValueError(f"{name} are numbers, got {wrong[0]!r}")
    for name in ("timed_clips", "repeats"):
        if name in given and (isinstance(given[name], bool) or not isinstance(given[name], int)):
            raise ValueError(f"{name} is a whole number, got {given[name]!r}")
    for name in ("controls", "foreign_prior", "keep_clips", "picture"):
        if name in given and not isinstance(given[name], bool):
            raise ValueError(f"{name} is True or False, got {given[name]!r}")
    values = given.get("values") or {}
    told = isinstance(values, Mapping) and all(isinstance(fields, Mapping) for fields in values.values())
    every = [one for fields in values.values() for one in fields.values()] if told else [None]
    if any(isinstance(one, str) or not isinstance(one, Sequence) for one in every):
        such = {"fora": {"period": [2, 3]}}
        raise ValueError(f"values are lists by field by method, such as {such}, got {short(values)}")


def _there(package: str) -> bool:
    return importlib.util.find_spec(package) is not None
