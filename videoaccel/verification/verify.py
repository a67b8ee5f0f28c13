"""Proof that several ranks make the clip of one: the same work by 1, 2, 4 ranks, compared stage by stage.

Shape legend: B batch, Z latent channels, t, h, w latent sizes, F frames, H, W pixels.
"""

import json
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor

from videoaccel.common.devices import cpu_threads
from videoaccel.common.wording import short
from videoaccel.jobs.generate import requested
from videoaccel.jobs.parts import encode_texts, load_pipeline
from videoaccel.jobs.ranks import started
from videoaccel.jobs.resolve import WorkOrder, pick_device, resolve
from videoaccel.jobs.tables import check_tables
from videoaccel.media.reader import to_uint8
from videoaccel.outside.find import find_outside
from videoaccel.parallel.degrees import Degrees, possible_degrees
from videoaccel.parallel.mesh import Mesh
from videoaccel.sampling.guidance import combine
from videoaccel.session.policy import Session
from videoaccel.session.registry import make_policy, named_method
from videoaccel.settings.config import require
from videoaccel.settings.generate import GenerateSettings
from videoaccel.verification import outside
from videoaccel.verification.verdict import (
    EXACT,
    OFF,
    Made,
    Verdict,
    compared,
    fields_of,
    made_by_ranks,
    require_one_latent,
    written,
)


def verify(
    settings: GenerateSettings,
    *,
    ranks: Sequence[int],
    methods: Sequence[str] = (EXACT,),
    note: Callable[[str], None] = lambda text: None,
) -> list[Verdict]:
    """Make one clip by each number of ranks, split in every way, with each method, and compare.

    Args:
        settings: What to make; one prompt. Pipelines of diffusers are spread over ranks by their own
            context parallelism. It is made in float32, by one thread a rank unless told otherwise.
        ranks: Numbers of ranks; 1, which the others are compared with, need not be among them.
        methods: Names; ``exact`` is none.
        note: Told in a sentence what is being made.

    Raises:
        ValueError: Settings do not fit.
        RanksEndedError: Ranks failed; what they say stands on stderr.
    """
    require(settings, GenerateSettings, who="verify")
    if not isinstance(ranks, Sequence) or not all(type(count) is int and count >= 1 for count in ranks):
        raise ValueError(f"ranks are numbers of at least 1, such as ranks=[1, 2], got {short(ranks)}")
    settings = settings.model_copy(update={"dtype": "float32", "threads": settings.threads or 1})
    methods = list(dict.fromkeys([*([EXACT] if OFF in methods else []), *methods]))
    for name in settings.accel_options:
        if not any(name in fields_of(method) for method in methods):
            raise ValueError(f"`accel_options`: {name!r} is no field of {', '.join(methods)}")
    foreign = find_outside(settings)
    if foreign is None:
        every = [way for count in sorted({1, *ranks}) for way in _splits(count, settings, methods)]
        for method in methods:  # what is missing is said before ranks are started
            check_tables(resolve(variant(settings, method, Degrees())))
    else:
        settings = outside.filled(settings, foreign)
        every = list(outside.ways(settings, foreign, ranks=ranks, methods=methods))
    device = str(pick_device(settings.device))
    found: dict[tuple[str, Degrees], Made] = {}
    with tempfile.TemporaryDirectory(prefix="videoaccel-") as folder:
        for degrees, able in every:
            note(f"{', '.join(able)} by {degrees.ranks} rank{'s' if degrees.ranks > 1 else ''} ({degrees})")
            made = made_by_ranks(settings, degrees, able, device=device, folder=Path(folder))
            found |= {(name, degrees): one for name, one in made.items()}
    one = Degrees()
    return [
        compared(name, degrees, made, found[name, one], found.get((EXACT, degrees)))
        for (name, degrees), made in found.items()
        if degrees.ranks in ranks or degrees == one
    ]


