"""What people write into job files: four formats, sweeps, and everything that can be wrong."""

import json
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.rendering.studio import Studio
from videoaccel.common.names import LONGEST, safe_name
from videoaccel.rendering.job import Job, make_jobs
from videoaccel.rendering.jobs_file import BadJobsError, read_jobs
from videoaccel.rendering.sweeps import expand
from videoaccel.settings.layers import Layer


def jobs_of(folder: Path, text: str, name: str = "jobs.jsonl", **layers: Any) -> list[Job]:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    jobs, problems = make_jobs(read_jobs(path), **layers)
    if problems:
        raise BadJobsError(path, sorted(problems, key=lambda problem: int(problem.split(":")[0][5:])))
    return jobs


def problems_of(folder: Path, text: str, name: str = "jobs.jsonl") -> list[str]:
    with pytest.raises(BadJobsError) as caught:
        jobs_of(folder, text, name)
    return list(caught.value.problems)


def told(jobs: list[Job]) -> list[tuple[int, str, int, str]]:
    return [(job.line, job.prompt, job.settings.seed, job.file) for job in jobs]


def test_one_job_file_in_four_formats(tmp_path: Path) -> None:
    wanted = [(0, "a red circle", 3, "one.gif"), (0, "a blue, big star", 0, "a-blue-big-star.mp4")]
    jsonl = '{"prompt": "a red circle", "seed": 3, "name": "one", "format": "gif"}\n\n{"prompt": "a blue, big star"}\n'
    csv = 'prompt,seed,name,format\na red circle,3,one,gif\n\n"a blue, big star",,,\n'
    yaml = "- {prompt: a red circle, seed: 3, name: one, format: gif}\n- a blue, big star\n"
    for name, text, lines in (("j.jsonl", jsonl, [1, 3]), ("j.csv", csv, [2, 4]), ("j.yaml", yaml, [1, 2])):
        made = jobs_of(tmp_path, "\ufeff" + text, name)
        assert told(made) == [(line, *rest) for line, (_, *rest) in zip(lines, wanted, strict=True)], name
    text = "# prompts\na red circle\n\n  a blue, big star  \n"
    assert [job.prompt for job in jobs_of(tmp_path, text, "j.txt")] == ["a red circle", "a blue, big star"]


def test_defaults_and_overrides(tmp_path: Path) -> None:
    yaml = "defaults: {steps: 5, size: 64x64}\njobs:\n- {prompt: a, steps: 7}\n- {prompt: b, resolution: 240p}\n"
    made = jobs_of(tmp_path, yaml, "j.yml", defaults=[Layer({"steps": 3, "frames": 17})])
    assert [(job.settings.steps, job.settings.frames, job.settings.size) for job in made] == [
        (7, 17, "64x64"), (5, 17, None),
    ]  # fmt: skip
    made = jobs_of(tmp_path, yaml, "j.yml", overrides=[Layer({"steps": 2})])
    assert [job.settings.steps for job in made] == [2, 2]
    assert [job.line for job in made] == [3, 4]


def test_sweeps(tmp_path: Path) -> None:
    line = {"prompt": ["a", "b"], "seed": {"from": 0, "to": 4, "step": 2}}
    made = jobs_of(tmp_path, json.dumps(line))
    assert [(job.prompt, job.settings.seed) for job in made] == [(p, s) for p in "ab" for s in (0, 2, 4)]
    accel = ["exact", {"method": "fora", "period": 2}, "soda"]
    made = jobs_of(tmp_path, json.dumps({"prompt": "a", "accel": accel}))
    found = [(job.settings.accel, job.settings.accel_options) for job in made]
    assert found == [(None, {}), ("fora", {"period": 2}), ("soda", {})]
    made = jobs_of(tmp_path, '{"prompt": "a", "accel": "fora", "accel_options": {"period": {"from": 2, "to": 4}}}')
    assert [job.settings.accel_options["period"] for job in made] == [2, 3, 4]
    assert [job.settings.seed for job in jobs_of(tmp_path, '{"prompt": "a", "samples": 3, "seed": 5}')] == [5, 6, 7]
    made = jobs_of(tmp_path, '{"prompt": "a", "samples": 2, "seeds": [9, 4]}')
    assert [job.settings.seed for job in made] == [9, 4]


