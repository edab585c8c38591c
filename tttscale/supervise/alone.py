"""The job as the supervisor of a single rank sees it: there is no one to ask."""

from tttscale import codes
from tttscale.supervise.verdict import Ended, Verdict


class Alone:
    """Decides by itself; stands in for `Job` where a job has one rank, or its supervisors cannot talk."""

    def __init__(self) -> None:
        self._verdict: Verdict | None = None

    def drop(self) -> None:
        """Close in the rank what only its supervisor uses."""

    def watch(self, pid: int) -> None:
        """Hear which process the rank is."""

    def poll(self) -> Verdict | None:
        """Return the verdict, if there is one."""
        return self._verdict

    def ended(self, end: Ended) -> None:
        """Hear that the rank has failed."""
        self._verdict = Verdict(
            end.rank, end.host, end.last.phase, end.last.step, end.cause, class_of(end.code)
        )

    def finished(self, code: int) -> None:
        """Hear that the rank has ended as it should."""

    def settle(self, seconds: float) -> Verdict | None:
        """Return the verdict."""
        return self._verdict

    def close(self) -> None:
        """Leave."""


def class_of(code: int) -> int:
    """Return the job's exit code for that of a rank which failed; a signal's is below zero."""
    if code < 0:
        return codes.PEER.number
    known = {one.number for one in codes.CODES} - {codes.DONE.number, codes.PROBLEM.number}
    return code if code in known else codes.BUG.number
