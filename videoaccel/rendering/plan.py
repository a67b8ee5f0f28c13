"""From jobs to what workers do: identities, settings resolved once for all jobs that share them, batches.

The identity of a job is the hash of what decides its pixels: the model's files, every setting that is not about where
or when it runs, prompt, seed, and the contents of given pictures, clips and priors. Its file's format counts, too.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from videoaccel.common.home import expand
from videoaccel.common.wording import counted
from videoaccel.generation.given import given_files, lora_files
from videoaccel.jobs.resolve import WorkOrder, resolve
from videoaccel.jobs.samples import Outputs, Sample, pictures
from videoaccel.jobs.sidecar import model_files, model_hash
from videoaccel.outside.find import Found, find_outside
from videoaccel.outside.order import OutsideOrder
from videoaccel.outside.order import Sample as OutsideSample
from videoaccel.rendering.hashes import Hashes
from videoaccel.rendering.inside import LETTERS
from videoaccel.rendering.job import Job
from videoaccel.rendering.jobs_file import BadJobsError
from videoaccel.rendering.outside import identified, meaning, ordered
from videoaccel.session.chain import Chain
from videoaccel.session.policy import Policy
from videoaccel.settings.config import settled
from videoaccel.settings.early import parse_lora
from videoaccel.settings.generate import GenerateSettings

FORMAT = 1
POSTER = "poster.jpg"
"""Name of a clip's picture for the gallery."""

_NOT_PIXELS = {
    "prompt", "seed", "seeds", "samples", "keep", "batch_size", "output", "device", "offload", "text_cache", "threads",
    "model", "vae", "text_encoder", "accel", "speedup", "accel_options", "prior", "images", "video", "references",
    "gpus", "dp", "cfg_parallel", "sp", "provider", "patience", "lora",
}  # fmt: skip
"""Settings that are no part of an identity, or are in it by what they mean: hashes of files, the method's fields."""


@dataclass(frozen=True)
class Group:
    """What all jobs share whose settings differ in prompt and seed only.

    Attributes:
        key: Hash of these settings.
        order: They resolved, for a stand-in prompt; of a pipeline of diffusers an order of that kind.
        model: Name, hash and files, as sidecars have them.
        inputs: Hashes of given files.
        threads: CPU threads that were asked for; None leaves them to the machine.
    """

    key: str
    order: WorkOrder | OutsideOrder
    model: Mapping[str, Any]
    inputs: Mapping[str, str]
    threads: int | None

    @property
    def engine(self) -> str:
        """Equal for groups that run on the same loaded networks."""
        s = self.order.settings
        parts = (s.model, s.vae, s.dtype, s.device, s.scheduler, s.compile, s.vae_tiling, s.offload)
        forms = (s.kernels, s.precision, s.tf32, s.graphs)
        added = [(self.inputs[str(path)], text) for path, text in zip(lora_files(s), s.lora, strict=True)]
        outside = [s.pipeline_class, s.variant, s.group_offload] if isinstance(self.order, OutsideOrder) else []
        return json.dumps([self.model["sha256"], *parts, *forms, *outside, *added], sort_keys=True)

    @property
    def outside(self) -> OutsideOrder | None:
        """The order, if it is of a pipeline of diffusers."""
        return self.order if isinstance(self.order, OutsideOrder) else None


@dataclass(frozen=True)
class Planned:
    """A job with its identity.

    Attributes:
        id: The identity's first `LETTERS` letters.
        job: As it was asked for.
        group: What it shares with others.
        texts: Ready for the tokenizer, one a loop; empty if its clip was finished when the plan was made. They are
            worked out when they are needed all the same, since the clip may have been taken away meanwhile.
    """

    id: str
    job: Job
    group: Group
    texts: tuple[str, ...] = ()

    @property
    def folder(self) -> str:
        """Name of the folder that its clip is put in."""
        return f"{self.job.name}-{self.id}"

    def alone(self, into: Path) -> OutsideSample:
        """For a pipeline of diffusers; written into a folder."""
        outputs = Outputs(f"{into}/{self.job.file}", into / f"{self.job.name}.json", None, poster=into / POSTER)
        return OutsideSample(self.job.prompt, self.job.settings.seed, outputs)

    def sample(self, into: Path | None) -> Sample:
        """For the work order; written into a folder, or made only because others of its batch depend on it."""
        job, outputs = self.job, None
        if into is not None:
            beside = pictures(into, job.name, job.settings)
            outputs = Outputs(f"{into}/{job.file}", into / f"{job.name}.json", poster=into / POSTER, **beside)
        texts = self.texts or resolve(_stand_in(job, [job.prompt])).batches[0][0].texts
        return Sample(prompt=job.prompt, texts=texts, seed=job.settings.seed, outputs=outputs)


