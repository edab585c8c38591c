"""How the ranks of a job find each other: at a port of rank 0, or at the launcher's own.

Each way in which a start can fail is one error that names the host, the port or interface, and what to do.
"""

import os
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta

from torch.distributed import PrefixStore, Store, TCPStore  # pyright: ignore[reportPrivateImportUsage]

from tttscale.cluster.job_secret import VARIABLE, JobSecret, job_secret
from tttscale.cluster.ranks import Ranks
from tttscale.comm import first_store
from tttscale.comm.first_store import (
    appeared,
    first_line,
    is_launchers,
    not_rank_0,
    open_store,
    place_of,
    say,
    this_rank,
)
from tttscale.comm.interfaces import Route
from tttscale.comm.reach import settle_interfaces
from tttscale.errors import LaunchError
from tttscale.supervise import page
from tttscale.supervise.page import Page
from tttscale.supervise.place import Place

_SHOWN = 8
_PREFIX_DIGITS = 32


def meet(ranks: Ranks, timeout: timedelta) -> Store:
    """Wait until all ranks are there; what they exchange addresses through.

    Where ranks are on several hosts, the network interface for gloo and NCCL is set in the environment.

    Args:
        ranks: who this process is.
        timeout: for the last of them to come.

    Raises:
        LaunchError: the port is taken, the host unknown or silent, ranks are missing or there twice, they
            were started as different jobs, or the hosts do not reach each other.
    """
    deadline = time.monotonic() + timeout.total_seconds()
    secret = job_secret(os.environ, ranks)
    plain, route = open_store(ranks, deadline)
    plain.set_timeout(timeout)
    with _one_error(ranks, "lost the place where ranks meet"):
        door = Door(ranks, plain, secret)
        store = door.enter(deadline)
        _share_hub(ranks, store, route)
        _compare(ranks, store)
        _await_all(ranks, store, deadline, door)
        settle_interfaces(ranks, store, route)
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
            f"{this_rank(ranks)} {what}, at {place_of(ranks)}: {first_line(error)}.{more * hint}"
        ) from None


class Door:
    """Keeps other jobs' ranks out: all keys of this job lie under a name that takes its secret to know.

    Rank 0 shows in the open that it knows the secret, so a rank of another job sees at once that it is wrong
    here, ends, and has touched no key of this job.
    """

    def __init__(self, ranks: Ranks, plain: TCPStore, secret: JobSecret) -> None:
        self._ranks, self._plain, self._secret = ranks, plain, secret
        # A launcher that starts the ranks again may keep its store.
        self._attempt = f"tttscale/{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}"
        self._shown, self._refused = f"{self._attempt}/rank 0", f"{self._attempt}/refused"

    def enter(self, deadline: float) -> Store:
        """Compare secrets with rank 0.

        Raises:
            LaunchError: another program than rank 0 listens, or that of another job.
        """
        if self._ranks.rank == 0:
            nonce = secrets.token_hex(16)
            proof = self._secret.sign(f"rank 0 {nonce}")
            self._plain.set(self._shown, f"{nonce} {proof} {self._secret.variable}")
        else:
            self._check(deadline)
        place = self._secret.sign("keys")[:_PREFIX_DIGITS]
        return PrefixStore(f"{self._attempt}/{place}", self._plain)

    def refused(self) -> str:
        """Say who was turned away last, as it told; empty if no one was."""
        if not self._plain.check([self._refused]):
            return ""
        who = first_line(self._plain.get(self._refused).decode(errors="replace"))
        return f" A process with another {VARIABLE}, or of another job, was turned away: {who}."

    def _check(self, deadline: float) -> None:
        seconds = 1.5 * first_store.ANSWER_SECONDS
        if is_launchers():  # its store is there before rank 0 is
            seconds = max(seconds, deadline - time.monotonic())
        try:
            shows = appeared(self._plain, [self._shown], time.monotonic() + seconds)
        except RuntimeError as error:
            raise LaunchError(not_rank_0(self._ranks, error)) from None
        if not shows:
            raise LaunchError(not_rank_0(self._ranks, "it does not greet as one does"))
        shown = self._plain.get(self._shown).decode(errors="replace")
        nonce, proof, variable = (*shown.split(" "), "", "", "")[:3]
        if self._secret.knows(f"rank 0 {nonce}", proof):
            return
        self._plain.set(self._refused, this_rank(self._ranks))
        own, theirs = self._secret.variable or "no variable", first_line(variable) or "no variable"
        raise LaunchError(
            f"{this_rank(self._ranks)} is turned away by rank 0 at {place_of(self._ranks)}: they do not "
            f"share the job's secret (here of {own}, there of {theirs}). Set the same {VARIABLE} on all "
            "ranks (the launcher may have to be told to hand it on), or, if these are two jobs, another "
            "MASTER_PORT for one of them."
        )


