"""Evaluate a folder of clips: fidelity to references, VBench's dimensions, the demo world's oracle.

Clips are shared out over the ranks of ``torchrun``; scores are the same for any number of them. What cannot be measured
is named with its reason, and a score in which it is missing is withheld.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch.distributed as dist

from videoaccel.common.devices import check_device
from videoaccel.common.extras import need
from videoaccel.common.files import atomic_write_text
from videoaccel.common.launcher import rank_started, ranks_started
from videoaccel.common.plain_json import to_json
from videoaccel.common.stages import Listener
from videoaccel.eval.backbones import Backbones, MissingBackbone, instruction
from videoaccel.eval.metric import ClipMetric
from videoaccel.eval.metric_names import metric_class
from videoaccel.eval.vbench import QUALITY, SEMANTIC
from videoaccel.evaluation.clips import ClipFile, PromptBook, Reading, find_clips, read_prompts_file
from videoaccel.evaluation.official_vbench import OfficialRun, check_official, run_official
from videoaccel.evaluation.page import report_page
from videoaccel.evaluation.places import OFFICIAL, REPORT, RESULTS, TABLE, check_place
from videoaccel.evaluation.references import lacking_references
from videoaccel.evaluation.rows import Row, RowFile, measure
from videoaccel.evaluation.suite import choose_metrics
from videoaccel.evaluation.table import (
    COUNTED_AS,
    MetricResult,
    not_applicable_lines,
    official_results,
    row_record,
    summarise,
    to_csv,
    vbench_totals,
)
from videoaccel.jobs.sidecar import versions
from videoaccel.parallel.meeting import meet

FORMAT = "videoaccel-evaluation-1"


@dataclass(frozen=True)
class Evaluation:
    """What came of it.

    Attributes:
        results: One a metric that ran.
        not_run: By metric, why it did not run: files to fetch and where they belong.
        totals: VBench's quality, semantic and total; None if none of its dimensions was asked for.
        rows: By metric, one a clip.
        failures: By clip, why it could not be measured.
        files: What was written; empty on ranks other than 0.
        not_applicable: For how many clips a metric is not defined, and why.
        resumed: Measurements that were there already.
    """

    results: Sequence[MetricResult]
    not_run: Mapping[str, Sequence[str]]
    totals: Mapping[str, Any] | None
    rows: Mapping[str, Sequence[Row]]
    failures: Mapping[str, Mapping[str, str]]
    files: Sequence[Path] = ()
    official_scores: Mapping[str, float] = field(default_factory=dict)
    not_applicable: Sequence[str] = ()
    resumed: int = 0

    @property
    def complete(self) -> bool:
        """Whether every metric that was asked for ran."""
        return not self.not_run


def evaluate(
    folder: str | Path,
    *,
    out: str | Path,
    reference: str | Path | None = None,
    suite: Sequence[str] = ("all",),
    prompts: str | Path | None = None,
    backbones: str | Path | None = None,
    reader: str = "pyav",
    ground: str = "white",
    device: str = "cpu",
    official: str | None = None,
    command: str = "",
    listener: Listener | None = None,
    note: Callable[[str], None] = lambda text: None,
) -> Evaluation:
    """Measure all clips of a folder, and write ``results.json``, ``report.html`` and more.

    Under ``torchrun`` every rank calls this with the same arguments. A folder ``out`` that holds rows is gone on with.

    Args:
        folder: Clips, or folders of frames.
        out: Where results go; made if it is not there.
        reference: Clips of the same names, for fidelity.
        suite: Suites (``vbench``, ``fidelity``, ``demo``, ``all``) or metrics.
        prompts: See `videoaccel.evaluation.clips.read_prompts_file`.
        backbones: Folder of networks; ``VBENCH_CACHE_DIR``, else ``~/.cache/vbench``, unless given.
        reader: ``pyav`` or ``decord``.
        ground: What shows where a clip is transparent: the name of a colour, or #rrggbb.
        device: Where networks run.
        official: A Python that has the ``vbench`` package, for dimensions whose networks are not here.
        command: What was typed, for the record.
        listener: Told ("evaluate", clips done, clips of this rank).
        note: Told in a sentence, before anything is measured, which clips have no reference or one of another size.

    Raises:
        ValueError: An argument is wrong, or there is no clip.
        OSError: A folder is not there, or cannot be written.
    """
    need("evaluating", "torchmetrics", "eval")
    reading = Reading(reader, ground)
    folder, out = Path(folder), Path(out)
    names = choose_metrics(suite, reference=reference is not None)
    check_device(device)
    check_place(out)
    bridged = [name for name in names if metric_class(name).official]
    if official is not None and bridged:
        check_official(official)
    book = read_prompts_file(Path(prompts)) if prompts else PromptBook()
    clips = find_clips(folder, reference=Path(reference) if reference else None, prompts=book)
    if reference is not None:
        for text in lacking_references(clips, Path(reference), reading):
            note(text)
    out.mkdir(parents=True, exist_ok=True)
    rank, ranks = _ranks()
    networks = Backbones(Path(backbones) if backbones else None)
    metrics, not_run = _made(names, networks, device, bridged=official is not None)
    log = RowFile(out, rank)
    before = set(log.known)
    rows = _measured(clips, metrics, networks, log, reading, listener, rank, ranks)
    resumed = sum(row.key in before for found in rows.values() for row in found)
    run = _bridge(official, names, folder, clips, book, prompts, networks, rank) if official else None
    if run is not None:
        rows |= {name: list(found) for name, found in run.rows.items()}
        not_run |= {name: [reason] for name, reason in run.errors.items()}
    found = replace(_evaluation(names, rows, not_run, clips, book, run), resumed=resumed)
    if rank:
        return found
    files = _write(found, out, clips, _about(folder, reference, reading, names, command, ranks), reading)
    return replace(found, files=files)


def _made(
    names: Sequence[str], networks: Backbones, device: str, *, bridged: bool
) -> tuple[dict[str, ClipMetric], dict[str, list[str]]]:
    """Metrics that can run, and what those that cannot lack."""
    metrics: dict[str, ClipMetric] = {}
    lacking: dict[str, list[str]] = {}
    for name in names:
        kind = metric_class(name)
        if kind.official:
            if not bridged:
                files = [f"{networks.root / backbone.file}" for backbone in kind.requires]
                lacking[name] = [f"runs in the official package: --official PYTHON; its network is {', '.join(files)}"]
            continue
        try:
            metrics[name] = kind(backbones=networks).to(device)
        except MissingBackbone as error:
            lacking[name] = [instruction(backbone, place) for backbone, place in error.missing]
    return metrics, lacking


def _measured(
    clips: Sequence[ClipFile],
    metrics: Mapping[str, ClipMetric],
    networks: Backbones,
    log: RowFile,
    reading: Reading,
    listener: Listener | None,
    rank: int,
    ranks: int,
) -> dict[str, list[Row]]:
    """All ranks' rows by metric, in the order of the clips."""
    tell = listener or (lambda stage, done, total: None)
    mine = clips[rank::ranks]
    tell("evaluate", 0, len(mine))
    found: list[Row] = []
    for done, clip in enumerate(mine, start=1):
        found += measure(clip, metrics, reading=reading, backbones=networks, rows=log)
        tell("evaluate", done, len(mine))
    parts: list[list[Row]] = [found]
    if ranks > 1:
        parts = [[] for _ in range(ranks)]
        dist.all_gather_object(parts, found)
    by_key = {(row.clip, row.metric): row for part in parts for row in part}
    return {name: [by_key[clip.name, name] for clip in clips] for name in metrics}