def test_a_line_that_sets_a_field_ends_the_sweep_of_the_defaults(tmp_path: Path) -> None:
    text = '{"prompt": "a"}\n{"prompt": "b", "seed": 7}\n'
    made = jobs_of(tmp_path, text, defaults=[Layer({"seed": {"from": 0, "to": 1}})])
    assert [(job.prompt, job.settings.seed) for job in made] == [("a", 0), ("a", 1), ("b", 7)]


def test_a_line_is_checked_by_what_it_says_itself(tmp_path: Path) -> None:
    """Lines that differ in prompt and seed only are checked once; others are not taken for them."""
    defaults = [Layer({"size": "64x64"})]
    fine = ['{"prompt": "a", "resolution": "240p"}', '{"prompt": "b", "resolution": "240p", "seed": 4}']
    made = jobs_of(tmp_path, "\n".join(fine), defaults=defaults)
    assert [(job.prompt, job.settings.seed, job.settings.size) for job in made] == [("a", 0, None), ("b", 4, None)]
    bad = [
        '{"prompt": "c", "resolution": "240p", "size": "64x64"}',
        '{"prompt": "d", "resolution": "240p", "seed": true}',
    ]
    found = problems_of(tmp_path, "\n".join(fine + bad))
    assert [one.split(":")[0] for one in found] == ["line 3", "line 4"]


def test_every_bad_line_is_told_with_its_number(tmp_path: Path) -> None:
    lines = [
        '{"prompt": "fine"}',
        '{"prompt": "a", "steps": 0}',
        '{"prompt": "a", "stepps": 3}',
        "{not json",
        "[1, 2]",
        '{"prompt": "a", "seed": {"from": 3, "to": 1}}',
        '{"seed": 3}',
        '{"prompt": "a", "steps": 3, "steps": 4}',
        '{"prompt": "a", "guidance": NaN}',
        '{"prompt": "a", "format": "avi"}',
        '{"prompt": "a", "batch_size": 4}',
        '{"prompt": "   "}',
        '{"prompt": "a", "frames": true}',
        '{"prompt": "a", "accel": {"period": 2}}',
        '{"prompt": "a", "seed": {"from": 0, "to": 999999999}}',
        '{"prompt": "a", "format": "gif", "output": "x.mp4"}',
        '{"prompt": "a", "steps": []}',
        json.dumps({"prompt": "a" * (1 << 20)}),
        "[" * 100_000,
    ]  # fmt: skip
    found = problems_of(tmp_path, "\n".join(lines))
    wanted = [
        "line 2: steps: 0: input should be greater than or equal to 1",
        "line 3: stepps: unknown option 'stepps'; did you mean steps",
        "line 4: not valid JSON",
        "line 5: a job is names with values, got [1, 2]",
        "line 6: seed: a sweep goes upwards",
        "line 7: prompt is missing",
        "line 8: steps is given twice",
        "line 9: NaN is no number",
        "line 10: format must be one of mp4, gif, png, frames, wav, got 'avi'",
        "line 11: batch_size: has no place in a job",
        "line 12: prompt is empty",
        "line 13: frames: ",
        "line 14: accel: must say its method",
        "line 15: seed: a sweep of 1,000,000,000 values",
        "line 16: format 'gif' and output 'x.mp4' say different things",
        "line 17: steps: a sweep needs a list with at least one value",
        "line 18: prompt has 1,048,576 characters",
        "line 19: ",
    ]
    assert len(found) == len(wanted)
    for one, start in zip(found, wanted, strict=True):
        assert one.startswith(start), (one, start)


def test_files_that_are_none(tmp_path: Path) -> None:
    for name, text, message in (
        ("j.json", "{}", "must end in .jsonl, .csv, .yaml"),
        ("j.jsonl", "\n\n", "holds no job"),
        ("j.yaml", "jobs: 3", "must hold a list of jobs"),
        ("j.yaml", "a: 3", "'a' has no place beside jobs and defaults"),
        ("j.yaml", "defaults: [1]\njobs: [x]", "defaults must hold names with values"),
        ("j.yaml", "- {a: [", "is not valid YAML"),
    ):
        (tmp_path / name).write_text(text)
        with pytest.raises(ValueError, match=message.replace(".", r"\.").replace("[", r"\[")):
            read_jobs(tmp_path / name)
    (tmp_path / "j.txt").write_bytes(b"\xff\xff")
    with pytest.raises(ValueError, match="not a text file in UTF-8"):
        read_jobs(tmp_path / "j.txt")


