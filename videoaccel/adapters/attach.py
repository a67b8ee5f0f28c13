"""Attaching to a pipeline of diffusers, and coming off again."""

import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from types import TracebackType
from typing import Any

import torch
from torch import nn
from typing_extensions import Self

from videoaccel.adapters import sides
from videoaccel.adapters.agreement import Agreement, agreement_of, alone, require_same
from videoaccel.adapters.blocks import Blocks, why_not
from videoaccel.adapters.body import Body
from videoaccel.adapters.doors import (
    Plain,
    network_members,
    pipeline_members,
    plain_network_members,
    scheduler_members,
)
from videoaccel.adapters.generation import Generation
from videoaccel.adapters.inner import Inner
from videoaccel.adapters.observer import Observer
from videoaccel.adapters.report import Report, nothing_yet
from videoaccel.adapters.rule import RuleMaker, StepRule
from videoaccel.adapters.swap import listeners_of, original, unwatch, watch
from videoaccel.common.user_warning import warn_user
from videoaccel.planning.fitted import Instead, instead
from videoaccel.planning.prior import Prior

NETWORKS = (
    "transformer", "transformer_2", "transformer_3", "unconditional_transformer", "unet", "prior", "decoder", "model",
    "dit", "denoiser",
)  # fmt: skip
"""Names that pipelines give their denoisers."""


