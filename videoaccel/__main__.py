"""``python -m videoaccel``, and the console script."""

import os
import signal
import sys

# Until there is somebody who says that it was stopped, Ctrl-C ends the process without a word, not in a traceback of
# whatever was being imported. Where it is ignored (a job in the background) it stays so.
# Whoever imports this file to call main() keeps the process's signals as they are until then.
_IS_PROGRAM = __name__ == "__main__" or os.path.splitext(os.path.basename(sys.argv[0]))[0] == "videoaccel"
_HEEDED = _IS_PROGRAM and signal.getsignal(signal.SIGINT) is signal.default_int_handler
if _HEEDED:
    signal.signal(signal.SIGINT, signal.SIG_DFL)

from videoaccel.cli.app import run  # noqa: E402
from videoaccel.cli.errors import interrupt, terminate  # noqa: E402


def main() -> None:
    """Run the command line and end the process with its exit code."""
    # A job scheduler's signal clears up like Ctrl-C does: no half file stays.
    signal.signal(signal.SIGTERM, terminate)
    if _HEEDED:
        signal.signal(signal.SIGINT, interrupt)
    code = run(sys.argv[1:])
    if _HEEDED:
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # everything was said
    sys.exit(code)


if __name__ == "__main__":
    main()
