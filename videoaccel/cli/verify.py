"""``videoaccel verify``: proves that several ranks make the clip of one."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from videoaccel.cli.errors import BAD_INPUT, FAILURE, SaidError
from videoaccel.cli.flags import flag
from videoaccel.cli.generate import keyword, parameter, typed
from videoaccel.cli.options import together
from videoaccel.cli.outside import MORE, found_by
from videoaccel.cli.progress import calm_libraries, shown_progress
from videoaccel.cli.ranks import check_count, require_alone
from videoaccel.cli.terminal import say
from videoaccel.settings.early import check_early
from videoaccel.settings.early_methods import check_method_name
from videoaccel.settings.generate import GenerateSettings
from videoaccel.settings.layers import Layer, assignments, merge

if TYPE_CHECKING:
    from videoaccel.verification.verdict import Verdict

PANEL = "Verify"
SHARED = (
    "prompt", "model", "vae", "text_encoder", "size", "resolution", "aspect", "frames", "steps", "guidance", "seed",
    "speedup", "prior", "allow_foreign_prior", "sequence_parallel", "provider", "patience", "device", "threads", *MORE,
)  # fmt: skip
STEPS = 6
EXACT = "exact"
PROMPT = "a red circle moves left on a dark blue background"


def command() -> Callable[..., int]:
    """The command, with those options of generate that a clip depends on."""

    def verify(**options: Any) -> int:
        """Prove that several ranks make the clip of one: text, noise, a network pass, latents, frames, decisions.

        Each number of ranks is split in every way. Exit code 0 only if everything holds.
        """
        return _verify(options)

    parameters = [*(parameter(name) for name in SHARED), *_own()]
    verify.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    verify.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return verify


def _verify(options: Mapping[str, Any]) -> int:
    require_alone("verify")
    methods = [name.strip() for name in together(options["accel"], EXACT).split(",") if name.strip()]
    for name in methods:
        if name != EXACT:
            check_method_name(name)
    ranks = numbers(together(options["ranks"], "1,2"))
    settings = gather(options)
    with shown_progress(quiet=options["quiet"]) as display:
        from videoaccel.jobs.resolve import pick_device  # torch and all
        from videoaccel.parallel.comm import RankError
        from videoaccel.verification.verdict import RanksEndedError
        from videoaccel.verification.verify import verify

        calm_libraries(quiet=options["quiet"])
        check_count(max(ranks), str(pick_device(settings.device)))
        note = (lambda text: None) if options["quiet"] else display.note
        try:
            verdicts = verify(settings, ranks=ranks, methods=methods, note=note)
        except RanksEndedError as error:
            if error.args[1] == BAD_INPUT:
                raise SaidError(BAD_INPUT) from error
            raise RankError(error.args[0]) from error
    if options["json"]:
        say(json.dumps([as_data(verdict) for verdict in verdicts], indent=2))
    else:
        say(table(verdicts))
    return 0 if all(verdict.holds for verdict in verdicts) else FAILURE


def gather(options: Mapping[str, Any]) -> GenerateSettings:
    """Settings from options.

    Raises:
        ValueError: A value is wrong.
    """
    given = typed(options, SHARED)
    told = [Layer(given, flag), Layer(assignments(options["set_"] or []), lambda name: f"--set {name}")]
    check_early(merge([Layer({"steps": STEPS}), *told]), writes=False)
    if found_by(settings := merge(told), command="verify") is not None:
        return settings
    usual = {} if settings.prompt else {"prompt": _prompts(settings.model)}
    return merge([Layer({**usual, "steps": STEPS}), *told])


def _prompts(model: str) -> tuple[str, ...]:
    """What is made where nothing is said: of models that read classes the first that is known."""
    from videoaccel.generation.loading import find_model, transformer_class  # torch and all
    from videoaccel.jobs.parts import known_classes

    source = find_model(model)
    return known_classes(source)[:1] if transformer_class(source).reads_classes else (PROMPT,)


def numbers(text: str) -> list[int]:
    """Numbers of ranks.

    Raises:
        ValueError: Something in it is none.

    >>> numbers("1,2,4")
    [1, 2, 4]
    """
    try:
        found = [int(part) for part in text.split(",")]
    except ValueError:
        found = [0]
    if min(found) < 1:
        raise ValueError(f"--ranks takes whole numbers of at least 1 with commas between, such as 1,2,4; got {text!r}")
    return found


def table(verdicts: Sequence[Verdict]) -> str:
    """For people."""
    from videoaccel.verification.verdict import TOLERANCES

    names = [f"{stage} ({most:g})" for stage, most in TOLERANCES.items()]
    rounded = False
    lines = ["largest differences from one rank; in brackets what counts as equal, 0 is bit for bit"]
    lines.append("".join(f"{name:<18}" for name in ("method", "ranks", *names)) + "decisions")
    for verdict in verdicts:
        degrees = verdict.degrees
        ranks = f"{degrees.ranks} ({degrees.guidance} x {degrees.sequence})"
        bits = {None: "", True: ", bits of exact", False: ", NOT the bits of exact"}[verdict.bits]
        cells = [verdict.method, ranks, *(_number(verdict, stage) for stage in TOLERANCES)]
        decisions = f"{'equal' if verdict.decisions else 'DIFFERENT'}{bits}"
        lines.append("".join(f"{cell:<18}" for cell in cells) + decisions + ("" if verdict.holds else "  FAILS"))
        rounded |= verdict.holds and verdict.differences["frames"] > 0 == verdict.differences.get("latents")
    failed = sum(not verdict.holds for verdict in verdicts)
    if rounded:
        lines.append("frames of equal latents may differ by one grey level: ranks decode a clip in smaller pieces")
    lines.append(f"{failed} of {len(verdicts)} fail" if failed else f"all {len(verdicts)} hold")
    return "\n".join(lines)


def _number(verdict: Verdict, stage: str) -> str:
    found = verdict.differences.get(stage)
    return "not seen" if found is None else f"{found:.2g}"


def as_data(verdict: Verdict) -> dict[str, Any]:
    """For JSON."""
    return {
        "method": verdict.method,
        **verdict.degrees._asdict(),
        "differences": dict(verdict.differences),
        "equal_decisions": verdict.decisions,
        "bits_of_exact": verdict.bits,
        "holds": verdict.holds,
    }


def _own() -> list[inspect.Parameter]:
    def option(name: str, kind: Any, of: str, text: str, *, default: Any = None, metavar: str | None = None) -> Any:
        made = typer.Option(*of.split(), help=text, metavar=metavar, rich_help_panel=PANEL)
        return keyword(name, Annotated[kind, made], default=False if kind is bool else default)

    return [
        option("ranks", list[str] | None, "--ranks", "Numbers of ranks. Default: 1,2.", metavar="N,N,..."),
        option("accel", list[str] | None, "--accel", "Methods; exact is none (default).", metavar="NAME,NAME,..."),
        option("set_", list[str] | None, "--set", "Any setting, a.b=c; the value is YAML.", metavar="NAME=VALUE"),
        option("json", bool, "--json", "Machine-readable."),
        option("quiet", bool, "--quiet -q", "Print nothing but the result, warnings and errors."),
    ]
