"""``python -m videoaccel``, and the console script."""

import signal
import sys
from types import FrameType

from videoaccel.cli.app import run


def main() -> None:
    """Run the command line and end the process with its exit code."""
    # A job scheduler's signal clears up like Ctrl-C does: no half file stays.
    signal.signal(signal.SIGTERM, _stop)
    sys.exit(run(sys.argv[1:]))


def _stop(number: int, frame: FrameType | None) -> None:
    raise SystemExit(128 + number)


if __name__ == "__main__":
    main()
