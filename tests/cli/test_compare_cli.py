"""``videoaccel compare`` as a user meets it."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.cli.commands import Cli, Result, here
from tests.generation.stand_in_graphs import stand_in
from videoaccel.cli.errors import interrupt, terminate
from videoaccel.comparison import compare as comparing
from videoaccel.generation import cache_memory
from videoaccel.generation.pipeline import VideoPipeline
from videoaccel.jobs.resolve import WorkOrder

SMALL = ("--frames", 1, "--steps", 6, "--repeats", 1, "--clips", 1, "--no-controls", "--no-picture")
Compare = Callable[..., Result]


@pytest.fixture
def compare(cli: Cli, pipeline_folder: Path) -> Compare:
    """Runs ``videoaccel compare`` with the tiny model and one prompt."""
    Path("prompts.txt").write_text("# shapes\na red circle\n")

    def call(*arguments: object, prompts: str = "prompts.txt", out: str = "run", accel: str = "fora") -> Result:
        given = ("--model", pipeline_folder, "--prompts", prompts, "--out", out, "--accel", accel)
        return cli("compare", *given, *SMALL, *arguments)

    return call


def test_tables_files_and_progress(compare: Compare) -> None:
    done = compare("--setting", "fora.period=2,3", "--speedup", "1.2,90", accel="exact, off,fora")
    assert done.code == 0, done.err
    assert set(here()) - {".cache"} == {"prompts.txt", "run"}  # matplotlib may keep its fonts there
    assert sorted(path.name for path in Path("run").iterdir()) == [
        "results.csv", "results.json", "rows.jsonl", "worst",
    ]  # fmt: skip
    for text in ("speed and quality against exact", "period=3", "inf", "90x", "not reached", "wrote run/results.json"):
        assert text in done.out
    assert "measure quality" in done.err and "measure time" in done.err
    record = json.loads(Path("run/results.json").read_text())
    assert [row["method"] for row in record["rows"]] == ["exact", "off", "fora", "fora"]
    assert record["command"].startswith("videoaccel") and record["versions"]["torch"]
    again = compare("--setting", "fora.period=2,3", "--speedup", "1.2,90", "--quiet", accel="exact,off,fora")
    assert again.code == 0 and again.err == ""
    assert json.loads(Path("run/results.json").read_text())["rows"] == record["rows"]
    kept = compare("--setting", "fora.period=2,3", "--quiet", "--keep-clips", accel="exact,off,fora")
    assert kept.code == 0 and "wrote run/clips" in kept.out
    folders = sorted(path.parent.name for path in Path("run/clips").glob("*/a red circle-0.*"))
    assert folders == ["exact", "fora-period-2", "fora-period-3", "off"]


def test_the_picture_and_the_controls(cli: Cli, compare: Compare, pipeline_folder: Path) -> None:
    pytest.importorskip("matplotlib")
    done = compare("--picture", "--controls", "--steps", 12, "--repeats", 0, accel="exact")
    assert done.code == 0, done.err
    assert Path("run/speed-quality.png").read_bytes().startswith(b"\x89PNG")
    methods = [row["method"] for row in json.loads(Path("run/results.json").read_text())["rows"]]
    assert set(methods) == {"exact", "fewer_steps", "fixed_linear"}


def test_what_is_no_result_makes_the_command_fail(compare: Compare) -> None:
    done = compare("--setting", "fora.period=1")
    assert done.code == 1, "no method has a result"
    assert "no result: fora period=1: never fired" in done.out
    assert done.err.endswith("videoaccel: 1 setting without a result, see the errors in run/results.json\n")
    assert compare("--setting", "fora.period=1,2").code == 3, "one has"


def test_an_interrupted_comparison_says_how_to_go_on(compare: Compare, monkeypatch: pytest.MonkeyPatch) -> None:
    for told, code in ((interrupt, 130), (terminate, 143)):

        def stopping(*args: object, told: Callable[[int, None], None] = told, **kwargs: object) -> None:
            told(0, None)

        with monkeypatch.context() as patch:
            patch.setattr(comparing, "measure_time", stopping)
            stopped = compare("--setting", "fora.period=2")
        assert stopped.code == code and "the same command goes on from there" in stopped.err
    before = Path("run/rows.jsonl").read_text()
    assert compare("--setting", "fora.period=2").code == 0
    assert Path("run/rows.jsonl").read_text().startswith(before)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--accel", "forra"], "unknown method 'forra'; did you mean 'fora'?"),
        (["--setting", "fora.perod=2"], "fora has no field 'perod'; it has period, warmup"),
        (["--setting", "fora"], "a setting is method.field=value"),
        (["--seeds", "0,x"], "--seeds takes whole numbers with commas between, got '0,x'"),
        (["--seeds", ","], "there is no seed"),
        (["--seeds", "-1"], "a seed must be between 0 and"),
        (["--speedup", "fast"], "--speedup takes numbers"),
        (["--speedup", "0.5"], "a speed-up must be a number of at least 1, got 0.5"),
        (["--clips", "0"], "at least 1 clip"),
        (["--prompts", "nowhere.txt"], "--prompts nowhere.txt does not exist"),
        (["--prompts", "empty.txt"], "empty.txt holds no prompt"),
        (["--prior", "nowhere.safetensors"], "there is no prior nowhere.safetensors"),
        (["--model", "nothing"], "no model or folder is called 'nothing'"),
        (["--steps", "0"], "--steps"),
        (["--graphs", "on"], "--graphs on cannot run here: they need a CUDA device"),
        (["--out", "no/where"], "does not exist; make it first"),
        (["--out", "empty.txt"], "not a folder"),
        (["--out", "mine"], "holds 'results.json' but no rows.jsonl"),
        (["--out", "/proc/run"], "no files can be made in /proc"),
    ],
)
def test_bad_input_is_one_sentence(
    compare: Compare, arguments: list[str], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(comparing, "load_pipeline", lambda order: pytest.fail("a model was loaded"))
    Path("empty.txt").write_text("# nothing\n")
    Path("mine").mkdir()
    Path("mine/results.json").touch()
    done = compare(*arguments, "--quiet")
    assert done.code == 2, done
    assert done.err.startswith("videoaccel: ") and message in done.err and done.err.count("\n") == 1
    assert not Path("run").exists() and done.out == ""


def test_graphs_can_be_had_and_left_out(cli: Cli, compare: Compare, monkeypatch: pytest.MonkeyPatch) -> None:
    """As `generate` would; what was replayed is a column where anything could be."""
    asked: list[str] = []
    load = comparing.load_pipeline

    def loaded(order: WorkOrder) -> VideoPipeline:
        asked.append(order.settings.graphs)
        pipe = load(order)
        pipe.graphs = stand_in() if order.settings.graphs == "auto" else None
        return pipe

    monkeypatch.setattr(comparing, "load_pipeline", loaded)
    off = compare("--setting", "fora.period=2", "--graphs", "off", out="off")
    auto = compare("--setting", "fora.period=2", out="auto")
    assert (off.code, auto.code, asked) == (0, 0, ["off", "auto"])
    assert "as graphs" not in off.out and "as graphs" in auto.out and "100 %" in auto.out
    rows = [json.loads(Path(out, "results.json").read_text())["rows"] for out in ("off", "auto")]
    assert [[row["replayed"] for row in some] for some in rows] == [[None, None], [1.0, 0.0]]
    assert cli("report", "auto", "--out", "page").code == 0
    assert "<th>as graphs</th>" in Path("page/report.html").read_text(encoding="utf-8")


def test_a_form_that_memory_has_chosen_is_said(cli: Cli, compare: Compare, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache_memory, "free_on_gpu", lambda device: 40_000)
    done = compare("--setting", "fora.period=2,3", "--repeats", 0)
    assert done.code == 0
    said = "in a coarser form, for memory: fora period=2, period=3: slots trunk"
    assert said in done.out.splitlines()
    assert cli("report", "run", "--out", "page").code == 0
    assert "in a coarser form, for memory: slots trunk" in Path("page/report.html").read_text(encoding="utf-8")