@dataclass(frozen=True)
class Unit:
    """What one worker makes at once: one job, or a batch of jobs with equal shapes.

    Attributes:
        id: Of its one job, or of the batch.
        jobs: In the order of their rows.
    """

    id: str
    jobs: tuple[Planned, ...]

    def work_order(self, into: Mapping[str, Path]) -> WorkOrder:
        """What is to be made.

        Args:
            into: By identity the folder that a clip is written to; those that are not named are not written.
        """
        group = self.jobs[0].group
        assert isinstance(group.order, WorkOrder)
        settings = group.order.settings.model_copy(
            update={"prompt": tuple(job.job.prompt for job in self.jobs), "batch_size": len(self.jobs)}
        )
        batch = tuple(job.sample(into.get(job.id)) for job in self.jobs)
        return replace(group.order, settings=settings, batches=(batch,))


@dataclass(frozen=True)
class Plan:
    """Everything that a job file asks for.

    Attributes:
        units: What is to be made, jobs of one engine together.
        repeated: (line, line): the first asks for the same clip as the second.
    """

    units: tuple[Unit, ...]
    repeated: tuple[tuple[int, int], ...]

    @property
    def jobs(self) -> list[Planned]:
        """All of them."""
        return [job for unit in self.units for job in unit.jobs]


def make_plan(
    jobs: Sequence[Job],
    *,
    path: Path,
    hashes: Hashes,
    batching: int = 1,
    finished: Collection[str] = (),
    known: Sequence[str] = (),
) -> Plan:
    """Give every job its identity, and check all that can be checked before a model is loaded.

    Args:
        jobs: From `videoaccel.rendering.job.make_jobs`.
        path: The job file, for messages.
        hashes: Of model files and inputs.
        batching: So many jobs with equal shapes are made at once, at most; 1 makes each alone.
        finished: Identities whose clips are there; they are not checked again.
        known: What is wrong with other lines, told together with what is wrong with these.

    Raises:
        BadJobsError: Some jobs cannot be made; says which and why.
    """
    members: dict[str, list[Job]] = {}
    for job in jobs:
        members.setdefault(_group_key(job), []).append(job)
    problems: dict[int, str] = {}
    models: dict[tuple[str | None, ...], dict[str, Any]] = {}
    found: list[tuple[Group, list[Planned]]] = []
    for some in members.values():
        try:
            group = _group(some[0], hashes=hashes, models=models, batched=batching > 1)
            found.append((group, [Planned(_identity(job, group, hashes), job, group) for job in some]))
        except (ValueError, OSError) as error:
            problems |= {job.line: " ".join(str(error).split()) for job in some}
    repeated, units = [], []
    lines: dict[str, int] = {}
    for group, planned in found:
        fresh: list[Planned] = []
        for one in planned:
            if one.id in lines:
                repeated.append((one.job.line, lines[one.id]))
            else:
                lines[one.id] = one.job.line
                fresh.append(one)
        some_units = _units(fresh, group, batching if group.outside is None else 1)
        wanted = [one for unit in some_units if any(one.id not in finished for one in unit.jobs) for one in unit.jobs]
        texts = _checked(wanted, problems)
        units += [_with_texts(unit, texts) for unit in some_units] if texts else some_units
    if problems or known:
        found_now = [f"line {line}: {problems[line]}" for line in problems]
        raise BadJobsError(path, sorted([*known, *found_now], key=_number))
    units.sort(key=lambda unit: unit.jobs[0].group.engine)  # stable: one engine after the other, lines in order
    return Plan(tuple(units), tuple(sorted(repeated)))


def _number(problem: str) -> int:
    return int(problem.split(":")[0].removeprefix("line "))


def _group_key(job: Job) -> str:
    # Only what was set: of 10,000 jobs this is read anew at every start.
    told = job.settings.model_dump(mode="json", exclude={"prompt", "seed"}, exclude_defaults=True)
    return json.dumps([told, job.format], sort_keys=True)


def _stand_in(job: Job, prompts: Sequence[str]) -> GenerateSettings:
    ending = "/" if job.format == "frames" else f".{job.format}"
    update = {"prompt": tuple(prompts), "seed": 0, "output": f"clip{ending}"}
    return job.settings.model_copy(update=update)


