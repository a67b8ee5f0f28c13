"""What is left of a session when its run is over."""

from videoaccel.session.policy import Session


class Done(Session):
    """What a finished session did, without what it stored for later steps.

    A clip of several loops has a session a loop, and tells of all of them when it is made; what the earlier ones stored
    would stand beside what the present one does.

    Args:
        session: The finished one; it is not kept.
    """

    def __init__(self, session: Session) -> None:
        super().__init__(session.job, mix=session.mix)
        self.trace, self.shares, self.reads, self.errors = session.trace, session.shares, session.reads, session.errors
        self.peak_bytes, self.foretold_bytes = session.peak_bytes, session.foretold_bytes
        self.made_by, self.channels, self.guidance = session.made_by, session.channels, session.guidance
        self._counts, self._idle = session.counts(), session.idle

    def counts(self) -> dict[str, int]:
        """See :meth:`Session.counts`."""
        return self._counts

    @property
    def idle(self) -> list[str]:
        """See :meth:`Session.idle`."""
        return self._idle
