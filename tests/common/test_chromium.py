"""The pages in a real browser (Chromium, as Debian has it), with a script in every field that must not run."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.common.hostile import HOSTILE, evaluation_page, gallery_entry, make_report
from tests.rendering.conftest import studio  # noqa: F401
from tests.rendering.studio import Studio
from tests.rendering.test_report import compared  # noqa: F401
from videoaccel.rendering.gallery import page as gallery_page

BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = [pytest.mark.slow, pytest.mark.skipif(BROWSER is None, reason="there is no Chromium")]

RUN = "document.documentElement.dataset.ran=1"
SCRIPTS = (
    f"<script>{RUN}</script>", f"</script><script>{RUN}</script>", f"<!--<script>{RUN}",
    f'"><img src=x onerror="{RUN}">', f"' onload='{RUN}'", f"</title><script>{RUN}</script>",
    f"</style><script>{RUN}</script>",
    f"<svg onload={RUN}>", f"javascript:{RUN}", f"\u2028{RUN}//", f"${{{RUN}}}", *HOSTILE,
)  # fmt: skip
PLANTED = (
    f"<script>{RUN}</script><script src='data:text/javascript,{RUN}'></script><img src=x onerror='{RUN}'>"
    f"<svg onload='{RUN}'></svg><iframe src='data:text/html,<p>a</p>'></iframe><base href='https://example.org/'>"
)


def opened(text: str, folder: Path) -> tuple[str, str]:
    """The page as it stands when its scripts have run, and what the browser had to say of it."""
    path = folder / "page.html"
    path.write_text(text, encoding="utf-8")
    assert BROWSER is not None
    flags = (
        "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage",
        "--enable-logging=stderr",
        "--disable-background-networking", f"--user-data-dir={folder / 'profile'}", "--virtual-time-budget=2000",
        "--dump-dom",
    )  # fmt: skip
    done = subprocess.run([BROWSER, *flags, path.as_uri()], capture_output=True, text=True, timeout=120, check=True)
    return done.stdout, done.stderr


def check(text: str, folder: Path, *, own: str) -> None:
    """No script runs but the page's own, which does; not even one that had got into it."""
    shown, _ = opened(text, folder)
    assert not re.search(r"<html[^>]*data-ran", shown)
    assert own in shown, "the page's own script has run, or there is none"
    spoilt, said = opened(text.replace("</body>", f"{PLANTED}</body>"), folder)
    assert PLANTED[:20] in spoilt and not re.search(r"<html[^>]*data-ran", spoilt), "the policy stops what gets in"
    assert "Content Security Policy" in said
    bare = re.sub(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", text)
    without, _ = opened(bare.replace("</body>", f"{PLANTED}</body>"), folder)
    assert re.search(r"<html[^>]*data-ran", without), "without the policy it runs: the test can fail"


def test_the_gallery(tmp_path: Path) -> None:
    text = gallery_page("".join(SCRIPTS), [gallery_entry(text) for text in SCRIPTS])
    check(text, tmp_path, own=f"{len(SCRIPTS)} clips</output>")


def test_the_page_of_an_evaluation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    check(evaluation_page(SCRIPTS, monkeypatch), tmp_path, own=f"Pair 1 of {len(SCRIPTS)}")


def test_a_report(compared: Path, studio: Studio, tmp_path: Path) -> None:  # noqa: F811
    written, _, _ = make_report("".join(SCRIPTS), compared, studio, tmp_path)
    check(written.read_text(encoding="utf-8"), tmp_path, own="<h2>Speed and quality</h2>")


def test_the_examples(tmp_path: Path) -> None:
    """Those in the docs are as today's are."""
    for path in sorted((Path(__file__).parents[2] / "docs" / "examples").glob("*.html")):
        text = path.read_text(encoding="utf-8")
        check(text, tmp_path, own=f"Pair 1 of {len(json.loads(re.findall('id=pairs>(.*?)</script>', text)[0]))}")
