"""The job of training routers for a frozen model: states to learn from, the loop, going on after a stop.

No data are needed: the model's own ways from noise to clips are what it learns to shorten.

Shape legend: N steps, B samples (1), Z latent channels, T latent frames, h, w latent rows and columns.
"""

import io
import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from videoaccel import __version__
from videoaccel.calibration.calibrate import builtin_prompts
from videoaccel.common.alone import alone, check_alone
from videoaccel.common.devices import cpu_threads
from videoaccel.common.files import atomic_write_bytes, make_shelf, told
from videoaccel.common.home import cache_folder, expand
from videoaccel.common.plain_files import check_plain
from videoaccel.common.stages import Listener, StageClock
from videoaccel.generation.maker import Maker
from videoaccel.generation.pipeline import VideoPipeline
from videoaccel.generation.prepared import Denoising, plain
from videoaccel.jobs.parts import encode_texts, load_pipeline
from videoaccel.jobs.resolve import Sample, WorkOrder, resolve
from videoaccel.models.router import GATES, OPEN, Routers
from videoaccel.models.seam import Site
from videoaccel.planning.fingerprint import fingerprint
from videoaccel.planning.prior import Prior, setting_of
from videoaccel.planning.router_file import RouterFile, importance_order
from videoaccel.planning.shelf import find_prior
from videoaccel.policies.elastic import module_costs
from videoaccel.routers.lesson import Marks, Student, Teacher, lesson
from videoaccel.routers.places import check_output, marks_path, part_path
from videoaccel.settings.config import require
from videoaccel.settings.routers import RouterSettings
from videoaccel.text.encoder import PromptStates

WARM_UP = 0.05
"""Share of the iterations in which the learning rate rises."""

CHECKED = (0.25, 0.5, 0.75)
"""Where between least and greatest budget the trained routers are looked at."""

Note = Callable[[str], None]


@dataclass(frozen=True)
class State:
    """A latent on its way, [1, Z, T, h, w], before step ``step`` of a clip."""

    run: Denoising
    step: int
    x: Tensor


@dataclass
class Training:
    """Routers at work: everything that one iteration needs.

    Attributes:
        settings: What was asked for.
        states: What to learn from.
        prices: By block, what its modules cost, in the order of the gates.
        orders: By block, its MLP's neurons, the most important first.
        routers: The networks.
        optimizer: Of their weights.
        iteration: Iterations done.
    """

    settings: RouterSettings
    states: Sequence[State]
    prices: Sequence[Sequence[float]]
    orders: Mapping[str, Tensor]
    routers: Routers
    optimizer: torch.optim.Optimizer
    iteration: int = 0
    _ordered: dict[Site, Any] = field(default_factory=dict)

    def step(self) -> dict[str, float]:
        """One iteration; what it was worth. Draws depend on seed and number alone."""
        s = self.settings
        drawn = torch.Generator().manual_seed(s.seed * 1_000_003 + self.iteration)
        state = self.states[int(torch.randint(len(self.states), (1,), generator=drawn))]
        low, high = s.budget
        budget = low + (high - low) * float(torch.rand(1, generator=drawn))
        marks = self.marks(state, budget)
        loss = marks.velocity + s.hidden_weight * marks.hidden + s.budget_weight * marks.missed
        if not torch.isfinite(loss):
            raise FloatingPointError(
                f"the loss is {loss.item()} at iteration {self.iteration}; a lower `rate` may help"
            )
        for group in self.optimizer.param_groups:
            group["lr"] = s.rate * self._pace()
        self.optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(self.routers.parameters(), 1.0)
        self.optimizer.step()
        self.iteration += 1
        told = {name: float(value.detach()) for name, value in marks._asdict().items()}
        return {"iteration": self.iteration, "budget": budget, "loss": float(loss.detach()), **told}

    def marks(self, state: State, budget: float) -> Marks:
        """What the routers, as they are, make of a state."""
        run = state.run
        sites = run.model.sites
        student = Student(
            self.routers,
            sites=sites,
            ordered=self._ordered,
            orders=self.orders,
            prices=self.prices,
            budget=torch.full((len(state.x),), budget, device=state.x.device),
        )
        at = run.timesteps[state.step]
        return lesson(lambda guest: run.network(guest).at(state.x, at, None)(), student, Teacher(list(sites)))

    def _pace(self) -> float:
        """Rises, then falls along a cosine to a tenth."""
        done, rise = self.iteration / self.settings.iterations, WARM_UP
        if done < rise:
            return (self.iteration + 1) / max(1, rise * self.settings.iterations)
        return 0.55 + 0.45 * math.cos(math.pi * (done - rise) / (1 - rise))


