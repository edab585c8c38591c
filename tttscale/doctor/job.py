"""What only all ranks together can say: where they are, whether they are alike, how they reach each other."""

import os
import socket
from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import Any, NamedTuple

import psutil

from tttscale.cluster.ranks import Ranks
from tttscale.doctor.findings import Finding, ok, problem, warning

_FAR_SECONDS = 0.5
_SAME = ("tttscale", "commit", "torch", "triton", "deepspeed")
"""Versions that must not differ; another Python is only worth a word."""
_SHOWN = 8


class Place(NamedTuple):
    """Where a rank is."""

    rank: int
    host: str
    local_rank: int
    device: str
    address: str
    interface: str


def place(ranks: Ranks, device: str) -> Place:
    """Where this rank is, and from which address it reaches rank 0."""
    address = _own_address(ranks)
    interface = os.environ.get("GLOO_SOCKET_IFNAME") or _interface(address)
    if address.startswith("127."):  # on rank 0's host, whose own name may stand for loopback
        named = psutil.net_if_addrs().get(interface, [])
        address = next((a.address for a in named if a.family == socket.AF_INET), address)
    return Place(ranks.rank, socket.gethostname(), ranks.local_rank, device, address, interface)


def launch(ranks: Ranks, places: list[Place]) -> Iterator[Finding]:
    """Who started the job, and whether hosts and local ranks make sense."""
    started = {
        "environment": "RANK and WORLD_SIZE (torchrun, deepspeed)",
        "openmpi": "Open MPI",
        "pmi": "MPICH or of its kind",
        "slurm": "srun",
    }
    hosts = list(dict.fromkeys(place.host for place in places))
    yield ok(
        f"{len(places)} rank(s) on {len(hosts)} host(s), by {started.get(ranks.source, 'no launcher')}"
    )
    for host in hosts:
        local = [place.local_rank for place in places if place.host == host]
        if len(set(local)) < len(local):
            yield problem(
                f"{host} has two ranks with the same local rank: they would share a GPU",
                "Have hosts the same name, or was LOCAL_RANK set by hand? Give hosts names of their own",
            )


def differences(rows: list[Mapping[str, str]]) -> Iterator[Finding]:
    """Versions that are not the same on all ranks.

    Args:
        rows: of each rank, versions by name.
    """
    different = False
    for name in rows[0]:
        by_version: dict[str, list[int]] = {}
        for rank, row in enumerate(rows):
            by_version.setdefault(row.get(name, "none"), []).append(rank)
        if len(by_version) == 1:
            continue
        different = True
        shown = "; ".join(
            f"{version} on ranks {_few(ranks)}" for version, ranks in by_version.items()
        )
        if name in _SAME:
            yield problem(
                f"{name} differs between ranks: {shown}",
                "Use one environment and one checkout for all, on a shared disk or installed from the same "
                "constraints.txt",
            )
        else:
            yield warning(f"{name} differs between ranks: {shown}", "Use one environment for all")
    if not different:
        yield ok(f"all ranks have the same {', '.join(rows[0])}")


def clocks(offsets: list[float], hosts: list[str]) -> Iterator[Finding]:
    """Clocks that are apart.

    Args:
        offsets: seconds ahead of rank 0's, by rank.
        hosts: by rank.
    """
    furthest: dict[str, float] = {}
    for host, offset in zip(hosts, offsets, strict=True):
        furthest[host] = max(furthest.get(host, 0.0), offset, key=abs)
    far = {host: offset for host, offset in furthest.items() if abs(offset) > _FAR_SECONDS}
    if not far:
        most = max(map(abs, offsets), default=0.0)
        yield ok(f"clocks agree within {max(most, 1e-6) * 1e3:.2g} ms")
    for host, offset in far.items():
        yield warning(
            f"the clock of {host} is {offset:+.2f} s off rank 0's: its logs tell other times",
            "Start a time service (chrony, systemd-timesyncd) on all hosts",
        )


def table(places: list[Place]) -> Iterator[str]:
    """The ranks in aligned columns."""
    rows: list[tuple[Any, ...]] = [Place._fields, *places]
    widths = [max(len(str(row[i])) for row in rows) for i in range(len(Place._fields))]
    for row in rows:
        cells = (
            str(value).replace("_", " ").ljust(width)
            for value, width in zip(row, widths, strict=True)
        )
        yield "  ".join(cells).rstrip()


def _few(ranks: list[int]) -> str:
    shown = ", ".join(map(str, ranks[:_SHOWN]))
    return f"{shown} and {len(ranks) - _SHOWN} more" if len(ranks) > _SHOWN else shown


def _own_address(ranks: Ranks) -> str:
    """The address from which packets to rank 0 leave; none is sent."""
    with suppress(OSError):
        family, kind, _, _, address = socket.getaddrinfo(
            ranks.master_addr, ranks.master_port, type=socket.SOCK_DGRAM
        )[0]
        with socket.socket(family, kind) as probe:
            probe.connect(address)
            return probe.getsockname()[0]
    return "unknown"


def _interface(address: str) -> str:
    for name, addresses in psutil.net_if_addrs().items():
        if any(found.address.partition("%")[0] == address for found in addresses):
            return name
    # All of 127.0.0.0/8 is loopback's.
    return "lo" if address.startswith("127.") else "unknown"
