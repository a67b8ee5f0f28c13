"""Proof that several ranks make the clip of one: the same work by 1, 2, 4 ranks, compared stage by stage.

Shape legend: B batch, Z latent channels, t, h, w latent sizes, F frames, H, W pixels.
"""

import hashlib
import json
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from videoaccel.common.devices import cpu_threads
from videoaccel.common.wording import counted
from videoaccel.jobs.generate import requested
from videoaccel.jobs.parts import encode_texts, load_pipeline
from videoaccel.jobs.ranks import started
from videoaccel.jobs.resolve import WorkOrder, resolve
from videoaccel.media.reader import to_uint8
from videoaccel.parallel.comm import RankError
from videoaccel.parallel.degrees import Degrees, possible_degrees
from videoaccel.parallel.launch import start_ranks
from videoaccel.parallel.mesh import Mesh
from videoaccel.sampling.guidance import combine
from videoaccel.session.chain import SIGN
from videoaccel.session.policy import Session
from videoaccel.session.registry import make_policy, named_method, policy_class
from videoaccel.settings.generate import GenerateSettings

EXACT, OFF = "exact", "off"
"""No method at all, and the machinery with nothing changed: these two must agree bit for bit."""

TOLERANCES: Mapping[str, float] = {"text": 0.0, "noise": 0.0, "pass": 1e-5, "latents": 1e-4, "frames": 1.0}
"""By stage the largest difference that counts as equal, in float32: states, noise, one network pass relative to its
largest value, latents after all steps, decoded frames in grey levels. Zero means bit for bit."""


class RanksEndedError(RankError):
    """Ranks that were started have failed, and said why; the second argument is their exit code."""


@dataclass(frozen=True)
class Verdict:
    """One way of making a clip against the first.

    Attributes:
        method: Acceleration, or ``exact``.
        degrees: Of the ranks.
        differences: By stage, the largest.
        decisions: Whether all decisions are those of one rank.
        bits: Whether the latents are those of ``exact`` bit for bit, of ``off``; None of other methods.
    """

    method: str
    degrees: Degrees
    differences: Mapping[str, float]
    decisions: bool
    bits: bool | None = None

    @property
    def holds(self) -> bool:
        """Whether everything is within its tolerance; not-a-number is not."""
        close = all(self.differences[stage] <= most for stage, most in TOLERANCES.items())
        return close and self.decisions and self.bits is not False


@dataclass(frozen=True)
class Made:
    """What some ranks made of one method: tensors by stage, and a hash of all decisions."""

    stages: Mapping[str, Tensor]
    decisions: str


def verify(
    settings: GenerateSettings,
    *,
    ranks: Sequence[int],
    methods: Sequence[str] = (EXACT,),
    note: Callable[[str], None] = lambda text: None,
) -> list[Verdict]:
    """Make one clip by each number of ranks, split in every way, with each method, and compare.

    Args:
        settings: What to make; one prompt. It is made in float32, by one thread a rank unless told otherwise.
        ranks: Numbers of ranks; 1, which the others are compared with, need not be among them.
        methods: Names; ``exact`` is none.
        note: Told in a sentence what is being made.

    Raises:
        ValueError: Settings do not fit.
        RanksEndedError: Ranks failed; what they say stands on stderr.
    """
    settings = settings.model_copy(update={"dtype": "float32", "threads": settings.threads or 1})
    methods = list(dict.fromkeys([*([EXACT] if OFF in methods else []), *methods]))
    for name in settings.accel_options:
        if not any(name in _fields(method) for method in methods):
            raise ValueError(f"`accel_options`: {name!r} is no field of {', '.join(methods)}")
    every = [degrees for count in sorted({1, *ranks}) for degrees in _splits(count, settings, methods)]
    found: dict[tuple[str, Degrees], Made] = {}
    with tempfile.TemporaryDirectory(prefix="videoaccel-") as folder:
        for degrees, able in every:
            note(f"{', '.join(able)} by {degrees.ranks} rank{'s' if degrees.ranks > 1 else ''} ({degrees})")
            found |= {(name, degrees): made for name, made in _started(settings, degrees, able, Path(folder)).items()}
    one = Degrees()
    return [
        _compared(name, degrees, made, found[name, one], found.get((EXACT, degrees)))
        for (name, degrees), made in found.items()
        if degrees.ranks in ranks or degrees == one
    ]


