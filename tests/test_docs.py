"""What the pages list is what there is."""

import ast
import inspect
import re
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import videoaccel
from videoaccel import VideoPipeline
from videoaccel.generation.call import Call

DOCS = Path(__file__).parent.parent / "docs"


def test_the_table_of_arguments_has_them_all() -> None:
    page = (DOCS / "python.md").read_text(encoding="utf-8")
    table = page.partition("## Arguments of")[2].partition("## ")[0]
    listed = [name for row in re.findall(r"^\|([^|]*`[^|]*)\|", table, re.M) for name in re.findall(r"`(\w+)`", row)]
    known = {field.name for field in fields(Call)} | {*inspect.signature(VideoPipeline.__call__).parameters}
    assert sorted(listed) == sorted(known - {"self", "options"})


def test_the_page_of_the_public_face_has_all_names_and_they_load() -> None:
    page = (DOCS / "api.md").read_text(encoding="utf-8")
    listed = re.findall(r"^\| `(\w+)` \|", page, re.M)
    assert sorted(listed) == sorted({*videoaccel.__all__} - {"__version__"})
    for name in listed:
        assert getattr(videoaccel, name).__doc__
    assert {*videoaccel.__all__} <= {*dir(videoaccel)}


def test_pages_import_from_the_public_face_only() -> None:
    pages = [*DOCS.glob("*.md"), DOCS.parent / "README.md"]
    deeper = re.compile(r"^(?:from|import) videoaccel\.\S+", re.M)
    assert not {page.name: found for page in pages if (found := deeper.findall(page.read_text(encoding="utf-8")))}
    named = {
        name.strip().partition(" as ")[0]
        for page in pages
        for line in re.findall(r"^from videoaccel import (.+?)(?:  #.*)?$", page.read_text(encoding="utf-8"), re.M)
        for name in line.split(",")
    }
    assert named <= {*videoaccel.__all__}


def test_importing_the_package_imports_no_torch() -> None:
    code = "import sys, videoaccel; assert not {'torch', 'pydantic', 'yaml'} & set(sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_the_plan_of_the_house_has_every_room() -> None:
    page = (DOCS / "architecture.md").read_text(encoding="utf-8")
    rooms = {path.parent.name for path in (DOCS.parent / "videoaccel").glob("*/__init__.py")} - {"configs"}
    named = {name for row in re.findall(r"^\|[^|]*\|([^|]+)\|", page, re.M) for name in re.findall(r"`(\w+)`", row)}
    assert rooms <= named, rooms - named


def test_every_room_says_what_it_is_for() -> None:
    for path in (DOCS.parent / "videoaccel").glob("*/__init__.py"):
        text = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
        assert 3 <= len(text.splitlines()) <= 6, f"{path}: {text}"