def _bridge(
    python: str,
    names: Sequence[str],
    folder: Path,
    clips: Sequence[ClipFile],
    book: PromptBook,
    prompts: str | Path | None,
    networks: Backbones,
    rank: int,
) -> OfficialRun | None:
    """The official package's results; rank 0 runs it and tells the others."""
    wanted = [name for name in names if metric_class(name).official]
    found: list[OfficialRun | str | None] = [None]
    if not wanted:
        return None
    if rank == 0:
        try:
            info = Path(str(prompts)) if book.official else None
            found = [run_official(python, wanted, folder, clips, full_info=info, cache=networks.root)]
        except ValueError as error:  # all ranks must hear of it, or the others would wait
            found = [str(error)]
    if dist.is_initialized():
        dist.broadcast_object_list(found, src=0)
    if isinstance(found[0], str):
        raise ValueError(found[0])
    return found[0]


def _evaluation(
    names: Sequence[str],
    rows: Mapping[str, Sequence[Row]],
    not_run: Mapping[str, Sequence[str]],
    clips: Sequence[ClipFile],
    book: PromptBook,
    run: OfficialRun | None,
) -> Evaluation:
    ordered = {name: rows[name] for name in names if name in rows}
    results = [summarise(name, found) for name, found in ordered.items()]
    missing = book.without_clips(clips) if book.official else []
    withheld = f"{len(missing)} prompts have no clip, the first {missing[0]!r}" if missing else None
    complete = set(QUALITY) | set(SEMANTIC) <= set(names)
    if not complete:
        withheld = withheld or "not all 16 dimensions were asked for"
    failures: dict[str, dict[str, str]] = {}
    for name, found in ordered.items():
        for row in found:
            if row.error is not None:
                failures.setdefault(row.clip, {})[name] = row.error
    total = vbench_totals(results, withheld=withheld)
    return Evaluation(
        results,
        not_run,
        total,
        ordered,
        failures,
        official_scores=run.scores if run else {},
        not_applicable=not_applicable_lines(ordered),
    )


