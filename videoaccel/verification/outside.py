"""Proof for pipelines of diffusers: ranks that share a clip by diffusers' context parallelism, and nothing skipped."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from videoaccel.adapters.attach import networks_of
from videoaccel.adapters.methods import plans
from videoaccel.adapters.pipeline_priors import NoPriorError
from videoaccel.adapters.streams import latent_of
from videoaccel.common.devices import cpu_threads
from videoaccel.jobs.ranks import started
from videoaccel.outside.calls import called_with, seeded, worded
from videoaccel.outside.find import Found
from videoaccel.outside.loading import load, pipeline_class
from videoaccel.outside.order import OutsideOrder, resolve_outside, with_prompt
from videoaccel.outside.outputs import numbers_in, taken
from videoaccel.outside.signature import signature_of
from videoaccel.outside.spreading import spread, why_alone
from videoaccel.outside.watching import StepTeller, accelerated
from videoaccel.parallel.degrees import Degrees
from videoaccel.session.registry import make_policy, named_method
from videoaccel.settings.generate import GenerateSettings
from videoaccel.verification.verdict import EXACT, Made, fields_of, require_one_latent

STEPS = 10
"""Unless told otherwise, where a pipeline takes a number: methods forecast from 8 evaluations on."""


def filled(settings: GenerateSettings, found: Found) -> GenerateSettings:
    """Settings with what a call needs."""
    s = with_prompt(settings, found)
    known = not found.modular and not found.code
    takes = not known or "num_inference_steps" in signature_of(pipeline_class(found)).defaults
    return s.model_copy(update={"steps": STEPS}) if s.steps is None and takes else s


def ways(
    settings: GenerateSettings, found: Found, *, ranks: Sequence[int], methods: Sequence[str]
) -> Iterator[tuple[Degrees, list[str]]]:
    """How the ranks share the clip, all of them its tokens, each with all methods.

    Raises:
        ValueError: The networks cannot be spread over ranks, or settings do not fit.
    """
    kind = pipeline_class(found, trusted=settings.trust_remote_code)
    if max(ranks) > 1 and (reason := why_alone(found, kind)) is not None:
        raise ValueError(f"{reason}; on 1 rank alone verify compares methods with a plain run")
    for count in sorted({1, *ranks}):
        degrees = Degrees(sequence=count)
        for method in methods:
            resolve_outside(variant(settings, method, degrees), found, ranks="together")
        yield degrees, list(methods)


def variant(settings: GenerateSettings, method: str, degrees: Degrees) -> GenerateSettings:
    """The settings of one method and number of ranks. A method is told what it has fields for, and measures nothing."""
    known = fields_of(method)
    planned = method != EXACT and _plans(method)
    update: dict[str, Any] = {
        "accel": None if method == EXACT else method,
        "accel_options": {name: value for name, value in settings.accel_options.items() if name in known},
        "measure_first": 0 if planned else None,
        "gpus": degrees.ranks if degrees.ranks > 1 else None,
        "sp": degrees.sequence if degrees.ranks > 1 else None,
    }
    if "speedup" not in known:
        update["speedup"] = None
    if not planned:
        update |= {"prior": None, "allow_foreign_prior": False}
    return settings.model_copy(update=update)


def _plans(method: str) -> bool:
    name, fields = named_method(method)
    return plans(make_policy(name, **fields))


# What every rank does ---------------------------------------------------------------------------------------------


@contextmanager
def made_as_rank(
    settings: GenerateSettings, found: Found, degrees: Degrees, methods: Sequence[str]
) -> Iterator[dict[str, Made]]:
    """What this rank makes with every method, as long as the ranks are together; empty but on the first."""
    orders = {
        method: resolve_outside(variant(settings, method, degrees), found, ranks="together") for method in methods
    }
    first = next(iter(orders.values()))
    s = first.settings
    with started(first) as mesh, torch.no_grad(), cpu_threads(s.threads):
        pipe = load(found, first.kind, s)
        if degrees.ranks > 1:
            spread(pipe, degrees.ranks, torch.device(str(s.device)))
        made = {}
        for method, order in orders.items():
            made[method] = make(order, pipe)
            require_one_latent(made[method].stages["values"], mesh)
        yield made if mesh.first else {}


def make(order: OutsideOrder, pipe: Any) -> Made:
    """One clip, with what its networks were given and gave.

    ``text`` is everything that their first call is given, ``pass`` what that gives, ``latents`` what the last one that
    ran is given, ``frames`` what comes out in grey levels, sound likewise, and ``values`` the same as it came.
    """
    arguments, sample = order.told(pipe), order.samples[0]
    call = called_with(arguments, sample.prompt, seed=sample.seed)
    if arguments.signature.defaults.get("output_type") == "pil":  # whose bytes round small differences away
        call.setdefault("output_type", "np")
    seen = _Seen()
    decisions = ""
    with ExitStack() as stack:
        stack.enter_context(_calibrated())
        fast = None if order.policy is None else stack.enter_context(accelerated(pipe, order, StepTeller(None)))
        stack.enter_context(seen.watching(pipe))
        with seeded(sample.seed), worded(order.kind.__name__, ranks=order.degrees.sequence):
            result = pipe(**call)
        if fast is not None:
            report = fast.report()
            streams = [asdict(one) for one in report.streams]
            decisions = json.dumps([list(report.computed), streams, report.reasons])
    out = taken(result)
    parts = [] if out.frames is None else [out.frames.ravel().astype(np.float32)]
    parts += [] if out.sound is None else [out.sound.ravel() * 127.5]
    values = np.concatenate([np.asarray(value, dtype=np.float32).ravel() for value in numbers_in(result)])
    stages = {
        **seen.stages(),
        "frames": torch.from_numpy(np.concatenate(parts)),
        "values": torch.from_numpy(values),
    }
    return Made(stages, decisions)


@contextmanager
def _calibrated() -> Iterator[None]:
    """Ranks that compare one clip measure none before it."""
    try:
        yield
    except NoPriorError as error:
        raise NoPriorError(error.near, "videoaccel calibrate measures one") from None


class _Seen:
    """What networks are given and give, kept by hooks of theirs that change nothing."""

    def __init__(self) -> None:
        self._first: tuple[Tensor, Tensor, Tensor] | None = None
        self._last: Tensor | None = None

    @contextmanager
    def watching(self, pipe: Any) -> Iterator[None]:
        """As long as the block lasts."""
        networks = networks_of(pipe).values()
        handles = [network.register_forward_hook(self._called, with_kwargs=True) for network in networks]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def stages(self) -> Mapping[str, Tensor]:
        """Empty of a pipeline none of whose networks is known."""
        if self._first is None or self._last is None:
            return {}
        text, noise, first = self._first
        return {"text": text, "noise": noise, "pass": first, "latents": self._last}

    def _called(self, network: Any, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        latent = latent_of(args, kwargs)
        given = _joined((args, kwargs))
        noise = given if latent is None else _joined(latent)
        if self._first is None:
            self._first = given, noise, _joined(output)
        self._last = noise


def _joined(tree: Any) -> Tensor:
    """All numbers in it, one after the other."""
    leaves = [leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)]
    return torch.cat([leaf.detach().flatten().float().cpu() for leaf in leaves])
