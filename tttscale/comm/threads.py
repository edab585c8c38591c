"""Ranks as threads of one process: for tests and dry runs."""

import queue
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from tttscale.errors import PeerError
from tttscale.model.ports import Carried, Part
from tttscale.scan.schedule import CarryKey, Phase

Result = TypeVar("Result")
_POLL_SECONDS = 0.05


class ThreadWorld:
    """R ranks that share memory; one queue for each pair and direction."""

    def __init__(self, size: int, timeout_seconds: float = 60.0) -> None:
        self.size, self.timeout_seconds = size, timeout_seconds
        self.failed = threading.Event()
        pairs = [(a, b, phase) for a in range(size) for b in range(size) for phase in Phase]
        self.queues: dict[tuple[int, int, Phase], queue.Queue[tuple[CarryKey, Part]]] = {
            pair: queue.Queue() for pair in pairs
        }

    def run(self, work: Callable[["ThreadTransport"], Result]) -> list[Result]:
        """Call `work(transport)` on every rank at once and return the results in rank order.

        Raises:
            Exception: whatever the first failing rank raised; the others are released.
        """

        def guarded(rank: int) -> Result:
            try:
                return work(ThreadTransport(self, rank))
            except BaseException:
                self.failed.set()
                raise

        with ThreadPoolExecutor(self.size, thread_name_prefix="rank") as pool:
            futures = [pool.submit(guarded, rank) for rank in range(self.size)]
        errors = [f.exception() for f in futures if f.exception() is not None]
        culprits = [e for e in errors if not isinstance(e, PeerError)] or errors
        if culprits and culprits[0] is not None:
            raise culprits[0]
        return [future.result() for future in futures]


class ThreadTransport:
    """`tttscale.scan.transport.Transport` between threads."""

    def __init__(self, world: ThreadWorld, rank: int) -> None:
        self._world, self.rank, self.size = world, rank, world.size

    def irecv(self, key: CarryKey, source: int, carried: Carried) -> "_ThreadHandle":
        """Remember what is expected; the queue holds what has arrived."""
        return _ThreadHandle(self._world, (source, self.rank, key.phase), key)

    def isend(self, key: CarryKey, target: int, part: Part) -> None:
        """Put a copy into the link's queue."""
        copies = tuple(t.detach().clone() for t in part)
        self._world.queues[self.rank, target, key.phase].put((key, copies))

    def flush(self) -> None:
        """Everything has left: queues take it at once."""


class _ThreadHandle:
    def __init__(self, world: ThreadWorld, link: tuple[int, int, Phase], key: CarryKey) -> None:
        self._world, self._link, self._key = world, link, key

    def wait(self) -> Part:
        """Take the next message of the link and check that it is the expected one."""
        source, target, _ = self._link
        waited = 0.0
        while True:
            try:
                found, part = self._world.queues[self._link].get(timeout=_POLL_SECONDS)
                break
            except queue.Empty:
                waited += _POLL_SECONDS
                if self._world.failed.is_set():
                    raise PeerError(f"another rank failed before {self._key}") from None
                if waited >= self._world.timeout_seconds:
                    raise PeerError(
                        f"rank {target} waited {waited:.0f} s for {self._key} from rank {source}"
                    ) from None
        if found != self._key:
            raise PeerError(
                f"rank {target} expected {self._key} from rank {source} and got {found}"
            )
        return part