def variant(settings: GenerateSettings, method: str, degrees: Degrees) -> GenerateSettings:
    """The settings of one method and split; a lone process has none. A method is told what it has fields for."""
    known = fields_of(method)
    update: dict[str, Any] = {
        "accel": None if method == EXACT else method,
        "accel_options": {name: value for name, value in settings.accel_options.items() if name in known},
    }
    if "speedup" not in known:
        update["speedup"] = None
    if method == EXACT or not _takes_prior(method):
        update |= {"prior": None, "allow_foreign_prior": False}
    many = degrees.ranks > 1
    split = {"gpus": degrees.ranks, "dp": 1, "cfg_parallel": degrees.guidance, "sp": degrees.sequence}
    return settings.model_copy(update=update | {name: value if many else None for name, value in split.items()})


def _takes_prior(method: str) -> bool:
    name, fields = named_method(method)
    return bool(make_policy(name, **fields).required)


def _splits(count: int, settings: GenerateSettings, methods: Sequence[str]) -> Iterator[tuple[Degrees, list[str]]]:
    """Ways to have so many ranks make one clip, each with the methods that can be split so."""
    for degrees in possible_degrees(count, splits_guidance=True):
        if degrees.data > 1:
            continue
        able = []
        for method in methods:
            whole = settings.model_copy(update={"gpus": None, "dp": None, "cfg_parallel": None, "sp": None})
            order = resolve(variant(whole, method, Degrees()))
            joined = order.settings.guidance == 1 or (
                order.policy is not None and any(part.joins_branches for part in order.policy.parts)
            )
            if degrees.guidance == 1 or not joined:
                able.append(method)
        if able:
            yield degrees, able


# What every rank does ---------------------------------------------------------------------------------------------


def make_as_rank(name: str) -> None:
    """One rank's part: a clip with every method of ``NAME.yaml``; the first rank writes ``NAME.safetensors``."""
    told = yaml.safe_load(Path(f"{name}.yaml").read_text(encoding="utf-8"))
    settings, degrees = GenerateSettings(**told["settings"]), Degrees(*told["degrees"])
    if (foreign := find_outside(settings)) is not None:
        with outside.made_as_rank(settings, foreign, degrees, told["methods"]) as found:
            if found:
                written(name, found)
        return
    orders = {method: resolve(variant(settings, method, degrees)) for method in told["methods"]}
    first = next(iter(orders.values()))
    with (
        started(first) as mesh,
        torch.inference_mode(),
        cpu_threads(first.settings.threads),
    ):
        pipe = load_pipeline(first).parallelize(mesh)
        made = {method: make(order, pipe, mesh) for method, order in orders.items()}
        if mesh.first:
            written(name, made)


def make(order: WorkOrder, pipe: Any, mesh: Mesh) -> Made:
    """One clip, stage by stage.

    Raises:
        RankError: The ranks came to different latents.
    """
    batch = order.batches[0]
    states = mesh.everyone.same(encode_texts(order) if mesh.first else None)
    run = pipe.denoising(requested(order, batch, pipe=pipe, states=states))
    session = Session(run.job(), mix=run.layout.mix)
    session.begin(0)
    velocities = session.network(run.network(session.run).at(run.z, run.timesteps[0], None))
    one_pass = combine(run.layout.join(velocities, session.decisions), run.guidance_scale)
    last: dict[str, Tensor] = {}

    def keep(pipe: Any, step: int, timestep: Tensor, now: Mapping[str, Tensor]) -> dict[str, Tensor]:
        last.update(now)
        return {}

    sessions: list[Session] = []
    request = requested(order, batch, pipe=pipe, states=states, callback_on_step_end=keep)
    chunks = [to_uint8(chunk[0]) for chunk in pipe.stream(request, sessions=sessions)]
    text = torch.cat([state.states for state in states.values()])
    stages = {
        "text": text,
        "noise": run.z,
        "pass": one_pass,
        "latents": last["latents"],
        "frames": torch.cat([torch.from_numpy(chunk) for chunk in chunks]),
    }
    require_one_latent(stages["latents"], mesh)
    return Made(stages, json.dumps([session.digest() for session in sessions]))
