"""What an evaluation writes into its folder."""

from __future__ import annotations

from pathlib import Path

from videoaccel.common.files import check_folder, check_no_dir

RESULTS, OFFICIAL, TABLE, REPORT = "results.json", "vbench_eval_results.json", "scores.csv", "report.html"


def check_place(out: Path) -> None:
    """Make sure that an evaluation can be written to a folder, as far as a look says; writes nothing.

    Raises:
        OSError: It cannot.
    """
    if out.exists() and not out.is_dir():
        raise NotADirectoryError(f"cannot write an evaluation to {out}: it is not a folder")
    check_folder(out / REPORT if out.is_dir() else out)
    for name in (RESULTS, OFFICIAL, TABLE, REPORT):
        check_no_dir(out / name)
