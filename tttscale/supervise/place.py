"""Where the supervisors of a job meet: addresses, port and token, as pages and the store carry them."""

import json
import socket
from contextlib import suppress
from dataclasses import asdict, dataclass, field

from tttscale.cluster.ranks import Ranks
from tttscale.reading import parse_json

LOOPBACK = "127.0.0.1"
_BACKLOG = 4096
_MOST_ADDRESSES = 8


@dataclass(frozen=True)
class Place:
    """Where to find the hub."""

    addresses: tuple[str, ...]
    """Numeric; tried in this order."""
    port: int
    token: str = field(repr=False)
    """A random text that only ranks of this start read."""

    def text(self) -> str:
        """Return it as pages and the store carry it."""
        return json.dumps(asdict(self))

    @classmethod
    def of(cls, text: str) -> "Place":
        """Read a text.

        Raises:
            ValueError: it is none.
        """
        found = parse_json(text.encode())
        try:
            addresses, port, token = found["addresses"], found["port"], found["token"]
            if not (isinstance(token, str) and isinstance(port, int) and 0 < port < 65536):
                raise ValueError("no port or token")
            return cls(tuple(map(str, addresses))[:_MOST_ADDRESSES], port, token)
        except (KeyError, TypeError) as error:
            raise ValueError(f"no place: {error}") from None

    def with_addresses(self, *more: str) -> "Place":
        """Return a place that is looked for at more addresses, which may be empty."""
        addresses = dict.fromkeys(filter(None, (*self.addresses, *more)))
        return Place(tuple(addresses)[:_MOST_ADDRESSES], self.port, self.token)


def listen(ranks: Ranks) -> tuple[socket.socket, tuple[str, ...]]:
    """Listen at a free port: of the loopback interface if all ranks are on this host, else of MASTER_ADDR's.

    Returns:
        The socket, and the addresses at which others reach it as far as this host knows them.

    Raises:
        OSError: there is no free port.
    """
    if ranks.one_host or ranks.master_addr in ("localhost", LOOPBACK):
        return socket.create_server((LOOPBACK, 0), backlog=_BACKLOG), (LOOPBACK,)
    for address in _addresses_of(ranks.master_addr):
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        with suppress(OSError):  # the address of another host: rank 0 is not where ranks meet
            return socket.create_server((address, 0), family=family, backlog=_BACKLOG), (address,)
    dual = socket.has_dualstack_ipv6()
    family = socket.AF_INET6 if dual else socket.AF_INET
    return socket.create_server(("", 0), family=family, dualstack_ipv6=dual, backlog=_BACKLOG), ()


def _addresses_of(name: str) -> list[str]:
    """What a name stands for, without addresses that other hosts cannot reach."""
    try:
        rows = socket.getaddrinfo(name, None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        return []
    found = dict.fromkeys(str(row[4][0]) for row in rows)
    return [address for address in found if not address.startswith("127.") and address != "::1"]
