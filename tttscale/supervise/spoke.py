"""A supervisor's connection to rank 0's."""

import errno
import secrets
import socket
from enum import StrEnum
from typing import Any

from tttscale.cluster.job_secret import JobSecret
from tttscale.supervise.place import Place
from tttscale.supervise.signs import Sign
from tttscale.supervise.talk import (
    BEAT_SECONDS,
    SILENT_SECONDS,
    ended_message,
    text_of,
    verdict_of,
)
from tttscale.supervise.verdict import Ended, Verdict
from tttscale.supervise.wire import LINE_BYTES, Closed, Connection, Proofs

CONNECT_SECONDS = 30.0
"""After which a supervisor does without the others."""
_TRY_SECONDS = 5.0
"""For one address to answer and to prove that it is the hub."""
_PAUSE_SECONDS = 0.3
_CONNECTING = {0, errno.EINPROGRESS, errno.EWOULDBLOCK, errno.EINTR}


class Link(StrEnum):
    """How it stands with the hub."""

    SEEKING = "seeking"
    JOINED = "joined"
    LOST = "lost"
    """It was there and is gone without a word."""
    OVER = "over"
    """It was not found in time, or it has left because all is done."""


class Spoke:
    """Finds the hub, proves itself, says what its rank does, and hears the verdict."""

    def __init__(
        self, place: Place, secret: JobSecret, rank: int, world_size: int, host: str, now: float
    ) -> None:
        """Seek the hub from now on."""
        self._place, self._rank, self._host = place, rank, host
        self._proofs = Proofs(secret, place.token, world_size)
        self.link = Link.SEEKING
        self.joined = False
        """It has been there."""
        self.verdict: Verdict | None = None
        """What the hub has decided."""
        self.first = (place.addresses[0] if place.addresses else "unknown", "unknown", 0)
        """Host, phase and step of rank 0, as the hub said last."""
        self._wire: Connection | None = None
        self._began = self._tried_at = self._heard_at = now
        self._attempts = 0
        self._pause_until = float("-inf")
        self._nonce = self._theirs = ""
        self._said_at = float("-inf")
        self._waiting: list[dict[str, Any]] = []
        """What must not be missed, said before the hub was found."""

    def poll(self, now: float, sign: Sign | None) -> None:
        """Do what can be done without waiting.

        Args:
            now: seconds of a clock.
            sign: the rank's last sign of life; None once it has ended.
        """
        if self.link is Link.SEEKING:
            self._seek(now)
        if self.link is Link.JOINED:
            try:
                self._talk(now, sign)
            except (Closed, ValueError, KeyError, TypeError):
                self._leave(Link.LOST)

    def ended(self, ended: Ended, now: float) -> None:
        """Say that the rank has failed."""
        self._say({"ended": ended_message(ended), "at": now})

    def left(self, code: int, now: float) -> None:
        """Say that the rank has ended as it should."""
        self._say({"left": code, "at": now})

    @property
    def pending(self) -> bool:
        """Whether something that must not be missed has not left yet."""
        return bool(self._waiting) or (self._wire is not None and self._wire.pending)

    def close(self) -> None:
        """Close the connection."""
        self._leave(Link.OVER)

    def _say(self, message: dict[str, Any]) -> None:
        if self.link in (Link.SEEKING, Link.JOINED):
            self._waiting.append(message)

    def _leave(self, link: Link) -> None:
        self.link = link
        self._waiting = []
        if self._wire is not None:
            self._wire.close()
            self._wire = None

    # ---- finding it ------------------------------------------------------------------------------

    def _seek(self, now: float) -> None:
        if now - self._began > CONNECT_SECONDS:
            self._leave(Link.OVER)
            return
        if self._wire is None and now >= self._pause_until:
            self._try_next(now)
        if self._wire is None:
            return
        try:
            for message in self._wire.receive():
                if self.link is Link.SEEKING:
                    self._answer(message, now)
                else:
                    self._hear(message, now)
        except (Closed, ValueError, KeyError, TypeError):
            self._give_up(now)
            return
        if now - self._tried_at > _TRY_SECONDS:
            self._give_up(now)

    def _try_next(self, now: float) -> None:
        self._tried_at, self._theirs = now, ""
        if not self._place.addresses:
            self._leave(Link.OVER)
            return
        address = self._place.addresses[self._attempts % len(self._place.addresses)]
        self._attempts += 1
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        try:
            found = socket.socket(family, socket.SOCK_STREAM)
        except OSError:
            self._give_up(now)
            return
        found.setblocking(False)
        try:
            if found.connect_ex((address, self._place.port)) not in _CONNECTING:
                raise OSError
        except OSError:
            found.close()
            self._give_up(now)
            return
        self._wire = Connection(found)

    def _give_up(self, now: float) -> None:
        """This address for now."""
        self._pause_until = now + _PAUSE_SECONDS
        if self._wire is not None:
            self._wire.close()
            self._wire = None

    def _answer(self, message: dict[str, Any], now: float) -> None:
        assert self._wire is not None
        if not self._theirs:
            self._theirs, self._nonce = str(message["nonce"])[:64], secrets.token_hex(16)
            self._wire.send(
                {
                    "hello": self._rank,
                    "host": self._host,
                    "nonce": self._nonce,
                    "proof": self._proofs.make("spoke", self._rank, self._theirs, self._nonce),
                }
            )
            return
        proof = message["proof"]
        if not self._proofs.hold(proof, "hub", self._rank, self._nonce, self._theirs):
            raise Closed("it is not the hub")
        self._wire.longest_bytes = LINE_BYTES
        self._heard_at, self.link, self.joined = now, Link.JOINED, True

    # ---- talking to it ---------------------------------------------------------------------------

    def _talk(self, now: float, sign: Sign | None) -> None:
        assert self._wire is not None
        for message in self._wire.receive():
            self._hear(message, now)
        if self._wire is None:
            return
        if now - self._heard_at > SILENT_SECONDS:
            raise Closed("it is silent")
        for message in self._waiting:
            at = message.pop("at")
            self._wire.send({**message, "ago": round(now - at, 3)})
        self._waiting = []
        self._wire.flush()
        if sign is not None:
            self._say_sign(now, sign)
        elif now - self._said_at >= BEAT_SECONDS:
            self._said_at = now
            self._wire.send({})

    def _hear(self, message: dict[str, Any], now: float) -> None:
        self._heard_at = now
        if "verdict" in message:
            self.verdict = verdict_of(message["verdict"])
            self._leave(Link.OVER)
        elif "left" in message:
            self._leave(Link.OVER)
        elif "first" in message:
            host, phase, step = message["first"]
            self.first = text_of(host), text_of(phase) or "unknown", int(step)

    def _say_sign(self, now: float, sign: Sign) -> None:
        assert self._wire is not None
        if now - self._said_at < BEAT_SECONDS or self._wire.pending:
            return
        self._said_at = now
        self._wire.send({"sign": sign.message()})