def train_router(
    settings: RouterSettings, *, listener: Listener | None = None, note: Note = lambda text: None
) -> RouterFile:
    """Train routers for a model, and write them.

    Every ``save_every`` iterations the state is stored beside the output, ``OUTPUT.part``; the same call goes on from
    there. Marks go to ``OUTPUT.jsonl``.

    Args:
        settings: What to train.
        listener: Told how far the work is: stages ``text``, ``load``, ``denoise`` (clips) and ``train``.
        note: Told in a sentence where it goes on.

    Returns:
        The routers, as they are in the file.

    Raises:
        ValueError: Settings do not fit; says which.
        FileExistsError: Another run has begun at the output, or is at work on it.
    """
    require(settings, RouterSettings, who="train_router")
    prompts = settings.prompts or builtin_prompts(settings.model)
    numbers = range(settings.clips)
    order = resolve(
        settings.generation([prompts[k % len(prompts)] for k in numbers], seeds=[settings.seed + k for k in numbers])
    )
    clock = StageClock(listener, device=str(order.settings.device))
    with cpu_threads(order.settings.threads):
        if settings.output is not None:
            check_output(expand(settings.output))
            check_alone(expand(settings.output))
            _check_begun(settings, part_path(expand(settings.output)))
        else:
            _shelf()
        with clock.stage("text"):
            states = encode_texts(order)
        with clock.stage("load"):
            pipe = load_pipeline(order)
        model = cast(nn.Module, pipe.transformer).requires_grad_(False)
        out = expand(settings.output) if settings.output is not None else _shelved(order, fingerprint(model))
        with alone(out):
            known = _prior(settings, order, pipe)
            training = begin(settings, _clips(order, pipe, states, clock), note=note, prior=known)
            _go_on(training, part_path(out), fingerprint(model), note)
            _loop(training, out, fingerprint(model), listener)
            return _finish(training, out, fingerprint(model))


def begin(
    settings: RouterSettings, runs: Sequence[Denoising], *, note: Note = lambda text: None, prior: Prior | None = None
) -> Training:
    """Fresh routers, and what they learn from: each run's way is gone once."""
    states = [state for run in runs for state in _way(run, settings.states)]
    first = runs[0]
    sites = first.model.sites
    with torch.no_grad():
        costs = first.costs("flops")
        importance = _importance(states)
    channels = _channels(first)
    torch.manual_seed(settings.seed)
    routers = Routers(len(sites), channels, hidden=settings.hidden, stride=settings.stride).to(first.z.device)
    if prior is not None and "soda.cache" in prior.tables:
        warm_start(routers, sites, prior.tables["soda.cache"])
        note("routers begin with the order of a SODA prior")
    orders = {str(site._replace(kind="block")): importance_order(value).cpu() for site, value in importance.items()}
    optimizer = torch.optim.AdamW(routers.parameters(), lr=settings.rate, weight_decay=0.01)
    return Training(settings, states, module_costs(costs), orders, routers, optimizer)


