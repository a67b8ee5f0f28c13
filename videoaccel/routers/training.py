"""The job of training routers for a frozen model: clips to learn from, the loop, going on after a stop, the file."""

import io
import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn

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
from videoaccel.generation.prepared import Denoising
from videoaccel.jobs.parts import encode_texts, load_pipeline
from videoaccel.jobs.resolve import WorkOrder, resolve
from videoaccel.jobs.samples import Sample
from videoaccel.models.network_config import NetworkIdentity, identity_of
from videoaccel.planning.prior import Prior, setting_of
from videoaccel.planning.router_file import RouterFile
from videoaccel.planning.shelf import find_prior
from videoaccel.routers.learning import Note, Training, begin
from videoaccel.routers.lesson import Marks
from videoaccel.routers.places import check_output, marks_path, part_path
from videoaccel.settings.config import require
from videoaccel.settings.routers import RouterSettings
from videoaccel.text.encoder import PromptStates

CHECKED = (0.25, 0.5, 0.75)
"""Where between least and greatest budget the trained routers are looked at."""


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
        network = identity_of(model)
        out = expand(settings.output) if settings.output is not None else _shelved(order, network)
        with alone(out):
            known = _prior(settings, order, pipe)
            training = begin(settings, _clips(order, pipe, states, clock), note=note, prior=known)
            _go_on(training, part_path(out), network, note)
            _loop(training, out, network, listener)
            return _finish(training, out, network)


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


def _shelved(order: WorkOrder, network: NetworkIdentity) -> Path:
    return _shelf() / f"{Path(order.settings.model).name}-{network.weights[:8]}.safetensors"


def _about(training: Training, network: NetworkIdentity) -> dict[str, Any]:
    """What a state that is gone on from must have been begun with."""
    return {**network._asdict(), "settings": _chosen(training.settings)}


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


def _go_on(training: Training, path: Path, network: NetworkIdentity, note: Note) -> None:
    """Take over what a stopped run left.

    Raises:
        FileExistsError: It was begun with other settings, or for another model.
    """
    if not path.exists():
        return
    kept = _kept(path, training.states[0].x.device)
    if kept["about"] != _about(training, network):
        raise FileExistsError(f"{path} was begun with other settings; choose another `output`, or remove it")
    training.routers.load_state_dict(kept["routers"])
    training.optimizer.load_state_dict(kept["optimizer"])
    training.iteration = kept["iteration"]
    note(f"{training.iteration} of {training.settings.iterations} iterations were done before")


def _store(training: Training, path: Path, network: NetworkIdentity) -> None:
    kept = {
        "about": _about(training, network),
        "routers": training.routers.state_dict(),
        "optimizer": training.optimizer.state_dict(),
        "iteration": training.iteration,
    }
    data = io.BytesIO()
    torch.save(kept, data)
    atomic_write_bytes(path, data.getvalue())


def _loop(training: Training, out: Path, network: NetworkIdentity, listener: Listener | None) -> None:
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
                _store(training, part_path(out), network)


@torch.no_grad()
def _finish(training: Training, out: Path, network: NetworkIdentity) -> RouterFile:
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
    RouterFile(network, blocks, settings.budget, training.routers.cpu(), training.orders, info).save(out)
    part_path(out).unlink(missing_ok=True)
    return RouterFile.load(out)
