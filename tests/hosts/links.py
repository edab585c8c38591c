"""Links that are slow or late, and what crosses them."""

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch

from tests.hosts.lab import Host, Lab
from tttscale.config.schema import Config
from tttscale.scan.carry import CarryLayout
from tttscale.scan.carry_store import boundary_bytes
from tttscale.train.build import build_model


class Link(NamedTuple):
    """How two hosts are joined."""

    mbit_per_second: int | None
    """None: as fast as the kernel is."""
    delay_seconds: float = 0.0
    """Each way."""


@contextmanager
def joined(lab: Lab, link: Link) -> Iterator[None]:
    """Give the two hosts of a lab such a link."""
    hosts = list(lab.hosts.values())
    if link.mbit_per_second is not None:
        for host in hosts:
            shape = f"tbf rate {link.mbit_per_second}mbit burst 128kb latency 200ms"
            host.do(f"tc qdisc replace dev eth0 root {shape}")
    if not link.delay_seconds:
        yield
        return
    ports = [f"v0-{host.number}" for host in hosts]
    for host, port in zip(hosts, ports, strict=True):
        lab.switch.do(f"ip link set {port} nomaster; ip link set {port} promisc on")
        # There is no card behind the wire that would add checksums or cut long frames.
        host.do("ethtool -K eth0 tx off tso off gso off gro off >/dev/null")
    program = Path(__file__).with_name("wire.py")
    words = lab.switch.words(sys.executable, program, *ports, link.delay_seconds)
    wire = subprocess.Popen(words, stdout=subprocess.PIPE, text=True)
    try:
        assert wire.stdout is not None
        assert wire.stdout.readline() == "carries\n"
        yield
    finally:
        wire.kill()
        wire.wait()


def sent_bytes(host: Host) -> int:
    """Bytes that a host has sent at eth0 so far."""
    (found,) = json.loads(host.do("ip -s -j link show eth0"))
    return found["stats64"]["tx"]["bytes"]


def crossing_bytes(config: dict[str, Any]) -> int:
    """Bytes of carries and of their gradients that cross between two ranks in a step, both ways together."""
    checked = Config.model_validate(config)
    chunk = checked.parallel.chunk_length
    model = build_model(checked, torch.device("cpu"))
    carry = CarryLayout(model.carry_layers, 1, chunk, torch.float32)
    chunks = checked.data.sequence_length // chunk
    striped = checked.parallel.layout == "striped"
    crossed = range(chunks - 1) if striped else [chunks // 2 - 1]
    return 2 * sum(boundary_bytes(carry, boundary) for boundary in crossed)
