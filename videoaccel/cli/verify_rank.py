"""``python -m videoaccel.cli.verify_rank NAME``: one rank of ``videoaccel verify``."""

from __future__ import annotations

import sys

from videoaccel.cli.errors import exit_code
from videoaccel.cli.progress import calm_libraries, shown_progress


def main(name: str) -> None:
    """Make the rank's part; the process that started the ranks shows how far they are."""
    from videoaccel.verification.verify import make_as_rank  # torch and all

    calm_libraries(quiet=True)
    with shown_progress(quiet=True):
        make_as_rank(name)


if __name__ == "__main__":
    sys.exit(exit_code(lambda: main(sys.argv[1]), debug=False))
