"""The package list, the tree and the built wheel agree, and nothing named "models" or "eval" reaches site-packages."""

import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

if sys.version_info >= (3, 11):
    import tomllib
else:
    tomllib = pytest.importorskip("tomli")

ROOT = Path(__file__).parent.parent
LINKED = ("configs", "eval", "models", "parallel")


def setuptools_table() -> dict:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]


def tree_packages() -> set[str]:
    """Every folder with an __init__.py, under the name it ships as."""
    found = set()
    for top, name in [("videoaccel", "videoaccel"), *((top, f"videoaccel.{top}") for top in LINKED)]:
        for init in (ROOT / top).rglob("__init__.py"):
            parts = init.parent.relative_to(ROOT / top).parts
            if top == "videoaccel" and parts and parts[0] in LINKED:
                continue
            found.add(".".join((name, *parts)))
    return found


def test_package_list_is_the_tree() -> None:
    assert set(setuptools_table()["packages"]) == tree_packages()


@pytest.mark.parametrize("name", LINKED)
def test_links_point_to_the_top_folders(name: str) -> None:
    link = ROOT / "videoaccel" / name
    assert link.is_symlink() and link.resolve() == ROOT / name


def test_wheel(tmp_path: Path) -> None:
    """Built from the source distribution, and that from a copy of the committed and new files, without the network."""
    files = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.split("\n")
    source = tmp_path / "source"
    for name in filter(None, files):
        if name.startswith(("tests/", "docs/", "benchmarks/")) or not (ROOT / name).exists():
            continue
        target = source / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if (ROOT / name).is_symlink():
            target.symlink_to((ROOT / name).readlink())
        else:
            target.write_bytes((ROOT / name).read_bytes())
    command = [
        sys.executable,
        "-m",
        "build",
        "--no-isolation",
        "--outdir",
        str(tmp_path / "dist"),
        str(source),
    ]
    built = subprocess.run(command, capture_output=True, text=True)
    assert built.returncode == 0, built.stderr[-2000:]
    (wheel,) = (tmp_path / "dist").glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    tops = {name.split("/")[0] for name in names}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"videoaccel"}
    expected = ["__main__.py", "py.typed", "models/stdit.py", "parallel/layout.py", "eval/world.py"]
    expected += ["configs/models/demo.yaml", "assets/demo/model_index.json"]
    expected += [f"{name.partition('.')[2].replace('.', '/')}/__init__.py" for name in tree_packages() - {"videoaccel"}]
    (source_file,) = (tmp_path / "dist").glob("*.tar.gz")
    with tarfile.open(source_file) as archive:
        packed = {name.partition("/")[2] for name in archive.getnames()}
    homes = {name.partition(".")[2].replace(".", "/") for name in tree_packages() - {"videoaccel"}}
    assert not {home for home in homes if not {f"{home}/__init__.py", f"videoaccel/{home}/__init__.py"} & packed}
    missing = [name for name in expected if f"videoaccel/{name}" not in names]
    assert not missing
    assert sum(name == "videoaccel/models/stdit.py" for name in names) == 1
    assert wheel.stat().st_size < 45e6
