"""What the pages list is what there is."""

import inspect
import re
from pathlib import Path

from videoaccel.generation.pipeline import VideoPipeline

DOCS = Path(__file__).parent.parent / "docs"


def test_the_table_of_arguments_has_them_all() -> None:
    page = (DOCS / "python.md").read_text(encoding="utf-8")
    table = page.partition("## Arguments of")[2].partition("## ")[0]
    listed = [name for row in re.findall(r"^\|([^|]*`[^|]*)\|", table, re.M) for name in re.findall(r"`(\w+)`", row)]
    functions = (VideoPipeline.request, VideoPipeline.__call__)
    known = {name for function in functions for name in inspect.signature(function).parameters}
    assert sorted(listed) == sorted(known - {"self", "options"})
