"""What an evaluation writes into its folder."""

from __future__ import annotations

from pathlib import Path

from videoaccel.common.files import check_folder, check_results_place

RESULTS, OFFICIAL, TABLE, REPORT = "results.json", "vbench_eval_results.json", "scores.csv", "report.html"


def check_place(out: Path) -> None:
    """Make sure that an evaluation can be written to a folder, as far as a look says; writes nothing.

    Raises:
        OSError: It cannot.
    """
    check_results_place(out, (REPORT, RESULTS, OFFICIAL, TABLE), what="an evaluation", able=check_folder)
