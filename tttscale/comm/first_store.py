"""The store through which the ranks of a job meet: rank 0 listens, the others come.

torch's way there retries for half an hour whatever the reason, waits without end for a program that does not
answer, and listens at all addresses of a host.
"""

import errno
import os
import queue
import socket
import sys
import threading
import time
from datetime import timedelta

from torch.distributed import Store, TCPStore  # pyright: ignore[reportPrivateImportUsage]

from tttscale.cluster.ranks import Ranks
from tttscale.comm.interfaces import ALL, LOOPBACK, Route, listening_address, own_addresses
from tttscale.errors import LaunchError
from tttscale.scrub import scrubbed

RESOLVE_SECONDS = 20.0
"""How long a name may be unknown; a container's is, just after it starts."""
ANSWER_SECONDS = 30.0
"""How long whatever listens at the port may take to answer as rank 0 does."""
NOTICE_SECONDS = 40.0
"""After this time a rank says what it waits for; it continues to wait."""
_RETRY_SECONDS = 0.2
_FIRST_LOOK_SECONDS, _LOOK_SECONDS = 0.01, 0.5


def open_store(ranks: Ranks, deadline: float) -> tuple[TCPStore, Route]:
    """Listen as rank 0, or connect to it.

    Args:
        ranks: who this process is.
        deadline: by `time.monotonic`, for rank 0 to listen.

    Returns:
        The store, and the way to its host.

    Raises:
        LaunchError: the port is taken, the host unknown, or what answers there is not rank 0.
    """
    if ranks.rank == 0 and not is_launchers():
        return _listen(ranks), Route("", "")
    return _call(ranks, deadline)


def is_launchers() -> bool:
    """Return whether torchrun's agent listens already: then it is the one that knows the port."""
    return os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"


def appeared(store: Store, keys: list[str], until: float) -> bool:
    """Look again and again whether a store has all these keys; its own `wait` prints when it times out.

    Args:
        store: as the ranks share it.
        keys: of it.
        until: by `time.monotonic`.

    Returns:
        Whether they came in time.
    """
    pause = _FIRST_LOOK_SECONDS
    while not store.check(keys):
        if time.monotonic() > until:
            return False
        time.sleep(pause)
        pause = min(2 * pause, _LOOK_SECONDS)
    return True


def this_rank(ranks: Ranks) -> str:
    """Name this process for people."""
    return f"rank {ranks.rank} on {socket.gethostname()}"


def place_of(ranks: Ranks) -> str:
    """Name the place where ranks meet."""
    return f"{ranks.master_addr}:{ranks.master_port}"


def first_line(error: Exception | str) -> str:
    """What a library says, without its address in memory, its hints and its frames."""
    text = (getattr(error, "strerror", None) or str(error)).strip()
    return (text.splitlines() or [type(error).__name__])[0][:200].rstrip(".")


def say(ranks: Ranks, line: str) -> None:
    """Print one line, once a host, or on each rank where hosts are not known."""
    unknown = ranks.local_world_size == ranks.world_size and not ranks.one_host
    if ranks.local_rank == 0 or unknown:
        print(scrubbed(line), file=sys.stderr, flush=True)


def _listen(ranks: Ranks) -> TCPStore:
    told = [] if ranks.one_host else _looked_up(ranks)
    own = {address for rows in own_addresses().values() for address in rows}
    address = listening_address(told, own, ranks.one_host or _is_loopbacks_name(ranks.master_addr))
    try:
        listener = _listener(address, ranks.master_port)
    except OSError as error:
        raise LaunchError(_why_not_listening(ranks, error)) from None
    try:
        store = TCPStore(
            address or LOOPBACK,
            ranks.master_port,
            ranks.world_size,
            is_master=True,
            timeout=timedelta(seconds=ANSWER_SECONDS),
            wait_for_workers=False,
            master_listen_fd=listener.detach(),
        )
    except RuntimeError as error:
        raise LaunchError(
            f"{this_rank(ranks)} cannot reach its own port {ranks.master_port} at {address or LOOPBACK}: "
            f"{first_line(error)}. Is it closed by a firewall? Set MASTER_PORT to one that is open."
        ) from None
    if address == ALL and told and not own.intersection(told):
        _check_forwarding(ranks)
    return store


def _is_loopbacks_name(name: str) -> bool:
    """Whether ranks of other hosts cannot be meant, whatever a hosts file says of this host's own name."""
    return name in ("localhost", LOOPBACK)


def _listener(address: str, port: int) -> socket.socket:
    if address:
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        return socket.create_server((address, port), family=family, backlog=4096)
    dual = socket.has_dualstack_ipv6()
    family = socket.AF_INET6 if dual else socket.AF_INET
    return socket.create_server((ALL, port), family=family, dualstack_ipv6=dual, backlog=4096)


def _why_not_listening(ranks: Ranks, error: OSError) -> str:
    where = f"{this_rank(ranks)} cannot listen at port {ranks.master_port}"
    if error.errno == errno.EADDRINUSE:
        return (
            f"{where} (MASTER_PORT): another job or program has taken it. Set MASTER_PORT to a free port, "
            "the same on all ranks, or end the other job."
        )
    if error.errno == errno.EACCES:
        return f"{where}: permission denied. Set MASTER_PORT to a port above 1023."
    return f"{where} of MASTER_ADDR={ranks.master_addr}: {first_line(error)}."


