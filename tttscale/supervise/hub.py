"""The middle of the star: rank 0's supervisor, to which all others connect."""

import resource
import secrets
import selectors
import socket
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict
from typing import Any

from tttscale.cluster.job_secret import JobSecret
from tttscale.supervise.court import Court
from tttscale.supervise.signs import Sign
from tttscale.supervise.talk import SILENT_SECONDS, ago_of, ended_of, text_of
from tttscale.supervise.verdict import Verdict
from tttscale.supervise.wire import LINE_BYTES, Closed, Connection, Proofs

_STRANGERS = 64
"""More peers that have not proved who they are than ranks that have not come."""
_STRANGER_SECONDS = 10.0
_BEAT_SECONDS = 2.0
_DESCRIPTORS = 256


class _Peer:
    """A connection, and who it is once that is proved."""

    def __init__(self, wire: Connection, now: float) -> None:
        self.wire, self.nonce = wire, secrets.token_hex(16)
        self.rank: int | None = None
        self.heard_at = now


class Hub:
    """Takes connections, hears the other supervisors, and tells them the verdict."""

    def __init__(
        self, listener: socket.socket, secret: JobSecret, token: str, court: Court, host: str
    ) -> None:
        """Begin to listen; nothing is accepted before the first `poll`.

        Args:
            listener: a socket that listens.
            secret: of the job.
            token: of this start.
            court: where reports go; rank 0's own are brought there by the caller.
            host: of rank 0.
        """
        listener.setblocking(False)
        self._listener, self._court, self._host = listener, court, host
        self._proofs = Proofs(secret, token, len(court.members))
        self._selector: selectors.BaseSelector | None = None
        self._peers: dict[int, _Peer] = {}
        """By number of the socket."""
        self._seats: dict[int, _Peer] = {}
        """By rank."""
        self._said_at = float("-inf")
        self._first: dict[str, Any] = {"first": [host, "", 0]}
        """What all others were told last of rank 0, which they say if this supervisor is gone."""
        self._verdict: Verdict | None = None

    def poll(self, now: float) -> None:
        """Accept, read and write what can be without waiting."""
        for key, _ in self._ready().select(0):
            if key.data is None:
                self._accept(now)
            else:
                self._hear(key.data, now)
        for peer in list(self._peers.values()):
            silent = now - peer.heard_at
            if peer.rank is None and silent > _STRANGER_SECONDS:
                self._drop(peer)
            elif peer.rank is not None and silent > SILENT_SECONDS:
                self._lose(peer, peer.heard_at)
            elif peer.wire.pending:
                self._try(peer, peer.wire.flush, now)
        if now - self._said_at >= _BEAT_SECONDS:
            self._said_at = now
            self._first = self._about_first()
            self._tell(self._first, now)

    def tell(self, verdict: Verdict, now: float) -> None:
        """Send the verdict to all, once; those who come later get it then."""
        if self._verdict is None:
            self._verdict = verdict
            self._tell({"verdict": asdict(verdict)}, now)

    def leave(self, code: int, now: float) -> None:
        """Say that rank 0 has ended as it should, and that there is no judge from now on."""
        self._tell({"left": code}, now)

    @property
    def is_heard(self) -> bool:
        """Whether all have closed their end, as they do once they have the verdict."""
        return not self._seats

    def close(self) -> None:
        """Close all sockets; what has been sent still arrives."""
        for peer in list(self._peers.values()):
            peer.wire.close()
        self._peers, self._seats = {}, {}
        if self._selector is not None:
            self._selector.close()
        self._listener.close()

    def _ready(self) -> selectors.BaseSelector:
        if self._selector is None:  # after the fork: the rank's process has none of it
            _allow_descriptors(len(self._court.members) + _DESCRIPTORS)
            self._selector = selectors.DefaultSelector()
            self._selector.register(self._listener, selectors.EVENT_READ, None)
        return self._selector

    def _accept(self, now: float) -> None:
        while True:
            try:
                found, _ = self._listener.accept()
            except OSError:  # no one is left, or there are too many
                return
            strangers = [p for p in self._peers.values() if p.rank is None]
            if len(strangers) >= _STRANGERS + len(self._court.members) - len(self._seats):
                self._drop(min(strangers, key=lambda p: p.heard_at))
            peer = _Peer(Connection(found), now)
            self._peers[peer.wire.fileno()] = peer
            self._ready().register(peer.wire, selectors.EVENT_READ, peer)
            self._try(peer, lambda peer=peer: peer.wire.send({"nonce": peer.nonce}), now)

    def _hear(self, peer: _Peer, now: float) -> None:
        def read() -> None:
            """Take all messages that are there."""
            for message in peer.wire.receive():
                if peer.rank is None:
                    self._greet(peer, message, now)
                else:
                    peer.heard_at = now
                    self._take(peer.rank, message, now)

        self._try(peer, read, now)

    def _try(self, peer: _Peer, action: Callable[[], None], now: float) -> None:
        if peer.wire.fileno() not in self._peers:
            return
        try:
            action()
        except (Closed, ValueError, KeyError, TypeError, OverflowError):
            self._lose(peer, now)

    def _greet(self, peer: _Peer, message: dict[str, Any], now: float) -> None:
        rank, nonce = message["hello"], message["nonce"]
        known = isinstance(rank, int) and isinstance(nonce, str) and rank > 0
        if not known or rank not in self._court.members or rank in self._seats:
            raise Closed("no rank that is waited for")
        if not self._proofs.hold(message["proof"], "spoke", rank, peer.nonce, nonce):
            raise Closed("it does not know the secret")
        peer.rank, peer.heard_at = rank, now
        peer.wire.longest_bytes = LINE_BYTES
        self._seats[rank] = peer
        self._court.met(rank, text_of(message["host"]))
        peer.wire.send({"proof": self._proofs.make("hub", rank, nonce, peer.nonce)})
        # Not what is known now: if this supervisor is gone before the next beat, all must say the same.
        peer.wire.send(self._first)
        if self._verdict is not None:
            peer.wire.send({"verdict": asdict(self._verdict)})

    def _take(self, rank: int, message: dict[str, Any], now: float) -> None:
        if "sign" in message:
            self._court.sign(rank, Sign.of(message["sign"]))
        elif "ended" in message:
            self._court.ended(ended_of(message["ended"], rank), now - ago_of(message["ago"]))
        elif "left" in message:
            self._court.left(rank)

    def _lose(self, peer: _Peer, at: float) -> None:
        rank = peer.rank
        self._drop(peer)
        if rank is not None and self._verdict is None:
            self._court.lost(rank, at)

    def _drop(self, peer: _Peer) -> None:
        self._peers.pop(peer.wire.fileno(), None)
        if self._selector is not None:
            with suppress(KeyError, ValueError):
                self._selector.unregister(peer.wire)
        if peer.rank is not None:
            self._seats.pop(peer.rank, None)
        peer.wire.close()

    def _about_first(self) -> dict[str, Any]:
        sign = self._court.members[0].sign
        beat = ["", 0] if sign is None else [sign.beat.phase.value, sign.beat.step]
        return {"first": [self._host, *beat]}

    def _tell(self, message: dict[str, Any], now: float) -> None:
        for peer in list(self._seats.values()):
            self._try(peer, lambda peer=peer: peer.wire.send(message), now)


def _allow_descriptors(count: int) -> None:
    """Raise this process's limit of open files if it is lower; as far as the system lets it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < count:
        wanted = count if hard == resource.RLIM_INFINITY else min(count, hard)
        with suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
