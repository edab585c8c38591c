"""A transport that tells the timeline when it holds this rank up, at both ends of a message."""

from typing import NamedTuple

from tttscale.model.ports import Carried, Part
from tttscale.scan.schedule import CarryKey, Phase
from tttscale.scan.timeline import Activity, Run, Timeline
from tttscale.scan.transport import RecvHandle, SingleRank, Transport


class _Chunk(NamedTuple):
    """The chunk that receives or sends."""

    sequence: int
    chunk: int


class NotedTransport:
    """Waits, sends and flushes of a transport, noted; what follows them is noted by who asked for them."""

    def __init__(self, transport: Transport, timeline: Timeline) -> None:
        """Note on a timeline what a transport does."""
        self.rank, self.size = transport.rank, transport.size
        self._transport, self._timeline = transport, timeline

    def irecv(self, key: CarryKey, source: int, carried: Carried) -> RecvHandle:
        """Start to receive; only the wait for it is noted."""
        return _NotedHandle(self._transport.irecv(key, source, carried), key, self._timeline)

    def isend(self, key: CarryKey, target: int, part: Part) -> None:
        """Start to send."""
        self._timeline.begin(Activity.SEND, *_message(key, sends=True))
        self._transport.isend(key, target, part)

    def flush(self) -> None:
        """Return when everything sent has left."""
        self._timeline.begin(Activity.FLUSH)
        self._transport.flush()
        self._timeline.begin(Activity.OTHER)


class _NotedHandle:
    def __init__(self, handle: RecvHandle, key: CarryKey, timeline: Timeline) -> None:
        self._handle, self._key, self._timeline = handle, key, timeline

    def wait(self) -> Part:
        """Block until it is here."""
        self._timeline.begin(Activity.WAIT, *_message(self._key, sends=False))
        return self._handle.wait()


def noted(transport: Transport | None, timeline: Timeline) -> NotedTransport | SingleRank:
    """A transport whose waits and sends are noted; without other ranks there are none."""
    if transport is None or transport.size == 1:
        return SingleRank()
    return NotedTransport(transport, timeline)


def _message(key: CarryKey, sends: bool) -> tuple[Run, _Chunk, int, str]:
    """Run, chunk, layer and part: a state leaves the chunk left of the boundary, a gradient the right one."""
    forward = key.phase is Phase.FORWARD
    chunk = key.boundary + (forward != sends)
    run = Run.FORWARD if forward else Run.BACKWARD
    return run, _Chunk(key.sequence, chunk), key.layer, key.part