def _check_forwarding(ranks: Ranks) -> None:
    """MASTER_ADDR is no address of this host; it may still lead here, as a service's does."""
    until = time.monotonic() + ANSWER_SECONDS
    try:
        _connect(ranks, ranks.master_addr, until)
    except OSError as error:
        raise LaunchError(
            f"{this_rank(ranks)} is not reached as MASTER_ADDR={ranks.master_addr}, which is no address of "
            f"this host: {first_line(error)}. Set MASTER_ADDR to a name or an address of rank 0's own host."
        ) from None


def _looked_up(ranks: Ranks) -> list[str]:
    """All addresses that MASTER_ADDR stands for on this host, numeric."""
    try:
        rows = socket.getaddrinfo(ranks.master_addr, ranks.master_port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        return []
    return [str(row[4][0]) for row in rows]


def _call(ranks: Ranks, deadline: float) -> tuple[TCPStore, Route]:
    """Wait until rank 0 listens; torch would print a traceback at every attempt."""
    host = LOOPBACK if ranks.one_host and not is_launchers() else _resolved(ranks)
    try:
        route = _connect(ranks, host, deadline)
    except OSError as error:
        raise LaunchError(_nobody(ranks, error)) from None
    return _joined(ranks, route), route


def _connect(ranks: Ranks, host: str, deadline: float) -> Route:
    """Try until a program listens; what is found there is the caller's to judge.

    Raises:
        OSError: nobody did until the deadline.
    """
    notice = time.monotonic() + NOTICE_SECONDS
    while True:
        try:
            with socket.create_connection((host, ranks.master_port), ANSWER_SECONDS) as found:
                return Route(str(found.getsockname()[0]), str(found.getpeername()[0]))
        except OSError as error:
            if time.monotonic() > deadline:
                raise
            if time.monotonic() > notice:
                say(ranks, f"{_nobody(ranks, error)} Still waiting.")
                notice = float("inf")
        time.sleep(_RETRY_SECONDS)


def _nobody(ranks: Ranks, error: OSError) -> str:
    return (
        f"{this_rank(ranks)}{_leaving_by(ranks)} reaches nobody at {place_of(ranks)}: {first_line(error)}. "
        "Is rank 0 started there, MASTER_ADDR the same address of its host on all hosts, and MASTER_PORT the "
        "same on all ranks and open between the hosts?"
    )


def _leaving_by(ranks: Ranks) -> str:
    """The interface that leads to MASTER_ADDR; a UDP socket finds its own address and sends nothing."""
    for address in _looked_up(ranks):
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        try:
            with socket.socket(family, socket.SOCK_DGRAM) as probe:
                probe.connect((address, ranks.master_port))
                own = str(probe.getsockname()[0])
        except OSError:
            continue
        names = [name for name, rows in own_addresses().items() if own in rows]
        return f" (interface {names[0]}, {own})" if names else f" ({own})"
    return ""


def _resolved(ranks: Ranks) -> str:
    """MASTER_ADDR once it is known; the loopback address if this host has, but does not know, that name."""
    until = time.monotonic() + RESOLVE_SECONDS
    while True:
        try:
            socket.getaddrinfo(ranks.master_addr, ranks.master_port, type=socket.SOCK_STREAM)
            return ranks.master_addr
        except (OSError, UnicodeError) as error:
            if ranks.master_addr == socket.gethostname():
                return LOOPBACK
            if time.monotonic() > until:
                raise LaunchError(
                    f"MASTER_ADDR={ranks.master_addr}: {this_rank(ranks)} knows no host of this name "
                    f"({first_line(error)}). Set MASTER_ADDR to a name or an address of rank 0's host that "
                    "all hosts know."
                ) from None
        time.sleep(_RETRY_SECONDS)


def _joined(ranks: Ranks, route: Route) -> TCPStore:
    """Connect to the store in a thread: torch waits without end for a program that never answers."""
    results: queue.Queue[TCPStore | RuntimeError] = queue.Queue()

    def join() -> None:
        """Connect, and leave the store or the error in the queue."""
        try:
            results.put(
                TCPStore(
                    route.master,
                    ranks.master_port,
                    ranks.world_size,
                    is_master=False,
                    timeout=timedelta(seconds=ANSWER_SECONDS),
                )
            )
        except RuntimeError as error:
            results.put(error)

    threading.Thread(target=join, name="first-store", daemon=True).start()
    try:
        # Half as long again: torch's own time-out, where it has one, knows the reason.
        found = results.get(timeout=1.5 * ANSWER_SECONDS)
    except queue.Empty:
        found = RuntimeError("it does not answer")
    if isinstance(found, RuntimeError):
        raise LaunchError(not_rank_0(ranks, found))
    return found


def not_rank_0(ranks: Ranks, error: Exception | str) -> str:
    """Say that another program listens where rank 0 should."""
    return (
        f"{this_rank(ranks)} reaches something at {place_of(ranks)} that is not rank 0 of a job "
        f"({first_line(error)}). Set MASTER_PORT to a free port, the same on all ranks."
    )
