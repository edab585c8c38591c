"""How the state enters and leaves a chunk whose rows are scanned as packed documents.

Segments that begin with the chunk receive the state that the chunk before has sent, unless a document starts
there; segments that end with it send theirs to the chunk after. Gradients travel the other way. A neighbour
sees one state of all B rows, however they are packed. Scans that need no state from the left run first and
send what they have, before anything waits for the left.
"""

from dataclasses import dataclass

import torch

from tttscale.kernels.scan import StateHooks
from tttscale.model.packing import PackedRows
from tttscale.model.ports import CarryPort, Part


class StateExchange:
    """The states and gradients of one layer on their way into and out of the scans of one chunk.

    It lives as long as the graph of the scans, so it keeps no tensor longer than it has to.
    """

    def __init__(self, port: CarryPort, initial: Part, rows: int) -> None:
        """Receive nothing yet.

        Args:
            port: where the state enters and leaves the chunk.
            initial: [1, H, ...], the state in which documents begin.
            rows: B.
        """
        self.port, self._initial, self._rows = port, initial, rows
        self._asked, self.has_left = False, False
        self._received: Part | None = None
        self._states: dict[int, Part] = {}
        """By row, until all have come and are sent."""
        self._grads: dict[int, Part] = {}
        """By row, until all have come and are sent."""
        self._grad: Part | None = None
        self._grad_rows = rows
        """Rows whose final state's gradient no scan has taken yet."""

    def recv_state(self, packed: PackedRows) -> Part:
        """The state in front of each segment, [segments, H, ...]; waits for the left if one continues."""
        continuing = [s.row for s in packed.segments if s.continues]
        received = self._receive() if continuing else None
        if received is None:
            continuing = []
        fresh = len(packed.segments) - len(continuing)
        start = tuple(w.expand(fresh, *w.shape[1:]) for w in self._initial)
        if received is None:
            return start
        if not fresh and continuing == list(range(self._rows)):
            return received
        return tuple(
            torch.cat([*(r[row : row + 1] for row in continuing), w.to(r.dtype)])
            for r, w in zip(received, start, strict=True)
        )

    def finish_forward(self) -> None:
        """All scans are done: receive what came from the left even if no segment continues, and drop it."""
        self._receive()
        self._received = None

    def _receive(self) -> Part | None:
        if not self._asked:
            self._received, self._asked = self.port.recv_state(), True
            self.has_left = self._received is not None
        return self._received

    def hooks(self, packed: PackedRows) -> StateHooks | None:
        """For the kernel's scan of these segments; None if none of them touches a boundary."""
        begins = any(s.first for s in packed.segments)
        ends = any(s.last for s in packed.segments)
        return _ScanHooks(self, packed, begins, ends) if begins or ends else None

    def send_state(self, packed: PackedRows, state: Part) -> None:
        """Send the state of all rows once their last segments are there."""
        if _is_rows(packed, self._rows):
            return self.port.send_state(state)
        for i, segment in enumerate(packed.segments):
            if segment.last:
                self._states[segment.row] = tuple(s[i] for s in state)
        if len(self._states) == self._rows:
            self.port.send_state(_in_rows(self._states))
            self._states.clear()

    def recv_grad(self, packed: PackedRows) -> Part | None:
        """The gradient of the state that was sent, [segments, H, ...]; None where a sequence ends."""
        last = [(i, s.row) for i, s in enumerate(packed.segments) if s.last]
        if self._grad_rows == self._rows:
            self._grad = self.port.recv_grad()
        grad = self._grad
        self._grad_rows -= len(last)
        if self._grad_rows == 0:
            self._grad = None
        if grad is None or _is_rows(packed, self._rows):
            return grad
        found = tuple(g.new_zeros(len(packed.segments), *g.shape[1:]) for g in grad)
        for tensor, g in zip(found, grad, strict=True):
            for i, row in last:
                tensor[i] = g[row]
        return found

    def send_grad(self, packed: PackedRows, grad: Part) -> None:
        """Send the gradient of the state that was received once all rows' first segments are there."""
        if _is_rows(packed, self._rows) and all(s.continues for s in packed.segments):
            return self.port.send_grad(grad)
        for i, segment in enumerate(packed.segments):
            if segment.first:
                # Rows in which a document starts here did not use what was received.
                row = tuple(g[i] if segment.continues else torch.zeros_like(g[i]) for g in grad)
                self._grads[segment.row] = row
        if len(self._grads) == self._rows:
            self.port.send_grad(_in_rows(self._grads))
            self._grads.clear()


@dataclass
class _ScanHooks:
    """`kernels.scan.StateHooks` of one scan."""

    exchange: StateExchange
    packed: PackedRows
    begins: bool
    ends: bool

    @property
    def peer_waits_for_state(self) -> bool:
        """Only segments that end with the chunk have a chunk after them."""
        return self.ends and self.exchange.port.peer_waits_for_state

    @property
    def peer_waits_for_grad(self) -> bool:
        """Read in the backward, when it is known whether a state was received."""
        return (self.ends or self.exchange.has_left) and self.exchange.port.peer_waits_for_grad

    def send_state(self, state: Part) -> None:
        """Send the states of the last segments."""
        if self.ends:
            self.exchange.send_state(self.packed, state)

    def recv_grad(self) -> Part | None:
        """Receive the gradients of the last segments' states."""
        return self.exchange.recv_grad(self.packed) if self.ends else None

    def send_grad(self, grad: Part) -> None:
        """Send the gradients of the first segments' states."""
        if self.begins and self.exchange.has_left:
            self.exchange.send_grad(self.packed, grad)


def _is_rows(packed: PackedRows, rows: int) -> bool:
    """Whether the segments are the chunk's rows, whole and in order."""
    return [s.row for s in packed.segments if s.first and s.last] == list(range(rows))


def _in_rows(parts: dict[int, Part]) -> Part:
    """[B, H, ...] from each row's."""
    return tuple(
        torch.stack(column) for column in zip(*(parts[row] for row in sorted(parts)), strict=True)
    )
