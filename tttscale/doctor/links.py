"""Latency and bandwidth of the links between neighbours, over the transport that carries would take."""

import time

import torch

from tttscale.comm.mesh import Mesh
from tttscale.doctor.link import Link
from tttscale.model.ports import Carried, Part
from tttscale.scan.carry_store import carried_bytes
from tttscale.scan.schedule import CarryKey, Phase
from tttscale.scan.transport import Transport

SMALL = Carried(((1,),), torch.float32)
DEFAULT = Carried(((1 << 19,),), torch.float32)
"""2 MiB, where no configuration says what a carry is."""
_SMALL_ROUNDS, _MOST_ROUNDS = 10, 8
_ENOUGH_SECONDS = 1.0


def measure(mesh: Mesh, carried: Carried, device: torch.device, name: str) -> Link | None:
    """Measure the link from this rank to the next one of its sequence; all ranks call this.

    Links that share a rank are measured one after the other, the others at the same time.

    Args:
        mesh: all ranks.
        carried: the message, such as the largest part of a carry.
        device: where it lies.
        name: of the transport.

    Returns:
        None if this rank has no neighbour.
    """
    transport, found = mesh.transport, None
    size, own = transport.size, transport.rank
    if size == 1:
        return None
    for turn in range(2 + size % 2):
        mesh.gather([0.0])  # all start a turn together
        if _turn(own, size) == turn:
            probe = _Probe(transport, (own + 1) % size, own, device)
            latency, seconds = probe.lead(carried)
            target, amount = mesh.rank - own + (own + 1) % size, carried_bytes(carried)
            found = Link(mesh.rank, target, amount, latency, amount / seconds, name)
        elif _turn((own - 1) % size, size) == turn:
            _Probe(transport, (own - 1) % size, (own - 1) % size, device).follow(carried)
    transport.flush()
    return found


def _turn(edge: int, size: int) -> int:
    """When the link from rank `edge` to the next one is measured: no rank has two at a time."""
    return 2 if size % 2 and edge == size - 1 else edge % 2


class _Probe:
    """One end of a link: messages go forward as states do, and come back as gradients do."""

    def __init__(self, transport: Transport, peer: int, edge: int, device: torch.device) -> None:
        self._transport, self._peer, self._device = transport, peer, device
        self._keys = {
            phase: CarryKey(phase, 0, edge, 0, "doctor")
            for phase in (Phase.FORWARD, Phase.BACKWARD)
        }

    def lead(self, carried: Carried) -> tuple[float, float]:
        """Seconds one way of a message of one number, and of `carried`."""
        small = self._filled(SMALL, 0.0)
        self._round(small)  # the first one is slower
        latency = min(self._round(small) for _ in range(_SMALL_ROUNDS)) / 2
        large = self._filled(carried, 0.0)
        first = self._round(large)
        rounds = min(_MOST_ROUNDS, int(_ENOUGH_SECONDS / max(first, 1e-9)))
        self._round(self._filled(SMALL, float(rounds)))
        trips = [self._round(large) for _ in range(rounds)] or [first]
        # The way back is a message of one number; on a busy host it may take longer than both did.
        return latency, max(min(trips) - latency, latency)

    def follow(self, carried: Carried) -> None:
        """Answer what `lead` sends."""
        for _ in range(_SMALL_ROUNDS + 1):
            self._answer(SMALL)
        self._answer(carried)
        for _ in range(int(self._answer(SMALL)[0].item())):
            self._answer(carried)

    def _round(self, part: Part) -> float:
        self._settle()
        begin = time.perf_counter()
        self._transport.isend(self._keys[Phase.FORWARD], self._peer, part)
        self._transport.irecv(self._keys[Phase.BACKWARD], self._peer, SMALL).wait()
        self._settle()
        return time.perf_counter() - begin

    def _answer(self, carried: Carried) -> Part:
        part = self._transport.irecv(self._keys[Phase.FORWARD], self._peer, carried).wait()
        self._settle()
        self._transport.isend(self._keys[Phase.BACKWARD], self._peer, self._filled(SMALL, 0.0))
        return part

    def _filled(self, carried: Carried, value: float) -> Part:
        return tuple(
            torch.full(shape, value, dtype=carried.dtype, device=self._device)
            for shape in carried.shapes
        )

    def _settle(self) -> None:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