def variant(settings: GenerateSettings, method: str, degrees: Degrees) -> GenerateSettings:
    """The settings of one method and split; a lone process has none. A method is told what it has fields for."""
    known = _fields(method)
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


def _fields(method: str) -> set[str]:
    """What a method can be told; of two methods, their names."""
    if method == EXACT:
        return set()
    name, _ = named_method(method)
    return set(name.split(SIGN)) if SIGN in name else set(policy_class(name).model_fields)


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


def _started(settings: GenerateSettings, degrees: Degrees, methods: Sequence[str], folder: Path) -> dict[str, Made]:
    """Have ranks make a clip with every method."""
    name = "-".join(map(str, degrees))
    told = {"settings": settings.model_dump(mode="json"), "degrees": list(degrees), "methods": list(methods)}
    (folder / f"{name}.yaml").write_text(yaml.safe_dump(told), encoding="utf-8")
    device = str(resolve(variant(settings, methods[0], Degrees())).settings.device)
    command = [sys.executable, "-m", "videoaccel.cli.verify_rank", str(folder / name)]
    if code := start_ranks(command, ranks=degrees.ranks, device=device):
        ranks = counted(degrees.ranks, "rank")
        raise RanksEndedError(f"{ranks} ({degrees}) ended with exit code {code}; what was said stands above", code)
    with safe_open(str(folder / f"{name}.safetensors"), "pt") as file:
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (no mapping)
        decisions = file.metadata()
    return {
        method: Made({stage: tensors[f"{method}/{stage}"] for stage in TOLERANCES}, decisions[method])
        for method in methods
    }


def _compared(method: str, degrees: Degrees, made: Made, one: Made, exact: Made | None) -> Verdict:
    differences = {stage: _difference(stage, made.stages[stage], one.stages[stage]) for stage in TOLERANCES}
    same = made.decisions == one.decisions
    bits = None
    if method == OFF and exact is not None:
        bits = torch.equal(made.stages["latents"], exact.stages["latents"])
    return Verdict(method, degrees, differences, same, bits)


def _difference(stage: str, a: Tensor, b: Tensor) -> float:
    if a.shape != b.shape:
        return float("inf")
    largest = float((a.float() - b.float()).abs().max())
    return largest / max(1.0, float(b.abs().max())) if stage == "pass" else largest


# What every rank does ---------------------------------------------------------------------------------------------


def make_as_rank(name: str) -> None:
    """One rank's part: a clip with every method of ``NAME.yaml``; the first rank writes ``NAME.safetensors``."""
    told = yaml.safe_load(Path(f"{name}.yaml").read_text(encoding="utf-8"))
    settings, degrees = GenerateSettings(**told["settings"]), Degrees(*told["degrees"])
    orders = {method: resolve(variant(settings, method, degrees)) for method in told["methods"]}
    first = next(iter(orders.values()))
    tensors: dict[str, Tensor] = {}
    decisions: dict[str, str] = {}
    with (
        started(first) as mesh,
        torch.inference_mode(),
        cpu_threads(first.settings.threads),
    ):
        pipe = load_pipeline(first).parallelize(mesh)
        for method, order in orders.items():
            made = make(order, pipe, mesh)
            tensors |= {f"{method}/{stage}": value.cpu().contiguous() for stage, value in made.stages.items()}
            decisions[method] = made.decisions
        if mesh.first:
            save_file(tensors, f"{name}.safetensors", metadata=decisions)


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
    _require_one_latent(stages["latents"], mesh)
    return Made(stages, json.dumps([session.digest() for session in sessions]))


def _require_one_latent(latents: Tensor, mesh: Mesh) -> None:
    digest = hashlib.sha256(latents.cpu().numpy().tobytes()).hexdigest()
    found = mesh.calm.each(digest)
    if other := [rank for rank, one in enumerate(found) if one != found[0]]:
        raise RankError(f"rank {other[0]} came to other latents than rank 0")
