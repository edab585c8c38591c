"""What is known of a link between neighbours, and which links are slow."""

import statistics
from collections.abc import Iterator
from typing import NamedTuple

from tttscale.doctor.findings import Finding, warning
from tttscale.observe import human

SLOW_SECONDS, SLOW_BYTES_PER_SECOND = 5e-3, 1e8
LARGE_BYTES = 1 << 20
"""From this size on a rate says more than a latency."""
_OUTLIER = 4


class Link(NamedTuple):
    """One direction between two neighbours."""

    source: int
    """World rank."""
    target: int
    bytes: int
    """Size of the larger message."""
    latency_seconds: float
    """One way, of a message of one number."""
    bytes_per_second: float
    """At this size, so of a small message mostly its latency."""
    transport: str
    """gloo, nccl or mpi."""


def slow_links(links: list[Link], hosts: list[str]) -> Iterator[Finding]:
    """Links that are slow, or much slower than the others of their kind.

    Args:
        links: of all ranks.
        hosts: by rank.
    """
    kinds: dict[tuple[bool, str], list[Link]] = {}
    for link in links:
        inside = hosts[link.source] == hosts[link.target]
        kinds.setdefault((inside, link.transport), []).append(link)
    for (inside, transport), kind in kinds.items():
        usual = statistics.median(link.bytes_per_second for link in kind)
        for link in kind:
            outlier = len(kind) > 2 and link.bytes_per_second * _OUTLIER < usual
            large = link.bytes >= LARGE_BYTES
            slow = link.latency_seconds > SLOW_SECONDS or (
                large and link.bytes_per_second < SLOW_BYTES_PER_SECOND
            )
            if outlier or slow:
                others = f"; the others of its kind {human(usual)}B/s" * outlier
                yield warning(
                    f"rank {link.source} -> {link.target} ({hosts[link.source]} -> {hosts[link.target]}) "
                    f"over {transport}: {describe(link)}{others}",
                    "Are cores shared by more ranks or programs than there are cores?"
                    if inside
                    else "Is this the fast network? GLOO_SOCKET_IFNAME (on GPUs NCCL_SOCKET_IFNAME) names "
                    "another interface",
                )


def describe(link: Link) -> str:
    """Write what was measured."""
    return (
        f"{1e3 * link.latency_seconds:.3g} ms, {human(link.bytes_per_second)}B/s "
        f"at {human(link.bytes, 1024)}B"
    )