def _write(
    found: Evaluation, out: Path, clips: Sequence[ClipFile], about: Mapping[str, Any], reading: Reading
) -> list[Path]:
    record = {
        **about,
        "scores": [asdict(result) for result in found.results],
        "vbench": found.totals,
        "not_run": found.not_run,
        "failures": found.failures,
        "not_applicable": found.not_applicable,
        "measured_before": found.resumed,
        "official_scores": found.official_scores,
        "note": COUNTED_AS,
        "clips": [{"name": clip.name, "prompt": clip.prompt} for clip in clips],
        "rows": {name: [row_record(row) for row in rows] for name, rows in found.rows.items()},
    }
    files = [out / RESULTS, out / TABLE, out / REPORT]
    atomic_write_text(files[0], f"{to_json(record, indent=1)}\n")
    atomic_write_text(files[1], to_csv(found.results))
    atomic_write_text(files[2], report_page(found.results, found.rows, clips, record, reading=reading))
    if official := official_results(found.rows, {clip.name: clip.path for clip in clips}):
        files.append(out / OFFICIAL)
        atomic_write_text(files[-1], f"{to_json(official, indent=1)}\n")
    return files


def _about(
    folder: Path, reference: str | Path | None, reading: Reading, names: Sequence[str], command: str, ranks: int
) -> dict[str, Any]:
    return {
        "format": FORMAT, "created": time.strftime("%Y-%m-%d %H:%M:%S"), "command": command, "folder": str(folder),
        "reference": None if reference is None else str(reference), **reading.facts(), "metrics": list(names),
        "ranks": ranks, "versions": versions(),
    }  # fmt: skip


def _ranks() -> tuple[int, int]:
    """This rank and how many there are; joins the others that ``torchrun`` has started."""
    if not dist.is_initialized() and ranks_started() > 1:
        dist.init_process_group("gloo", store=meet(), rank=rank_started(), world_size=ranks_started())
    return (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
