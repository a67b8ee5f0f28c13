"""Priors of pipelines that are not ours: made of what was measured, kept, found for a call, and refused.

On the shelf they stand beside those of our own networks, and say of which kind they are.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from videoaccel import __version__
from videoaccel.adapters.call_setting import differences, is_of_another
from videoaccel.adapters.measured import averaged
from videoaccel.common.home import cache_folder, kept_nowhere
from videoaccel.common.user_warning import warn_user
from videoaccel.parallel.mesh import rank_here
from videoaccel.planning.fitted import QUALITY
from videoaccel.planning.prior import KINDS, PIPELINE, Prior
from videoaccel.planning.shelf import priors_on_shelf


class NoPriorError(ValueError):
    """There is no prior for a call, and none shall be made of the first generations.

    Args:
        near: For what the nearest was measured; empty if there is none.
        advice: What can be done.
    """

    def __init__(self, near: str, advice: str) -> None:
        known = f"; the nearest was measured for {near}" if near else ""
        super().__init__(f"there is no prior of this pipeline for this call{known}; {advice}")
        self.near = near


CURVES = {"soda.psnr", QUALITY}
"""Tables of the quality that is left, which calibration alone measures."""

NO_CURVE = (
    "a quality is kept by a curve that watching generations does not give: videoaccel.calibrate(pipe, calls=[...]), or "
    "videoaccel calibrate, measures it, and there is no such prior for this call"
)


def check_tables(prior: Prior | None, needs: Sequence[str]) -> None:
    """Refuse what cannot be planned whatever the call, before anything is loaded or generated.

    Args:
        prior: The one that was given; None for those on the shelf.
        needs: Tables that a method needs beside those that any measured generation gives.

    Raises:
        ValueError: The prior that was given has not got one, or a curve is needed and no pipeline's prior here has one.
    """
    if prior is not None:
        if missing := [name for name in needs if name not in prior.tables]:
            raise ValueError(f"the prior has no table {missing[0]}; videoaccel calibrate measures it")
        return
    curves = CURVES & {*needs}
    if curves and not any(one.info.get(KINDS) == PIPELINE and curves <= one.tables.keys() for one in priors_on_shelf()):
        raise ValueError(NO_CURVE)


def made(
    setting: Mapping[str, Any],
    tables: Sequence[Mapping[str, Tensor]],
    networks: Sequence[str],
    *,
    share: float | None = None,
    more: Mapping[str, Tensor] | None = None,
) -> Prior:
    """A prior of a pipeline.

    Args:
        setting: For what it holds.
        tables: Of each generation that was measured.
        networks: Their names by number.
        share: The networks' share of the whole time.
        more: Further tables.
    """
    whole = {**averaged(tables), **(more or {})}
    info = {
        KINDS: PIPELINE,
        "videoaccel": __version__,
        "networks": list(networks),
        "evaluations": len(whole["levels"]),
        **({} if share is None else {"share": share}),
    }
    return Prior(dict(setting), whole, dict.fromkeys(whole, len(tables)), info)


def keep(prior: Prior) -> Prior:
    """Write a prior to the user's cache, where it is found by its setting; a folder that cannot be written is said.

    Returns:
        The prior, with the path where it is now.
    """
    path = kept_at(prior.setting)
    if kept_nowhere(path) or rank_here():  # of ranks that measure together the first writes
        return prior
    prior = _completed(prior, find(prior.setting)[0])
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        prior.save(path)
    except OSError as error:
        warn_user(f"what was measured is not kept for next time: {error}")
        return prior
    return replace(prior, path=path)


def _completed(prior: Prior, old: Prior | None) -> Prior:
    """With tables that were measured before for the same evaluations, and not now (a quality curve)."""
    if old is None:
        return prior
    levels, known = old.tables.get("levels"), prior.tables["levels"]
    if levels is None or levels.shape != known.shape or not torch.allclose(levels, known, rtol=1e-4):
        return prior
    more = {name: table for name, table in old.tables.items() if name not in prior.tables}
    counts = {**prior.samples, **{name: old.samples[name] for name in more}}
    return Prior(prior.setting, {**prior.tables, **more}, counts, prior.info)


def kept_at(setting: Mapping[str, Any]) -> Path:
    """Where a further prior for a setting belongs in the user's cache.

    One that is there stays: sidecars of clips that were planned with it name it.
    """
    name = hashlib.sha256(json.dumps(setting, sort_keys=True, default=str).encode()).hexdigest()[:24]
    for number in count(1):
        path = cache_folder("priors") / f"pipeline-{name}{f'-{number}' if number > 1 else ''}.safetensors"
        if not path.exists():
            return path
    raise AssertionError


def find(setting: Mapping[str, Any], *, foreign: bool = False, needs: Sequence[str] = ()) -> tuple[Prior | None, str]:
    """A prior on the shelf for a setting, and else in what the nearest differs.

    Of several the one of most generations, with a quality curve if any has one; of equal ones the newest.

    Args:
        setting: See :func:`videoaccel.adapters.call_setting.setting_of_call`.
        foreign: Take the nearest.
        needs: Tables that it must have.
    """
    nearest: tuple[int, str, Prior | None] = (1000, "", None)
    exact: list[Prior] = []
    for prior in priors_on_shelf():
        fatal = is_of_another(prior.setting, setting)
        if prior.info.get(KINDS) != PIPELINE or fatal or not set(needs) <= set(prior.tables):
            continue
        told = differences(prior.setting, setting)
        if not told:
            exact.append(prior)
            continue
        nearest = min(nearest, (len(told), ", ".join(told), prior), key=lambda one: one[0])
    if exact:
        return max(exact, key=_worth), ""
    return (nearest[2], "") if foreign else (None, nearest[1])


def _worth(prior: Prior) -> tuple[bool, int, float]:
    made = 0.0 if prior.path is None or not prior.path.exists() else prior.path.stat().st_mtime
    return "soda.psnr" in prior.tables, max(prior.samples.values(), default=0), made


def check_kind(prior: Prior) -> None:
    """Refuse a prior of our own networks.

    Raises:
        ValueError: It is one.
    """
    if prior.info.get(KINDS) != PIPELINE:
        raise ValueError("the prior was made for one of this project's own models, not for a pipeline of diffusers")


def fitting(prior: Prior, setting: Mapping[str, Any], *, foreign: bool) -> Prior:
    """A prior that was given, if it may be used.

    Raises:
        ValueError: It was measured for something else; says in what it differs.
    """
    check_kind(prior)
    told = differences(prior.setting, setting)
    fatal = is_of_another(prior.setting, setting)
    if told and (fatal or not foreign):
        advice = "; calibrate this pipeline" if fatal else "; calibrate for this call, or allow a foreign prior"
        raise ValueError(f"the prior was measured for {', '.join(told)}{advice}")
    return prior