def _group(job: Job, *, hashes: Hashes, models: dict[tuple[str | None, ...], dict[str, Any]], batched: bool) -> Group:
    if (found := find_outside(job.settings)) is not None:
        return _outside_group(job, found, hashes)
    order = resolve(_stand_in(job, ["a clip"]))
    s = order.settings
    model = (s.model, s.vae, s.text_encoder)
    if model not in models:
        files = model_files(order.source, hashed=hashes)
        models[model] = {"name": order.source.name, "sha256": model_hash(files), "files": files}
    loras = list(zip(lora_files(s), s.lora, strict=True))
    inputs = {str(path): hashes(path) for path in [*given_files(s), *lora_files(s)]}
    threads = s.threads if batched else job.settings.threads
    absent = None in models[model]["files"].values()
    decides = {
        "format": FORMAT,
        "file": job.format,
        "model": models[model]["sha256"],
        "parts": model if absent else [],  # what is not on this machine has no hash
        "settings": settled(s, exclude=_NOT_PIXELS),
        "policy": order.policy and _policy(order.policy),
        "prior": s.prior and hashes(expand(s.prior)),
        "images": [inputs[path] for path in s.images],
        "video": s.video and inputs[s.video],
        "references": [inputs[path] for path in s.references],
        **({"lora": [[hashes(path), parse_lora(text)[1]] for path, text in loras]} if loras else {}),
        "threads": threads,
        "ranks": list(order.degrees[1:]) if order.degrees.clip > 1 else None,  # they change a clip's last bits
    }
    key = hashlib.sha256(json.dumps(decides, sort_keys=True).encode()).hexdigest()
    return Group(key, order, models[model], inputs, threads)


def _outside_group(job: Job, found: Found, hashes: Hashes) -> Group:
    order = ordered(_stand_in(job, [job.prompt]), found)
    model, inputs = identified(order, hashes=hashes)
    decides = {
        "format": FORMAT,
        "file": job.format,
        "model": model["sha256"],
        "policy": order.policy and _policy(order.policy),
        "threads": job.settings.threads,
        **meaning(order, inputs),
    }
    key = hashlib.sha256(json.dumps(decides, sort_keys=True).encode()).hexdigest()
    return Group(key, order, model, inputs, job.settings.threads)


def _policy(policy: Policy) -> list[Any]:
    """A method and its fields; the names are those of the modules that first held them, wherever these stand now."""
    if isinstance(policy, Chain):
        return ["videoaccel.chain", {part.name: settled(part) for part in policy.parts}]
    return [f"videoaccel.policies.{policy.name}", settled(policy)]


def _identity(job: Job, group: Group, hashes: Hashes) -> str:
    own: list[str] = []
    if "{" in job.prompt and group.outside is None:  # it may bring references of its own
        own = [hashes(path) for path in given_files(_stand_in(job, [job.prompt]))]
    text = json.dumps([group.key, job.prompt, job.settings.seed, own])
    return hashlib.sha256(text.encode()).hexdigest()[:LETTERS]


def _units(planned: Sequence[Planned], group: Group, batching: int) -> list[Unit]:
    """Batches are cut in the order of lines, so that every worker and every run cuts them alike."""
    if batching == 1:
        return [Unit(one.id, (one,)) for one in planned]
    units = []
    for start in range(0, len(planned), batching):
        batch = planned[start : start + batching]
        mark = f" in a batch of {len(batch)} by {group.threads} threads"
        renamed = tuple(
            replace(one, id=hashlib.sha256((one.id + mark).encode()).hexdigest()[:LETTERS]) for one in batch
        )
        whole = hashlib.sha256("".join(one.id for one in renamed).encode()).hexdigest()[:LETTERS]
        units.append(Unit(whole, renamed))
    return units


def _with_texts(unit: Unit, texts: Mapping[str, tuple[str, ...]]) -> Unit:
    return Unit(unit.id, tuple(replace(job, texts=texts.get(job.job.prompt, ())) for job in unit.jobs))


def _checked(wanted: Sequence[Planned], problems: dict[int, str]) -> dict[str, tuple[str, ...]]:
    """Texts of prompts that can be made; of the others the reason is added to ``problems``, by line."""
    lines: dict[str, list[Planned]] = {}
    for one in wanted:
        lines.setdefault(one.job.prompt, []).append(one)

    def blame(prompt: str, error: Exception) -> None:
        for one in lines[prompt]:
            problems[one.job.line] = " ".join(str(error).split())

    return _resolved(list(lines), wanted[0].job, blame) if wanted else {}


def _resolved(prompts: Sequence[str], job: Job, blame: Callable[[str, Exception], None]) -> dict[str, tuple[str, ...]]:
    """All at once if they are well; else by halves, until the bad ones stand alone."""
    try:
        if (found := find_outside(job.settings)) is not None:
            ordered(_stand_in(job, prompts), found)
            return dict.fromkeys(prompts, ())
        order = resolve(_stand_in(job, prompts))
    except (ValueError, OSError) as error:
        if len(prompts) == 1:
            blame(prompts[0], error)
            return {}
        middle = len(prompts) // 2
        return {**_resolved(prompts[:middle], job, blame), **_resolved(prompts[middle:], job, blame)}
    return {sample.prompt: sample.texts for batch in order.batches for sample in batch}


def summary(plan: Plan) -> str:
    """How many clips and settings a plan holds, in words."""
    groups = len({job.group.key for job in plan.jobs})
    return f"{counted(len(plan.jobs), 'clip')} of {counted(groups, 'setting')}"