def test_bad_csv(tmp_path: Path) -> None:
    text = 'prompt,steps\na,3,4\nb,"[1"\n"two\nlines",5\nc,x\n'
    assert [one.split(":")[0] for one in problems_of(tmp_path, text, "j.csv")] == ["line 2", "line 3", "line 6"]
    assert problems_of(tmp_path, "prompt,prompt\na,b\n", "j.csv") == ["line 1: the column 'prompt' stands there twice"]


DEVICES = ["con", "prn", "aux", "nul", *(f"{port}{number}" for port in ("com", "lpt") for number in "0123456789¹²³")]
_DEVICE = st.builds(
    "{}{}{}".format, st.text("./-_ ", max_size=3), st.sampled_from([*DEVICES, *map(str.upper, DEVICES)]),
    st.sampled_from(["", ".", ".mp4", ".tar.gz", " ", "-", " .x", "x"]) | st.text(max_size=4),
)  # fmt: skip


@settings(max_examples=120, deadline=None)
@given(st.text(max_size=300) | _DEVICE)
def test_any_text_becomes_a_name_inside_its_folder(text: str) -> None:
    name = safe_name(text)
    assert name and len(name.encode()) <= LONGEST and not name.startswith(".")
    assert name.split(".")[0].rstrip().lower() not in DEVICES, "Windows would open a device"
    assert not set(name) & set('/\\\0:*?"<>|\n') and os.path.normpath(f"clips/{name}") == f"clips/{name}"


@pytest.mark.parametrize("output", ["../../etc/x.mp4", "/etc/x.mp4", "a/b\\..\\x.mp4", "..\\x.mp4"])
def test_outputs_are_names_only(tmp_path: Path, output: str) -> None:
    (job,) = jobs_of(tmp_path, json.dumps({"prompt": "a", "output": output}))
    assert "/" not in job.file and "\\" not in job.file and job.file.endswith("x.mp4")


_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["from", "to", "each", "a"]), inner, max_size=3)
    ),
    max_leaves=5,
)
_FIELDS = st.sampled_from(
    ["prompt", "seed", "steps", "accel", "accel_options", "name", "format", "output", "size", "x"]
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60, deadline=None)
@given(st.lists(st.dictionaries(_FIELDS, _VALUES, max_size=4), min_size=1, max_size=3))
def test_fuzzed_lines_give_jobs_or_one_clear_error(tmp_path: Path, lines: list[dict[str, Any]]) -> None:
    text = "\n".join(json.dumps(line) for line in lines)
    try:
        made = jobs_of(tmp_path, text)
    except BadJobsError as error:
        assert all(problem.startswith("line ") and "\n" not in problem for problem in error.problems)
    else:
        assert all(job.settings.prompt and safe_name(job.name) == job.name for job in made)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=40, deadline=None)
@given(st.sampled_from(["j.jsonl", "j.csv", "j.yaml", "j.txt"]), st.text(max_size=80))
def test_fuzzed_files_give_jobs_or_one_clear_error(tmp_path: Path, name: str, text: str) -> None:
    try:
        jobs_of(tmp_path, text, name)
    except ValueError as error:
        assert "\n" not in str(error)


def test_sweeps_are_expanded_lazily_but_counted_first() -> None:
    with pytest.raises(ValueError, match="its sweeps make 10,000,000,000 jobs"):
        expand({"seed": {"from": 1, "to": 100_000}, "steps": {"from": 1, "to": 100_000}})


def test_half_a_letter_is_told_with_its_line(studio: Studio) -> None:
    path = studio.text(
        '{"prompt": "fine"}\n{"prompt": "a \\ud800 b"}\n{"prompt": "a", "seeds": [-1]}\n', name="j.jsonl"
    )
    with pytest.raises(BadJobsError) as caught:
        studio.open(path=path)
    assert caught.value.problems[0] == r"line 2: holds \ud800, half of a letter, which no file can hold"
    assert caught.value.problems[1].startswith("line 3: seeds: -1: input should be greater than or equal to 0")