class Attachment:
    """What accelerates a pipeline; made by :func:`videoaccel.accelerate`. Also a context, which ends with removal.

    Before every generation it looks at the pipeline's parts again: a scheduler that was replaced, or a denoiser that
    was compiled, is attached to as it then is. Calls outside of the pipeline's own generations, or from other threads,
    are handed on untouched; so are those of a copy of the pipeline, and of another one that shares its parts.

    Attributes:
        method: Name of the method.
    """

    def __init__(
        self, pipe: Any, rules: Callable[[], StepRule], *, method: str, observers: Sequence[Observer] = ()
    ) -> None:
        self.method = method
        self._pipe, self._observers = pipe, tuple(observers)
        self._rules = rules if isinstance(rules, RuleMaker) else RuleMaker(rules)
        self._networks: dict[str, Any] = {}
        self._sides: dict[str, Any] = {}
        self._names: dict[int, str] = {}
        self._schedulers: list[Any] = []
        self._blocks: dict[str, Blocks] = {}
        self._bodies: dict[str, Body] = {}
        self._generation: Generation | None = None
        self._thread: int | None = None
        self._last: Report | None = None
        self._prior: Prior | None = None
        self._note: str | None = None
        self._kind = original(type(pipe)).__name__
        self._look()
        watch(pipe, self, pipeline_members)

    def remove(self) -> None:
        """Come off: the pipeline and its parts are of their own classes again. A second time it does nothing."""
        if self._pipe is None:
            return
        for part in (*self._networks.values(), *self._sides.values(), *self._schedulers, self._pipe):
            unwatch(part, self)
        for known in (self._blocks, self._bodies):
            for one in known.values():
                one.remove()
        self._pipe, self._networks, self._sides, self._schedulers = None, {}, {}, []
        self._names, self._blocks, self._bodies = {}, {}, {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.remove()

    @property
    def attached(self) -> bool:
        """Whether it has not been removed."""
        return self._pipe is not None

    @property
    def pipe(self) -> Any:
        """The pipeline; None after removal."""
        return self._pipe

    @property
    def computed(self) -> list[int]:
        """Evaluations of the last generation in which a network ran."""
        return [] if self._last is None else list(self._last.computed)

    @property
    def prior(self) -> Prior | None:
        """The measured errors that the last generation was planned from; None if it was not."""
        return self._prior

    def observe(self, observer: Observer) -> None:
        """Have one more told of everything, from the next generation on."""
        self._observers = (*self._observers, observer)

    def report(self) -> Report:
        """What happened in the last generation; of none, if there has been none, a report that says so."""
        return self._last or nothing_yet(self._kind, self.method)

    def __repr__(self) -> str:
        return f"{'' if self.attached else 'removed; '}{self.report().summary}"

    # What parts of the pipeline tell --------------------------------------------------------------------------------

    @property
    def open(self) -> bool:
        """Whether a generation is under way, in this thread."""
        return self._generation is not None and self._thread == threading.get_ident()

    def called(self, network: Any, plain: Plain, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """A denoiser is called."""
        generation, name = self._generation, self._name_of(network)
        if generation is None or name is None:
            return plain(*args, **kwargs)
        if name in sides.NETWORKS:
            return generation.beside(name, plain, args, kwargs)
        return generation.called(name, plain, args, kwargs)

    def entered(self, network: Any, name: str | None) -> None:
        """The pipeline names calls."""
        component = self._name_of(network)
        if self._generation is not None and component is not None:
            self._generation.entered(component, name)

    def scheduled(self, scheduler: Any) -> None:
        """A scheduler, or a copy, has been given its timesteps."""
        if self._generation is not None:
            self._generation.scheduled(scheduler)

    def stepped(self, scheduler: Any, plain: Plain, given: Any) -> Any:
        """A scheduler, or a copy, takes a step."""
        return plain() if self._generation is None else self._generation.stepped(plain, given)

    @contextmanager
    def generates(self, pipe: Any, arguments: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
        """A generation of a pipeline, if it is ours and none is under way."""
        if pipe is not self._pipe or self._generation is not None:
            yield {}
            return
        self._look()
        agree = agreement_of(self._networks.values())
        others = self._rules.begins(arguments)
        self._planned(agree)
        generation = Generation(
            self._rules,
            observers=self._observers,
            standing=self._standing(),
            wide=self._wide(),
            agree=agree,
            blocks=self._blocks,
            inner=self._inner(agree),
            main=next(iter(self._networks)) if len(self._networks) == 1 else None,
            sees=lambda size: self._rules.sees(size) and self._planned(agree),
        )
        self._generation, self._thread, failed = generation, threading.get_ident(), True
        try:
            yield others
            failed = False
        finally:
            self._generation = self._thread = None
            said = self._note
            remarks = {blocks.remark for blocks in self._blocks.values()}
            if self._prior is not None and not generation.served:
                said = None  # it had a plan, and reasons not to keep to it, which the report has
            note = "; ".join(one for one in (said, *sorted(filter(None, remarks))) if one) or None
            self._last = last = generation.finish(pipeline=self._kind, method=self.method, failed=failed, note=note)
            if generation.served and (told := self._better(last)):
                self._last = last = replace(last, note=f"{note}; {told}" if note else str(told))
            after = self._rules.ends(seconds=last.seconds, in_networks=last.seconds_in_networks, failed=failed)
            if after is not None:
                self._last = replace(last, note=after)
                warn_user(f"{self.method} on {self._kind}: {after}")
        if generation.forecasts:
            _say(self._last)

    def _better(self, last: Report) -> Instead | None:
        """Plain steps, if these kept more than the plan of a generation."""
        tables = self._prior.tables if self._prior is not None and self.method == "soda" else {}
        found = instead(tables, len(last.computed), steps=last.evaluations)
        return found if found is not None and found.more else None

    def _planned(self, agree: Agreement) -> bool:
        """It is known what the generation under way is planned from, of which all ranks must have the same."""
        self._note, self._prior = self._rules.note, self._rules.prior
        if agree is not alone:
            require_same(agree, told_apart(self._prior), "measured errors", _device_of(self._networks.values()))
        return True

    # Parts ----------------------------------------------------------------------------------------------------------

    def _look(self) -> None:
        """Attach to the parts that the pipeline has now, and come off those that it had."""
        networks, schedulers = networks_of(self._pipe), schedulers_of(self._pipe)
        beside = modules_of(self._pipe, sides.NETWORKS)
        for known, present in ((self._networks, networks), (self._sides, beside)):
            for name, old in list(known.items()):
                if present.get(name) is not old:
                    unwatch(known.pop(name), self)
        for old in list(self._schedulers):
            if not any(old is new for new in schedulers):
                unwatch(old, self)
        for network in (*networks.values(), *beside.values()):
            watch(network, self, network_members if hasattr(network, "cache_context") else plain_network_members)
        for scheduler in schedulers:
            watch(scheduler, self, scheduler_members)
        self._networks, self._sides, self._schedulers = networks, beside, schedulers
        self._names = {id(network): name for name, network in (networks | beside).items()}
        self._look_inside()

    def _look_inside(self) -> None:
        """Listen to blocks, if that is wanted, of networks that have some."""
        signals, residual = self._rules.watches, self._rules.residual
        _listen(self._blocks, self._networks if signals else {}, lambda network: Blocks(network, signals))
        _listen(self._bodies, self._networks if residual in ("auto", "body") else {}, Body)

    def _inner(self, agree: Agreement) -> Inner | None:
        """What is forecast of each network, of a method that may forecast either."""
        if (residual := self._rules.residual) is None:
            return None
        for body in self._bodies.values():
            body.agree = agree
        known = self._networks if residual == "output" else self._bodies
        reasons = {name: f"{name} {why_not(one)}" for name, one in self._networks.items() if name not in known}
        return Inner(self._bodies, reasons, only=residual == "body")

    def _name_of(self, network: Any) -> str | None:
        return self._names.get(id(network))

    def _standing(self) -> str | None:
        """Why nothing may be forecast in the generation that begins."""
        cached = [name for name, network in self._networks.items() if _has_cache(network)]
        if cached:
            return f"{cached[0]} has a cache of its own enabled"
        if not self._rules.watches and self._rules.residual != "body":
            return None
        known = self._blocks if self._rules.watches else self._bodies
        shut = [f"{name} {why_not(network)}" for name, network in self._networks.items() if name not in known]
        return shut[0] if shut else None

    def _wide(self) -> dict[str, int]:
        """Channels of the latent by network, of those that predict a variance which the scheduler uses."""
        learned = any(
            str(getattr(scheduler, "config", {}).get("variance_type") or "").startswith("learned")
            for scheduler in self._schedulers
        )
        found = {}
        for name, network in self._networks.items():
            config = getattr(network, "config", None) or {}
            coming, going = config.get("in_channels"), config.get("out_channels")
            if learned and coming is not None and going == 2 * coming:
                found[name] = coming
        return found


def _listen(known: dict[str, Any], networks: Mapping[str, Any], make: Callable[[Any], Any]) -> None:
    """Listen to the blocks of those networks that have some, and no longer to those that are others by now."""
    wanted = {name: network for name, network in networks.items() if why_not(network) is None}
    for name, old in list(known.items()):
        if name not in wanted or not old.fits(wanted[name]):
            known.pop(name).remove()
    for name, network in wanted.items():
        if name not in known:
            known[name] = make(network)


def networks_of(pipe: Any) -> dict[str, nn.Module]:
    """A pipeline's denoisers by name; empty if it has none that are known. One under two names counts once."""
    return modules_of(pipe, NETWORKS)


def modules_of(pipe: Any, names: Sequence[str]) -> dict[str, nn.Module]:
    """A pipeline's networks of these names; one under two names counts once."""
    found: dict[str, nn.Module] = {}
    for name in names:
        part = getattr(pipe, name, None)
        if isinstance(part, nn.Module) and all(part is not other for other in found.values()):
            found[name] = part
    return found


def schedulers_of(pipe: Any) -> list[Any]:
    """A pipeline's schedulers."""
    found: list[Any] = []
    for part in list(vars(pipe).values()):
        steps = not isinstance(part, type | nn.Module) and hasattr(type(part), "set_timesteps")
        if steps and hasattr(type(part), "step") and all(part is not other for other in found):
            found.append(part)
    return found


def takes_attachments(pipe: Any) -> bool:
    """Whether a pipeline has a denoiser that is known, or may load one later (a modular one)."""
    return bool(networks_of(pipe)) or hasattr(pipe, "load_components")


def attach(pipe: Any, rules: Callable[[], StepRule], *, method: str, observers: Sequence[Observer] = ()) -> Attachment:
    """Attach a rule to a pipeline.

    Args:
        pipe: The pipeline.
        rules: Makes the rule of a segment; a :class:`RuleMaker` also hears where generations begin and end.
        method: Its name, for reports.
        observers: Who is told of everything.

    Raises:
        ValueError: The pipeline has no denoiser that is known, another tool skips calls of it already, or something is
            attached to it: two methods would each take the other's forecasts for outputs.
    """
    if (other := attachment_of(pipe)) is not None:
        raise ValueError(
            f"{original(type(pipe)).__name__} is accelerated by {other.method} already; remove() that first, or call "
            "videoaccel.accelerate(pipe, None)"
        )
    if not takes_attachments(pipe):
        raise ValueError(f"{original(type(pipe)).__name__} has no denoiser under a name that is known")
    if not schedulers_of(pipe) and not hasattr(pipe, "load_components"):
        raise ValueError(f"{original(type(pipe)).__name__} has no scheduler, whose steps would tell calls apart")
    for name, network in networks_of(pipe).items():
        if _has_cache(network):
            raise ValueError(
                f"{name} of {original(type(pipe)).__name__} has a cache of its own enabled; disable it first"
            )
    return Attachment(pipe, rules, method=method, observers=observers)


def attachment_of(pipe: Any) -> Attachment | None:
    """What is attached to a pipeline."""
    return next((one for one in listeners_of(pipe) if isinstance(one, Attachment) and one.pipe is pipe), None)


def detach(pipe: Any) -> None:
    """Come off a pipeline, if something is attached to it."""
    if (attached := attachment_of(pipe)) is not None:
        attached.remove()


def _device_of(networks: Iterable[nn.Module]) -> torch.device:
    """Where ranks that share networks exchange: the device of weights, or of the GPU that offloaded ones come to."""
    found = {parameter.device for network in networks for parameter in network.parameters()}
    if torch.cuda.is_available() and all(device.type == "cpu" for device in found):
        return torch.device("cuda")
    return next(iter(found), torch.device("cpu"))


def told_apart(prior: Prior | None) -> str:
    """Tells what is planned from apart, by what all ranks measure alike; what blocks do is each rank's part."""
    if prior is None:
        return "none"
    own = ("teacache.", "adacache.")
    shared = sorted(name for name in prior.tables if not name.startswith(own))
    return " ".join(f"{name} {prior.tables[name].tolist()}" for name in shared)


def _has_cache(network: Any) -> bool:
    """Whether diffusers or cache-dit skips parts of it."""
    return bool(getattr(network, "is_cache_enabled", False)) or bool(getattr(network, "_is_cached", False))


def _say(report: Report) -> None:
    """Warn of a generation in which nothing was forecast."""
    if report.evaluations and report.calls == report.calls_computed and not report.failed:
        reasons = ", ".join(f"{count} calls: {reason}" for reason, count in (report.reasons or report.due).items())
        warn_user(f"{report.method} computed all of {report.pipeline}: {reasons}")
