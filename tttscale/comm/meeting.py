"""How the ranks of a job find each other: at a port of rank 0, or at the launcher's own.

torch's way there retries for half an hour whatever the reason, and says it with a traceback. Here each way in
which a start can fail is one error that names the host, the port and what to do.
"""

import errno
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

from torch.distributed import PrefixStore, Store, TCPStore  # pyright: ignore[reportPrivateImportUsage]

from tttscale.cluster.ranks import Ranks
from tttscale.errors import LaunchError

RESOLVE_SECONDS = 20.0
"""How long a name may be unknown; a container's is, just after it starts."""
ANSWER_SECONDS = 30.0
"""How long whatever listens at the port may take to answer as rank 0 does."""
_RETRY_SECONDS = 0.2
_SHOWN = 8


def meet(ranks: Ranks, timeout: timedelta) -> Store:
    """Wait until all ranks are there; what they exchange addresses through.

    Args:
        ranks: who this process is.
        timeout: for the last of them to come.

    Raises:
        LaunchError: the port is taken, the host unknown or silent, ranks are missing or there twice, or they
            were started as different jobs.
    """
    deadline = time.monotonic() + timeout.total_seconds()
    _resolve(ranks)
    # torchrun's agent listens already, where it is the one that knows the port.
    listens = ranks.rank == 0 and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True"
    plain = _listen(ranks) if listens else _call(ranks, deadline)
    plain.set_timeout(timeout)
    # A launcher that starts the ranks again may keep its store.
    attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    store = PrefixStore(f"tttscale/{attempt}", plain)
    with _one_error(ranks, "lost the place where ranks meet"):
        _compare(ranks, store)
        _await_all(ranks, store, deadline)
    return store


@contextmanager
def connecting(ranks: Ranks) -> Iterator[None]:
    """What torch.distributed raises inside, while it connects ranks that have met, is a LaunchError.

    Raises:
        LaunchError: in its place.
    """
    with _one_error(ranks, "cannot connect to the other ranks, which it had met", hint=True):
        yield


@contextmanager
def _one_error(ranks: Ranks, what: str, hint: bool = False) -> Iterator[None]:
    try:
        yield
    except (RuntimeError, ValueError) as error:
        more = (
            " If no rank has failed before, ranks of other hosts are not reached: name the network in "
            "GLOO_SOCKET_IFNAME (on GPUs NCCL_SOCKET_IFNAME too)."
        )
        raise LaunchError(
            f"{_this(ranks)} {what}, at {_place(ranks)}: {_first_line(error)}.{more * hint}"
        ) from None


def _resolve(ranks: Ranks) -> None:
    until = time.monotonic() + RESOLVE_SECONDS
    while True:
        try:
            socket.getaddrinfo(ranks.master_addr, ranks.master_port, type=socket.SOCK_STREAM)
            return
        except (OSError, UnicodeError) as error:
            if time.monotonic() > until:
                raise LaunchError(
                    f"MASTER_ADDR={ranks.master_addr}: {_this(ranks)} knows no host of this name "
                    f"({_first_line(error)}). Set MASTER_ADDR to a name or an address of rank 0's host that "
                    "all hosts know."
                ) from None
        time.sleep(_RETRY_SECONDS)


def _listen(ranks: Ranks) -> TCPStore:
    try:
        return TCPStore(
            ranks.master_addr,
            ranks.master_port,
            ranks.world_size,
            is_master=True,
            timeout=timedelta(seconds=ANSWER_SECONDS),
            wait_for_workers=False,
        )
    except RuntimeError as error:
        raise LaunchError(_why_not_listening(ranks, error)) from None


