"""Encoding beside decoding: one thread puts frames into files while the next ones are made.

Encoders and the making of frames leave Python's lock free most of the time: FFmpeg, Pillow and PyTorch work without it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager
from types import TracebackType

MOST = 2
"""Lots that are being done or wait: so many chunks of frames are in memory besides the one that is made."""


class Beside(AbstractContextManager["Beside"]):
    """Does lots of work in a thread, in the order in which they come; use it in a ``with`` block.

    What a piece raises is raised by the next `do` or `wait`, and no later piece is begun. When the block is left,
    whichever way, the piece at hand has ended and no other is begun, so files can be finished or thrown away then.

    Args:
        thread: False does every lot at once, in the caller's thread.

    >>> found = []
    >>> with Beside() as beside:
    ...     beside.do([lambda: found.append(1), lambda: found.append(2)])
    ...     beside.wait()
    >>> found
    [1, 2]
    """

    def __init__(self, *, thread: bool = True) -> None:
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="encode") if thread else None
        self._due: deque[Future[None]] = deque()
        self._over = False

    def do(self, lot: Sequence[Callable[[], None]]) -> None:
        """Do pieces one after the other; waits while `MOST` earlier lots are not done.

        Raises:
            BaseException: What an earlier piece has raised; without a thread, what one of these raises.
        """
        if self._pool is None:
            self._each(lot)
            return
        while len(self._due) >= MOST:
            self._next()
        self._due.append(self._pool.submit(self._each, lot))

    def wait(self) -> None:
        """Wait for all lots.

        Raises:
            BaseException: What a piece has raised.
        """
        while self._due:
            self._next()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over = True
        if self._pool is None:
            return
        try:
            self._pool.shutdown()
        except BaseException:  # Ctrl-C once more: still, no file may be closed under an encoder at work
            self._pool.shutdown()
            raise

    def _next(self) -> None:
        self._due[0].result()  # stays in the queue if waiting is interrupted
        self._due.popleft()

    def _each(self, lot: Sequence[Callable[[], None]]) -> None:
        for piece in lot:
            if self._over:
                return
            try:
                piece()
            except BaseException:
                self._over = True
                raise
