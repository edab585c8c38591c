"""Whether the hosts of a job reach each other at the interfaces that they choose, before torch tries.

gloo retries in silence for as long as a collective may take, on some of the ranks only. Here one rank of each
host connects to the others, and all ranks end with the same line.
"""

import json
import os
import socket
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from datetime import timedelta

from torch.distributed import Store  # pyright: ignore[reportPrivateImportUsage]

from tttscale.cluster.ranks import Ranks
from tttscale.comm.first_store import appeared
from tttscale.comm.interfaces import (
    GLOO,
    NCCL,
    Interface,
    Route,
    interface_for,
    master_address,
    own_addresses,
    use_interface,
)
from tttscale.errors import LaunchError
from tttscale.reading import parse_json

REACH_SECONDS = 10.0
"""How long one host may take to answer another."""
VERDICT_SECONDS = 45.0
"""How long a rank may take to say what it found; all of them have met."""
_READ_SECONDS = 10.0
_MOST_HOSTS = 64
"""A host connects to so many others, the next ones in rank order: to all in a job of up to 65 hosts."""
_THREADS = 16


@dataclass(frozen=True)
class _Stand:
    """Where a rank is reached, as it tells the others."""

    rank: int
    host: str
    home: str
    """The host's address on the way to rank 0, which tells hosts apart."""
    interface: str
    address: str
    port: int

    def __str__(self) -> str:
        return f"{self.host} (rank {self.rank}, interface {self.interface}, {self.address})"


def settle_interfaces(ranks: Ranks, store: Store, route: Route) -> None:
    """Agree on each host's address and interface, and try them; every rank calls this.

    Sets GLOO_SOCKET_IFNAME and NCCL_SOCKET_IFNAME where they are unset and ranks are on several hosts.

    Args:
        ranks: who this process is.
        store: where all ranks have met.
        route: how this rank reached it.

    Raises:
        LaunchError: a host has no such interface, or is not reached there; the same line on all ranks.
    """
    own = _own_address(ranks, store, route)
    if not own:
        return
    problem, interface, listener = "", Interface("", own), None
    try:
        interface = interface_for(own, own_addresses(), os.environ)
        family = socket.AF_INET6 if ":" in interface.address else socket.AF_INET
        listener = socket.create_server((interface.address, 0), family=family, backlog=128)
    except (LaunchError, OSError) as error:
        problem = f"rank {ranks.rank}: {error}"
    try:
        port = listener.getsockname()[1] if listener else 0
        host = socket.gethostname()
        stand = _Stand(ranks.rank, host, own, interface.name, interface.address, port)
        _agree(ranks, store, "stand", problem)
        hosts = _one_of_each_host(ranks, store, stand)
        _agree(ranks, store, "reach", _not_reached(stand, hosts))
    finally:
        if listener:
            listener.close()
    use_interface(interface, os.environ)


def _own_address(ranks: Ranks, store: Store, route: Route) -> str:
    """This host's address for the others; empty if all ranks are on one host."""

    def first(rows: list[str]) -> str:
        return master_address([Route(**parse_json(row.encode())) for row in rows])

    master = _together(ranks, store, "route", json.dumps(asdict(route)), first)
    return route.own if route.is_remote else master


def _one_of_each_host(ranks: Ranks, store: Store, stand: _Stand) -> list[_Stand]:
    """The first rank of each host, in rank order."""

    def firsts(rows: list[str]) -> str:
        stands: dict[str, dict[str, object]] = {}
        for text in rows:
            row = parse_json(text.encode())
            stands.setdefault(row["home"], row)
        return json.dumps(list(stands.values()))

    found = _together(ranks, store, "host", json.dumps(asdict(stand)), firsts)
    return [_Stand(**row) for row in parse_json(found.encode())]


def _agree(ranks: Ranks, store: Store, step: str, problem: str) -> None:
    """Raise the first rank's problem on all ranks, if one has any.

    Raises:
        LaunchError: with that problem.
    """

    def first(rows: list[str]) -> str:
        return next(filter(None, rows), "")

    found = _together(ranks, store, step, problem, first)
    if not found:
        return
    store.set(f"{step}/read/{ranks.rank}", "")
    if ranks.rank == 0:  # the store ends with it
        readers = [f"{step}/read/{rank}" for rank in range(ranks.world_size)]
        appeared(store, readers, time.monotonic() + _READ_SECONDS)
    raise LaunchError(found)


def _together(
    ranks: Ranks, store: Store, step: str, own: str, combine: Callable[[list[str]], str]
) -> str:
    """Rank 0 combines what all ranks say, in rank order, into one text for all of them."""
    store.set(f"{step}/{ranks.rank}", own)
    if ranks.rank == 0:
        keys = [f"{step}/{rank}" for rank in range(ranks.world_size)]
        store.wait(keys, timedelta(seconds=VERDICT_SECONDS))
        store.set(step, combine([store.get(key).decode() for key in keys]))
    store.wait([step], timedelta(seconds=VERDICT_SECONDS + 5))
    return store.get(step).decode()


def _not_reached(own: _Stand, hosts: list[_Stand]) -> str:
    """What is wrong with the way from this host to the others; empty if all is well or another rank looks."""
    place = next((i for i, stand in enumerate(hosts) if stand.rank == own.rank), None)
    if place is None:
        return ""
    others = (hosts[place + 1 :] + hosts[:place])[:_MOST_HOSTS]

    def problem_with(other: _Stand) -> str:
        """Connect to another host; the line to print if that fails, else an empty one."""
        try:
            with socket.create_connection((other.address, other.port), REACH_SECONDS):
                return ""
        except OSError as error:
            return (
                f"host {own} does not reach host {other}: {error.strerror or error}. Open TCP between these "
                f"hosts at all ports, or name an interface of a network that joins them in {GLOO} (on GPUs "
                f"{NCCL} too), on each host."
            )

    with ThreadPoolExecutor(_THREADS) as pool:
        problems = list(filter(None, pool.map(problem_with, others)))
    more = f" ({len(problems)} hosts in all.)" if len(problems) > 1 else ""
    return problems[0] + more if problems else ""