def _share_hub(ranks: Ranks, store: Store, route: Route) -> None:
    """Tell this rank's supervisor where rank 0's is; it comes before all that waits for other ranks.

    Args:
        ranks: who this process is.
        store: where rank 0 publishes it.
        route: how this rank reached the store.
    """
    if ranks.rank == 0:
        publish_hub(store, "" if Page.own is None else Page.own.text("hub"), route)
    elif text := published_hub(store, route):
        page.say("hub", text)


def publish_hub(store: Store, text: str, route: Route) -> None:
    """Say to all ranks where rank 0's supervisor is.

    Args:
        store: as `Door.enter` returned it.
        text: of a `Place`; empty if there is no supervisor.
        route: how rank 0 reached the store, which may be on another host.
    """
    store.set("hub", Place.of(text).with_addresses(route.own).text() if text else "")


def published_hub(store: Store, route: Route) -> str:
    """Return where rank 0's supervisor is, once rank 0 has said it; empty if there is none.

    Args:
        store: as `Door.enter` returned it.
        route: how this rank reached the store, which as a rule is on rank 0's host.
    """
    with suppress(ValueError):
        return Place.of(store.get("hub").decode()).with_addresses(route.master).text()
    return ""


def _compare(ranks: Ranks, store: Store) -> None:
    """Rank 0 says what it was started as; another job's ranks may have come to the same port."""
    if ranks.rank == 0:
        store.set("world_size", str(ranks.world_size))
    expected = int(store.get("world_size"))
    if ranks.world_size != expected:
        raise LaunchError(
            f"{this_rank(ranks)} was started as one of WORLD_SIZE={ranks.world_size} processes, rank 0 at "
            f"{place_of(ranks)} as one of {expected}. Start all ranks with one command; if these are two "
            "jobs, set another MASTER_PORT for one of them."
        )
    if store.add(f"count/{ranks.rank}", 1) > 1:
        raise LaunchError(
            f"{this_rank(ranks)}: there is another rank {ranks.rank} at {place_of(ranks)}. Give each process "
            "a RANK of its own from 0 to WORLD_SIZE - 1; if these are two jobs, set another MASTER_PORT for "
            "one of them."
        )


def _await_all(ranks: Ranks, store: Store, deadline: float, door: Door) -> None:
    keys = {rank: f"here/{rank}" for rank in range(ranks.world_size)}
    store.set(keys[ranks.rank], "")
    began = time.monotonic()
    left = max(1.0, deadline - began)
    # Rank 0 looks for all keys, the others for the one that it sets then.
    watched = list(keys.values()) if ranks.rank == 0 else ["all"]
    stops = [left] if left <= first_store.NOTICE_SECONDS else [first_store.NOTICE_SECONDS, left]
    for stop in stops:
        if appeared(store, watched, began + stop):
            store.set("all", "")
            return
        missing = [rank for rank, key in keys.items() if not store.check([key])]
        if not missing:
            return
        listed = ", ".join(map(str, missing[:_SHOWN])) + ", ..." * (len(missing) > _SHOWN)
        line = (
            f"{len(missing)} of {ranks.world_size} ranks have not come to {place_of(ranks)} within "
            f"{stop / 60:.3g} minutes: {listed}. Look at what these ranks have printed, or "
            f"start as many as WORLD_SIZE={ranks.world_size} says.{door.refused()}"
        )
        if stop == left:
            raise LaunchError(line)
        say(ranks, f"{this_rank(ranks)} waits: {line}")