@torch.no_grad()
def warm_start(routers: Routers, sites: Mapping[Site, Sequence[Site]], errors: Tensor) -> None:
    """Let the gates of modules that may best be served begin nearer to closing; all begin open.

    Args:
        routers: Fresh ones.
        sites: The network's blocks with their modules.
        errors: ``soda.cache`` [N, M, A]: what serving each module at each age errs.
    """
    means = errors[:, :, 0].nanmean(0)
    ranks = means.argsort().argsort() / max(1, len(means) - 1)
    modules = [(k, site) for k, within in enumerate(sites.values()) for site in within]
    assert len(modules) == len(ranks)
    for (k, site), rank in zip(modules, ranks.tolist(), strict=True):
        routers.bias[k, GATES.index(site.kind)] = OPEN * (0.25 + 1.5 * rank)


@torch.no_grad()
def _way(run: Denoising, count: int) -> list[State]:
    """Latents before ``count`` evenly spaced steps of a dense run."""
    steps = len(run.timesteps)
    wanted = {round(k * (steps - 1) / max(1, count - 1)) for k in range(count)}
    found = [State(run, 0, run.z.clone())] if 0 in wanted else []

    def keep(i: int, t: Tensor, x: Tensor) -> Tensor:
        if i + 1 in wanted:
            found.append(State(run, i + 1, x.clone()))
        return x

    plain(run, keep)
    return found


