"""JSON lines over a socket that never blocks, and the proofs with which supervisors know each other.

The port is open to the network: whatever comes from there is bounded in size and number, and is dropped with
its connection where it is not what a supervisor says.
"""

import json
import socket
from contextlib import suppress
from typing import Any

from tttscale.cluster.job_secret import JobSecret
from tttscale.reading import parse_json

STRANGER_BYTES = 1024
"""Longest line of a peer that has not proved yet that it belongs to the job."""
LINE_BYTES = 64 << 10
_PENDING_BYTES = 1 << 20
"""Larger than all that a supervisor says before it is lost."""
_READ_BYTES = 64 << 10
_MOST_READS = 8
"""At one look, so that one peer cannot hold up the others."""


class Closed(Exception):  # noqa: N818 - not always an error
    """The other end has closed, or what it says is no message."""


class Connection:
    """One end of a connection."""

    def __init__(self, peer: socket.socket) -> None:
        """Take over a connected socket."""
        peer.setblocking(False)
        with suppress(OSError):  # another family may lack it
            peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            peer.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        self._peer = peer
        self._in, self._out = bytearray(), bytearray()
        self.longest_bytes = STRANGER_BYTES
        """Longest line that is taken, in bytes; raised once the other end is known."""

    def fileno(self) -> int:
        """Return the socket's number, for a selector."""
        return self._peer.fileno()

    @property
    def pending(self) -> bool:
        """Whether something has not left yet."""
        return bool(self._out)

    def send(self, message: dict[str, Any]) -> None:
        """Send a message as far as that is possible now.

        Raises:
            Closed: the other end is gone, or has not read for so long that too much is waiting.
        """
        self._out += json.dumps(message, separators=(",", ":")).encode() + b"\n"
        self.flush()
        if len(self._out) > _PENDING_BYTES:
            raise Closed("it does not read")

    def flush(self) -> None:
        """Send what is waiting, as far as that is possible now.

        Raises:
            Closed: the other end is gone.
        """
        while self._out:
            try:
                sent = self._peer.send(self._out)
            except (BlockingIOError, InterruptedError):
                return
            except OSError as error:
                raise Closed(str(error)) from None
            del self._out[:sent]

    def receive(self) -> list[dict[str, Any]]:
        """Return the messages that have come; those before a break come first.

        Raises:
            Closed: the other end is gone and there is no message left; or it says what is no message.
        """
        ended = self._read()
        *lines, rest = self._in.split(b"\n")
        self._in = bytearray(rest)
        if max(map(len, (*lines, rest))) > self.longest_bytes:
            raise Closed("its line is too long")
        messages = [_message(bytes(line)) for line in lines]
        if ended and not messages:
            raise Closed(ended)
        return messages

    def _read(self) -> str:
        """Read what is there; why there will be no more, if that is so."""
        for _ in range(_MOST_READS):
            try:
                data = self._peer.recv(_READ_BYTES)
            except (BlockingIOError, InterruptedError):
                return ""
            except OSError as error:
                return str(error) or "broken"
            if not data:
                return "closed"
            self._in += data
            if len(self._in) > self.longest_bytes:
                return ""
        return ""

    def close(self) -> None:
        """Close it."""
        with suppress(OSError):
            self._peer.close()


def _message(line: bytes) -> dict[str, Any]:
    try:
        found = parse_json(line)
    except ValueError as error:
        raise Closed(f"no message: {error}") from None
    if not isinstance(found, dict):
        raise Closed("no message")
    return found


class Proofs:
    """What each end shows the other, made of the job's secret and of rank 0's token for this start."""

    def __init__(self, secret: JobSecret, token: str, world_size: int) -> None:
        # Neither the secret nor the token ever travels over these connections.
        key = secret.sign(f"supervisors {world_size} {token}")
        self._key = JobSecret(bytes.fromhex(key), "")

    def make(self, side: str, rank: int, nonce: str, own_nonce: str) -> str:
        """Sign that `side` speaks with `rank`, for this connection only."""
        return self._key.sign(f"{side} {rank} {nonce} {own_nonce}")

    def hold(self, proof: Any, side: str, rank: int, nonce: str, own_nonce: str) -> bool:
        """Return whether a proof is that one."""
        return isinstance(proof, str) and self._key.knows(
            f"{side} {rank} {nonce} {own_nonce}", proof
        )
