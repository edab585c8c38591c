"""The job as the supervisor of a single rank sees it: there is no one to ask."""

from tttscale.supervise.ending import cause_of, class_of
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

    def ended(self, ended: Ended) -> None:
        """Hear that the rank has failed."""
        self._verdict = Verdict(
            ended.rank,
            ended.host,
            ended.last.phase,
            ended.last.step,
            cause_of(ended.code, ended.cause),
            class_of(ended.code),
        )

    def finished(self, code: int) -> None:
        """Hear that the rank has ended as it should."""

    def settle(self, seconds: float) -> Verdict | None:
        """Return the verdict."""
        return self._verdict

    def close(self) -> None:
        """Leave."""
