"""The machinery with nothing changed: every place is asked about, everything is computed, nothing is stored."""

from videoaccel.session.action_session import ActionSession
from videoaccel.session.actions import Place
from videoaccel.session.job import Job, Mix, local_mix
from videoaccel.session.policy import Policy, Session


class Off(Policy):
    """Compute everything, through the session. Gives the bits of a plain run."""

    def session(self, job: Job, *, mix: Mix = local_mix) -> Session:
        """See :meth:`Policy.session`."""
        return _OffSession(job, mix=mix, spans=[job.trunk])


class _OffSession(ActionSession):
    decides_blocks = True

    @property
    def idle(self) -> list[str]:
        return []  # as it shall be

    def keeps(self, place: Place) -> bool:
        return False