def _why_not_listening(ranks: Ranks, error: Exception) -> str:
    where = f"{_this(ranks)} cannot listen at port {ranks.master_port}"
    if errno.errorcode[errno.EADDRINUSE] in str(error):
        return (
            f"{where} (MASTER_PORT): another job or program has taken it. Set MASTER_PORT to a free port, "
            "the same on all ranks, or end the other job."
        )
    if errno.errorcode[errno.EACCES] in str(error):
        return f"{where}: permission denied. Set MASTER_PORT to a port above 1023."
    return (
        f"{where}, or is not reached there as MASTER_ADDR={ranks.master_addr}: {_first_line(error)}. Set "
        "MASTER_ADDR to a name or an address of rank 0's own host."
    )


def _call(ranks: Ranks, deadline: float) -> TCPStore:
    """Wait until rank 0 listens; torch would print a traceback at every attempt."""
    while True:
        try:
            with socket.create_connection((ranks.master_addr, ranks.master_port), ANSWER_SECONDS):
                break
        except OSError as error:
            if time.monotonic() > deadline:
                raise LaunchError(
                    f"{_this(ranks)} reaches nobody at {_place(ranks)}: {_first_line(error)}. Is rank 0 "
                    "started there, MASTER_ADDR its host, and MASTER_PORT the same on all ranks and open "
                    "between the hosts?"
                ) from None
        time.sleep(_RETRY_SECONDS)
    try:
        return TCPStore(
            ranks.master_addr,
            ranks.master_port,
            ranks.world_size,
            is_master=False,
            timeout=timedelta(seconds=ANSWER_SECONDS),
        )
    except RuntimeError as error:
        raise LaunchError(
            f"{_this(ranks)} reaches something at {_place(ranks)} that is not rank 0 of a job "
            f"({_first_line(error)}). Set MASTER_PORT to a free port, the same on all ranks."
        ) from None


def _compare(ranks: Ranks, store: Store) -> None:
    """Rank 0 says what it was started as; another job's ranks may have come to the same port."""
    if ranks.rank == 0:
        store.set("world_size", str(ranks.world_size))
    expected = int(store.get("world_size"))
    if ranks.world_size != expected:
        raise LaunchError(
            f"{_this(ranks)} was started as one of WORLD_SIZE={ranks.world_size} processes, rank 0 at "
            f"{_place(ranks)} as one of {expected}. Start all ranks with one command; if these are two jobs, "
            "set another MASTER_PORT for one of them."
        )
    if store.add(f"count/{ranks.rank}", 1) > 1:
        raise LaunchError(
            f"{_this(ranks)}: there is another rank {ranks.rank} at {_place(ranks)}. Give each process a "
            "RANK of its own from 0 to WORLD_SIZE - 1; if these are two jobs, set another MASTER_PORT for "
            "one of them."
        )


def _await_all(ranks: Ranks, store: Store, deadline: float) -> None:
    keys = {rank: f"here/{rank}" for rank in range(ranks.world_size)}
    store.set(keys[ranks.rank], "")
    left = timedelta(seconds=max(1.0, deadline - time.monotonic()))
    try:
        store.wait(list(keys.values()), left)
    except RuntimeError:
        missing = [rank for rank, key in keys.items() if not store.check([key])]
        if not missing:
            return
        listed = ", ".join(map(str, missing[:_SHOWN])) + ", ..." * (len(missing) > _SHOWN)
        raise LaunchError(
            f"{len(missing)} of {ranks.world_size} ranks have not come to {_place(ranks)} within "
            f"{left.total_seconds() / 60:.3g} minutes: {listed}. Look at what these ranks have printed, or "
            f"start as many as WORLD_SIZE={ranks.world_size} says."
        ) from None


def _this(ranks: Ranks) -> str:
    return f"rank {ranks.rank} on {socket.gethostname()}"


def _place(ranks: Ranks) -> str:
    return f"{ranks.master_addr}:{ranks.master_port}"


def _first_line(error: Exception) -> str:
    """What a library says, without its address in memory, its hints and its frames."""
    text = (getattr(error, "strerror", None) or str(error)).strip()
    return (text.splitlines() or [type(error).__name__])[0][:200].rstrip(".")