def _importance(states: Sequence[State]) -> dict[Site, Tensor]:
    """How much each MLP's neurons matter, over a dozen of the states."""
    total: dict[Site, Tensor] = {}
    for state in states[:: max(1, len(states) // 12)]:
        teacher = Teacher(list(state.run.model.sites), measures=True)
        state.run.network(teacher.run).at(state.x, state.run.timesteps[state.step], None)()
        for site, value in teacher.importance.items():
            total[site] = total[site] + value if site in total else value
    return total


@torch.no_grad()
def _channels(run: Denoising) -> int:
    """C."""
    teacher = Teacher(list(run.model.sites))
    run.once(teacher.run)
    return teacher.hidden.shape[-1]


def _clips(
    order: WorkOrder, pipe: VideoPipeline, states: Mapping[str, PromptStates], clock: StageClock
) -> list[Denoising]:
    """Denoising runs of all clips, ready to start."""
    samples = [sample for batch in order.batches for sample in batch]
    with torch.no_grad():
        return [_denoising(order, pipe, states, sample, clock) for sample in samples]


def _denoising(
    order: WorkOrder, pipe: VideoPipeline, states: Mapping[str, PromptStates], sample: Sample, clock: StageClock
) -> Denoising:
    s = order.settings
    request = pipe.request(
        prompt_states=[states[sample.texts[0]]],
        empty_prompt_states=states.get(""),
        height=order.height,
        width=order.width,
        num_frames=s.frames,
        fps=s.fps,
        num_inference_steps=s.steps,
        guidance_scale=s.guidance,
        seed=[sample.seed],
    )
    device = torch.device(str(s.device))
    parts = {"transformer": pipe.transformer, "vae": pipe.vae, "scheduler": pipe.scheduler}
    return Maker(request, **parts, device=device, clock=clock).denoising(request.references)


def _prior(settings: RouterSettings, order: WorkOrder, pipe: VideoPipeline) -> Prior | None:
    s = order.settings
    if not settings.warm_start or not isinstance(s.frames, int) or s.steps is None or s.guidance is None:
        return None
    size = (order.height, order.width)
    return find_prior(
        setting_of(
            cast(nn.Module, pipe.transformer), pipe.scheduler,
            steps=s.steps, size=size, frames=s.frames, guidance=s.guidance,
        )
    )  # fmt: skip


def _shelf() -> Path:
    """The folder for routers without an output, which is made.

    Raises:
        ValueError: There is no home folder.
        OSError: It cannot be written.
    """
    return make_shelf(cache_folder("routers"), what="routers")


def _shelved(order: WorkOrder, model: str) -> Path:
    return _shelf() / f"{Path(order.settings.model).name}-{model[:8]}.safetensors"


def _about(training: Training, model: str) -> dict[str, Any]:
    """What a state that is gone on from must have been begun with."""
    return {"model": model, "settings": _chosen(training.settings)}


def _chosen(settings: RouterSettings) -> str:
    # A LoRA is in the model's own fingerprint.
    chosen = settings.model_dump(mode="json", exclude={"output", "save_every", "device", "threads", "lora"})
    return json.dumps(chosen, sort_keys=True)


def _check_begun(settings: RouterSettings, path: Path) -> None:
    """Make sure that what a stopped run left was begun with these settings; of which model is seen later.

    Raises:
        FileExistsError: It was not.
        ValueError: It is damaged.
    """
    if path.exists() and _kept(path, "cpu")["about"]["settings"] != _chosen(settings):
        raise FileExistsError(f"{path} was begun with other settings; choose another `output`, or remove it")


def _kept(path: Path, device: torch.device | str) -> dict[str, Any]:
    check_plain(path)
    try:
        kept: dict[str, Any] = torch.load(path, map_location=device, weights_only=True)
        assert isinstance(kept["about"]["settings"], str)
    except Exception as error:  # torch raises many kinds
        raise ValueError(f"{path} is damaged, and nothing can go on from it; remove it") from error
    return kept


def _go_on(training: Training, path: Path, model: str, note: Note) -> None:
    """Take over what a stopped run left.

    Raises:
        FileExistsError: It was begun with other settings, or for another model.
    """
    if not path.exists():
        return
    kept = _kept(path, training.states[0].x.device)
    if kept["about"] != _about(training, model):
        raise FileExistsError(f"{path} was begun with other settings; choose another `output`, or remove it")
    training.routers.load_state_dict(kept["routers"])
    training.optimizer.load_state_dict(kept["optimizer"])
    training.iteration = kept["iteration"]
    note(f"{training.iteration} of {training.settings.iterations} iterations were done before")


def _store(training: Training, path: Path, model: str) -> None:
    kept = {
        "about": _about(training, model),
        "routers": training.routers.state_dict(),
        "optimizer": training.optimizer.state_dict(),
        "iteration": training.iteration,
    }
    data = io.BytesIO()
    torch.save(kept, data)
    atomic_write_bytes(path, data.getvalue())


def _loop(training: Training, out: Path, model: str, listener: Listener | None) -> None:
    settings = training.settings
    with told(marks_path(out)), marks_path(out).open("a") as log:
        while training.iteration < settings.iterations:
            start = time.perf_counter()
            marks = training.step()
            marks["seconds"] = time.perf_counter() - start
            log.write(json.dumps({name: float(f"{value:.6g}") for name, value in marks.items()}) + "\n")
            if listener is not None:
                listener("train", training.iteration, settings.iterations)
            if training.iteration % settings.save_every == 0 or training.iteration == settings.iterations:
                log.flush()
                _store(training, part_path(out), model)


@torch.no_grad()
def _finish(training: Training, out: Path, model: str) -> RouterFile:
    """Write the routers, with how they did at some budgets."""
    settings = training.settings
    low, high = settings.budget
    checked = []
    for budget in [low + (high - low) * share for share in CHECKED]:
        marks = [training.marks(state, budget) for state in training.states]
        means = {name: sum(float(getattr(mark, name)) for mark in marks) / len(marks) for name in Marks._fields}
        checked.append({"budget": round(budget, 4), **{name: round(value, 6) for name, value in means.items()}})
    info = {
        "videoaccel": __version__, "iterations": training.iteration, "states": len(training.states),
        "settings": settings.model_dump(mode="json", exclude={"output"}), "checked": checked,
    }  # fmt: skip
    blocks = tuple(str(site) for site in training.states[0].run.model.sites)
    RouterFile(model, blocks, settings.budget, training.routers.cpu(), training.orders, info).save(out)
    part_path(out).unlink(missing_ok=True)
    return RouterFile.load(out)
