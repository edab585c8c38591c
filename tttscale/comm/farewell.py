"""Notices the end of a neighbour whose messages travel over another library than torch.distributed.

MPI does not say that a process on the same host has died. gloo does at once: its connections break. So each
neighbour owes this rank one byte over gloo, sent when it leaves; if the connection breaks first, it has died.
"""

import threading
from collections.abc import Iterable
from datetime import timedelta

import torch
import torch.distributed as dist

from tttscale.comm.messages import lost

_TAG = 1779
_FOREVER = timedelta(days=365)


class Farewells:
    """The bytes that the neighbours owe this rank, and it them; over the default group's gloo."""

    def __init__(self, peers: Iterable[int]) -> None:
        """Begin to wait, in one thread for each peer.

        Args:
            peers: world ranks that do the same for this one.
        """
        self._lost: dict[int, Exception] = {}
        self._threads = {
            peer: threading.Thread(
                target=self._await, args=(peer,), name=f"farewell-{peer}", daemon=True
            )
            for peer in sorted(set(peers))
        }
        for thread in self._threads.values():
            thread.start()

    def _await(self, peer: int) -> None:
        try:
            work = dist.irecv(torch.zeros(1, dtype=torch.uint8), peer, tag=_TAG)
            assert work is not None
            work.wait(_FOREVER)
        except RuntimeError as error:
            self._lost[peer] = error

    def lost(self, peer: int) -> Exception | None:
        """What gloo said of a peer that ended without a farewell; None while it lives."""
        return self._lost.get(peer)

    def leave(self) -> None:
        """Say farewell to all peers and wait for theirs.

        Raises:
            PeerError: one has ended without.
        """
        for peer in self._threads:
            try:
                dist.send(torch.zeros(1, dtype=torch.uint8), peer, tag=_TAG)
            except RuntimeError as error:
                self._lost.setdefault(peer, error)
        for peer, thread in self._threads.items():
            thread.join()
            if error := self.lost(peer):
                raise lost(f"rank {dist.get_rank()} lost rank {peer} at the end of the run", error)
