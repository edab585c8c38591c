"""How the state crosses a chunk's edges, when its rows are scanned as stacks of documents.

Pieces that begin with the chunk take the state that the chunk before has left, unless a document starts
there; pieces that end with it leave theirs for the chunk after. Gradients go the other way. A neighbour sees
one state of all B rows, whatever stacks they come from. What needs no state from the left is scanned, and
its own sent on, before the left is waited for.
"""

from dataclasses import dataclass

import torch

from tttscale.kernels.scan import Handoff
from tttscale.model.chunk import Edge, Part
from tttscale.model.documents import Stack


class Crossing:
    """One layer's states and gradients on their way into and out of one chunk's stacks.

    It lives as long as the graph of the scans, so it keeps no tensor longer than it has to.
    """

    def __init__(self, edge: Edge, initial: Part, rows: int) -> None:
        """Nothing is received yet.

        Args:
            edge: the state's way in and out.
            initial: [1, H, ...], in which documents begin.
            rows: B.
        """
        self.edge, self._initial, self._rows = edge, initial, rows
        self._asked, self.has_left = False, False
        self._received: Part | None = None
        self._leaving: dict[int, Part] = {}
        self._returning: dict[int, Part] = {}
        self._grad: Part | None = None
        self._grad_rows = rows
        """Rows whose final state's gradient nobody has asked for yet."""

    def enter(self, stack: Stack) -> Part:
        """The state in front of each piece, [pieces, H, ...]; waits for the left only if one goes on."""
        goes_on = [p.row for p in stack.pieces if p.continues]
        received = self._receive() if goes_on else None
        if received is None:
            goes_on = []
        fresh = len(stack.pieces) - len(goes_on)
        start = tuple(w.expand(fresh, *w.shape[1:]) for w in self._initial)
        if received is None:
            return start
        if not fresh and goes_on == list(range(self._rows)):
            return received
        return tuple(
            torch.cat([*(r[row : row + 1] for row in goes_on), w.to(r.dtype)])
            for r, w in zip(received, start, strict=True)
        )

    def close(self) -> None:
        """All stacks are scanned: take what came from the left even if nobody wanted it, and let it go."""
        self._receive()
        self._received = None

    def _receive(self) -> Part | None:
        if not self._asked:
            self._received, self._asked = self.edge.receive(), True
            self.has_left = self._received is not None
        return self._received

    def handoff(self, stack: Stack) -> Handoff | None:
        """What the scan of a stack has to do with the chunk's edges; None if nothing."""
        begins = any(p.first for p in stack.pieces)
        ends = any(p.last for p in stack.pieces)
        return _StackHandoff(self, stack, begins, ends) if begins or ends else None

    def leave(self, stack: Stack, state: Part) -> None:
        """Send the state of all rows once their last pieces are there."""
        if _is_rows(stack, self._rows):
            return self.edge.send(state)
        for i, piece in enumerate(stack.pieces):
            if piece.last:
                self._leaving[piece.row] = tuple(s[i] for s in state)
        if len(self._leaving) == self._rows:
            self.edge.send(_in_rows(self._leaving))
            self._leaving.clear()

    def grad_of_final(self, stack: Stack) -> Part | None:
        """The gradient of what `leave` sent, [pieces, H, ...]; None where a sequence ends."""
        last = [(i, piece.row) for i, piece in enumerate(stack.pieces) if piece.last]
        if self._grad_rows == self._rows:
            self._grad = self.edge.receive_grad()
        grad = self._grad
        self._grad_rows -= len(last)
        if self._grad_rows == 0:
            self._grad = None
        if grad is None or _is_rows(stack, self._rows):
            return grad
        parts = tuple(g.new_zeros(len(stack.pieces), *g.shape[1:]) for g in grad)
        for part, g in zip(parts, grad, strict=True):
            for i, row in last:
                part[i] = g[row]
        return parts

    def give_back(self, stack: Stack, grad: Part) -> None:
        """Send the gradient of the state received once all rows' first pieces are there."""
        if _is_rows(stack, self._rows) and all(p.continues for p in stack.pieces):
            return self.edge.send_grad(grad)
        for i, piece in enumerate(stack.pieces):
            if piece.first:
                # Rows that began anew here did not use what came in.
                row = tuple(g[i] if piece.continues else torch.zeros_like(g[i]) for g in grad)
                self._returning[piece.row] = row
        if len(self._returning) == self._rows:
            self.edge.send_grad(_in_rows(self._returning))
            self._returning.clear()


@dataclass
class _StackHandoff:
    """`kernels.scan.Handoff` of one stack."""

    crossing: Crossing
    stack: Stack
    begins: bool
    ends: bool

    @property
    def state_awaited(self) -> bool:
        """Only last pieces have a neighbour behind them."""
        return self.ends and self.crossing.edge.state_awaited

    @property
    def grad_awaited(self) -> bool:
        """First and last pieces have neighbours. Asked in the backward, when the left is known."""
        return (self.ends or self.crossing.has_left) and self.crossing.edge.grad_awaited

    def state_ready(self, state: Part) -> None:
        """Leaves the last pieces' states."""
        if self.ends:
            self.crossing.leave(self.stack, state)

    def grad_wanted(self) -> Part | None:
        """The gradients of the last pieces' states."""
        return self.crossing.grad_of_final(self.stack) if self.ends else None

    def grad_ready(self, grad: Part) -> None:
        """Gives back those of the first pieces' states."""
        if self.begins and self.crossing.has_left:
            self.crossing.give_back(self.stack, grad)


def _is_rows(stack: Stack, rows: int) -> bool:
    """Whether the stack's pieces are the chunk's rows, whole and in order."""
    return [p.row for p in stack.pieces if p.first and p.last] == list(range(rows))


def _in_rows(parts: dict[int, Part]) -> Part:
    """[B, H, ...] from each row's."""
    return tuple(
        torch.stack(column) for column in zip(*(parts[row] for row in sorted(parts)), strict=True)
    )
