"""Which network interface a host's ranks use: the one that leads to rank 0's host.

torch would look up the host's own name instead, which is 127.0.1.1 on Debian and Ubuntu as they are
installed, and unknown on other hosts. Here no name of a host but MASTER_ADDR counts. A rank of another host
knows its own address from its connection to rank 0, and the address under which it reached rank 0; the ranks
of rank 0's host take the latter for theirs.
"""

import ipaddress
import socket
from collections.abc import Collection, Mapping, MutableMapping, Sequence
from dataclasses import dataclass

import psutil

from tttscale.errors import LaunchError

GLOO, NCCL = "GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME"
LOOPBACK = "127.0.0.1"
ALL = ""
"""Listen at every address of the host."""


@dataclass(frozen=True)
class Route:
    """The two ends of a rank's connection to rank 0's host, numeric; both empty on rank 0 if it listens."""

    own: str
    master: str

    @property
    def is_remote(self) -> bool:
        """Whether this rank is on another host than the one it reached."""
        return bool(self.own) and self.own != self.master and not is_loopback(self.own)


@dataclass(frozen=True)
class Interface:
    """A network interface of this host, and the address at which other hosts reach it."""

    name: str
    address: str


def is_loopback(address: str) -> bool:
    """Return whether a numeric address is of 127.0.0.0/8 or ::1."""
    return ipaddress.ip_address(address).is_loopback


def own_addresses() -> dict[str, list[str]]:
    """Read the numeric IPv4 and IPv6 addresses of each interface of this host; no link-local ones."""
    families = (socket.AF_INET, socket.AF_INET6)
    return {
        name: [a.address for a in rows if a.family in families and "%" not in a.address]
        for name, rows in psutil.net_if_addrs().items()
    }


def listening_address(told: Sequence[str], own: Collection[str], one_host: bool) -> str:
    """Choose where rank 0 waits for the others: at the one address that the job uses, where it knows it.

    Args:
        told: what MASTER_ADDR stands for on rank 0's host, numeric; empty if the host does not know the name.
        own: all addresses of the host.
        one_host: all ranks are on this host.

    Returns:
        An address, or `ALL`: the name leads to the loopback interface only (Debian's 127.0.1.1), nowhere, or
        to an address that some other machine hands on to this one.
    """
    if one_host:
        return LOOPBACK
    return next((address for address in told if address in own and not is_loopback(address)), ALL)


def master_address(routes: Sequence[Route]) -> str:
    """Find under which address other hosts reach rank 0's; empty if all ranks are on one host.

    Args:
        routes: of all ranks, in rank order; the first rank of another host decides.
    """
    return next((route.master for route in routes if route.is_remote), "")


def interface_for(
    address: str, interfaces: Mapping[str, Sequence[str]], environ: Mapping[str, str]
) -> Interface:
    """Choose the interface that has `address`, unless the user has named another one for gloo.

    Args:
        address: this host's, as `Route` found it; numeric.
        interfaces: addresses by name, as `own_addresses` gives them.
        environ: where GLOO_SOCKET_IFNAME may be set; the first of several names counts.

    Raises:
        LaunchError: the user's interface does not exist or has no address, or none has `address`.
    """
    host = socket.gethostname()
    listed = ", ".join(f"{name} {rows[0]}" for name, rows in interfaces.items() if rows)
    asked = environ.get(GLOO, "").split(",")[0].strip()
    if asked:
        if interfaces.get(asked):
            rows = interfaces[asked]
            return Interface(asked, address if address in rows else rows[0])
        raise LaunchError(
            f"{GLOO}={asked}: host {host} has no interface of this name with an address; it has {listed}. "
            f"Set {GLOO} to one of them on this host, or unset it."
        )
    name = next((name for name, rows in interfaces.items() if address in rows), None)
    if name is None:
        raise LaunchError(
            f"host {host} is reached as {address}, which none of its interfaces has: {listed}. Name the one "
            f"that the other hosts reach in {GLOO} (on GPUs {NCCL} too), on this host."
        )
    return Interface(name, address)


def use_interface(interface: Interface, environ: MutableMapping[str, str]) -> None:
    """Tell gloo and NCCL, unless the user has told them."""
    environ.setdefault(GLOO, interface.name)
    # Without the sign NCCL would take every interface whose name begins so.
    environ.setdefault(NCCL, f"={interface.name}")
