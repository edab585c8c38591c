"""Says on the console when a rank is slower than the others for long, from times that are measured anyway."""

import socket
import time
from collections.abc import Callable, Mapping
from typing import Any

from tttscale.comm.mesh import Mesh

_FACTOR = 1.3
"""Time for the same work, over the median of the other ranks, above which a rank counts as slow."""
_STEPS = 20
"""In a row in which it has to be the slowest, and slow."""
_AGAIN_SECONDS = 3600.0
"""The same rank is named again after that time at the earliest."""


class Stragglers:
    """Watches the records of the steps; all ranks give it the same ones."""

    def __init__(self, mesh: Mesh, now: Callable[[], float] = time.monotonic) -> None:
        """Nothing was seen yet.

        Args:
            mesh: all ranks.
            now: a clock, in seconds.
        """
        self._mesh, self._now = mesh, now
        self._rank, self._factors = -1, list[float]()
        self._hosts: list[str] | None = None
        self._said: dict[int, float] = {}

    def line(self, record: Mapping[str, Any]) -> str | None:
        """Take a step's record; return a line when a rank has been slow for long enough."""
        rank, factor = record.get("slowest_rank", -1), record.get("slowest_factor", 0.0)
        if rank != self._rank or not factor > _FACTOR:
            self._rank, self._factors = rank, []
        if factor > _FACTOR:
            self._factors.append(factor)
        if len(self._factors) < _STEPS:
            return None
        factors, self._factors = sorted(self._factors), []
        if self._hosts is None:  # every rank is here: they count alike
            self._hosts = self._mesh.gather_texts(socket.gethostname())
        said, now = self._said.get(rank), self._now()
        if said is not None and now - said < _AGAIN_SECONDS:
            return None
        self._said[rank] = now
        times, host = factors[_STEPS // 2], self._hosts[rank]
        return (
            f"WARNING: rank {rank} on host {host} needs {times:.1f} times as long as the others for its "
            f"work, for {_STEPS} steps now, and all ranks wait for it. `tttscale doctor` may say why; a job "
            "without that host is faster"
        )
