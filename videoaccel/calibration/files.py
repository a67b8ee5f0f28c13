"""Where priors go while they are made and when they are, and how those of several machines add up."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from videoaccel.calibration import replay
from videoaccel.common.files import check_file, make_shelf
from videoaccel.common.home import expand
from videoaccel.jobs.resolve import WorkOrder
from videoaccel.planning.prior import Prior, merge
from videoaccel.planning.shelf import PART, shelf
from videoaccel.settings.calibrate import CalibrateSettings


def output_path(
    settings: CalibrateSettings, order: WorkOrder, setting: Mapping[str, Any], methods: Sequence[str]
) -> Path:
    """Where the prior goes: as told, or to the user's shelf under a name that says what it is for."""
    if settings.output is not None:
        return expand(settings.output)
    folder = own_shelf()
    s = order.settings
    parts = [
        Path(s.model).name,
        f"{order.height}x{order.width}",
        f"{s.frames}f",
        f"{s.steps}steps",
        f"g{s.guidance:g}",
        str(s.dtype),
        str(setting["model"])[:8],
    ]
    if settings.methods:
        parts.append("+".join(methods))
    return folder / f"{'-'.join(parts)}.safetensors"


def own_shelf() -> Path:
    """The user's folder for priors, which is made.

    Raises:
        ValueError: There is no home folder.
        OSError: It cannot be written.
    """
    return make_shelf(shelf()[0], what="prior")


def check_output(out: Path, setting: Mapping[str, Any], methods: Sequence[str]) -> None:
    """Make sure that a prior can be written, and that what is there was begun for the same, as far as is known yet.

    Args:
        out: Where it goes.
        setting: What of its setting is known without the model.
        methods: That are measured.

    Raises:
        FileExistsError: It was begun for something else.
        ValueError: Something else is there.
        OSError: It cannot be written.
    """
    for path in (out, part_path(out)):
        check_file(path)
    if (begun := next((path for path in (part_path(out), out) if path.exists()), None)) is not None:
        require_same(Prior.load(begun), setting, methods, begun)


def require_same(prior: Prior, setting: Mapping[str, Any], methods: Sequence[str], path: Path) -> None:
    """Make sure that what an earlier run left can be gone on with.

    Args:
        prior: What it left.
        setting: What is measured now, or as much of it as is known.
        methods: Likewise.
        path: Where it is.

    Raises:
        FileExistsError: It is of another setting, or of other methods.
    """
    wrong = prior.differences({**prior.setting, **setting})
    if prior.info.get("methods") != (now := ", ".join(methods)):
        wrong.append(f"methods {prior.info.get('methods')}, here {now}")
    if wrong:
        raise FileExistsError(
            f"{path} was begun for {', '.join(wrong)}; choose another `output`, or remove it to start anew"
        )


def part_path(out: Path) -> Path:
    """Where a prior is while it is being made."""
    return out.with_name(out.name.removesuffix(".safetensors") + PART)


def merge_files(paths: Sequence[str | Path], out: str | Path) -> Prior:
    """Add up what several runs or machines measured.

    Raises:
        ValueError: They were made for different settings, or two contain the same sample.
        FileNotFoundError: One is not there.
    """
    if len(paths) < 2:
        raise ValueError(f"there must be two priors or more to merge, got {len(paths)}")
    check_file(out)
    priors = [Prior.load(path) for path in paths]
    seen: dict[str, int] = {}
    for number, prior in enumerate(priors):
        for seed, prompt in prior.info.get("samples", []):
            for table in prior.tables:
                if (other := seen.setdefault(f"{table} {seed} {prompt}", number)) != number:
                    raise ValueError(
                        f"{paths[other]} and {paths[number]} both hold the sample with seed {seed} ({prompt!r}), which "
                        f"would count twice; `first` gives each machine samples of its own"
                    )
    merged = with_correlation(merge(priors))
    merged.save(out)
    return merged


def with_correlation(prior: Prior) -> Prior:
    """Say how well the product of both influences foretells replays."""
    found = replay.correlation(prior.info.get("influence_check", []))
    told = {} if found is None else {"influence_correlation": round(found, 4)}
    return replace(prior, info={**prior.info, **told})
