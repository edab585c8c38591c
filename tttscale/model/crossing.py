"""How the state crosses a chunk's edges, when its rows are scanned as stacks of documents.

Pieces that begin with the chunk take the state that the chunk before has left, unless a document starts
there; pieces that end with it leave theirs for the chunk after. Gradients go the other way. A neighbour sees
one state of all B rows, whatever stacks they come from.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from tttscale.kernels.scan import Handoff
from tttscale.model.chunk import Edge, Part
from tttscale.model.documents import Stack


class Crossing:
    """One layer's states and gradients on their way into and out of one chunk's stacks."""

    def __init__(self, edge: Edge, stacks: Sequence[Stack], initial: Part, rows: int) -> None:
        """Receive the state from the left; initial: [1, H, ...], in which documents begin."""
        self.edge, self._initial, self._rows = edge, initial, rows
        self._received = edge.receive()
        self._leaving: list[Part | None] = [None] * rows
        self._returning: list[Part | None] = [None] * rows
        self._grad: Part | None = None
        self._grad_asked = False

    def enter(self, stack: Stack) -> Part:
        """The state in front of each piece, [pieces, H, ...]."""
        start = tuple(w.expand(len(stack.pieces), *w.shape[1:]) for w in self._initial)
        goes_on = [self._goes_on(stack, i) for i in range(len(stack.pieces))]
        if self._received is None or not any(goes_on):
            return start
        if all(goes_on) and _is_rows(stack, self._rows):
            return self._received
        rows = [(piece.row, on) for piece, on in zip(stack.pieces, goes_on, strict=True)]
        return tuple(
            torch.stack([received[row] if on else initial[0].to(received) for row, on in rows])
            for received, initial in zip(self._received, self._initial, strict=True)
        )

    def handoff(self, stack: Stack) -> Handoff | None:
        """What the scan of a stack has to do with the chunk's edges; None if nothing."""
        begins = self._received is not None and any(p.first for p in stack.pieces)
        ends = any(p.last for p in stack.pieces)
        return _StackHandoff(self, stack, begins, ends) if begins or ends else None

    def leave(self, stack: Stack, state: Part) -> None:
        """Send the state of all rows once their last pieces are there."""
        if _is_rows(stack, self._rows):
            return self.edge.send(state)
        for i, piece in enumerate(stack.pieces):
            if piece.last:
                self._leaving[piece.row] = tuple(s[i] for s in state)
        if all(self._leaving):
            self.edge.send(_stacked(self._leaving))

    def grad_of_left(self, stack: Stack) -> Part | None:
        """The gradient of the states that `leave` sent, [pieces, H, ...]; None where a sequence ends."""
        if not self._grad_asked:
            self._grad, self._grad_asked = self.edge.receive_grad(), True
        if self._grad is None or _is_rows(stack, self._rows):
            return self._grad
        last = [(piece.row, piece.last) for piece in stack.pieces]
        return tuple(
            torch.stack([g[row] if is_last else torch.zeros_like(g[row]) for row, is_last in last])
            for g in self._grad
        )

    def give_back(self, stack: Stack, grad: Part) -> None:
        """Send the gradient of the state received once all rows' first pieces are there."""
        if _is_rows(stack, self._rows) and not any(p.fresh for p in stack.pieces):
            return self.edge.send_grad(grad)
        for i, piece in enumerate(stack.pieces):
            if piece.first:
                # Rows that began anew here did not use what came in.
                on = self._goes_on(stack, i)
                row = tuple(g[i] if on else torch.zeros_like(g[i]) for g in grad)
                self._returning[piece.row] = row
        if all(self._returning):
            self.edge.send_grad(_stacked(self._returning))

    def _goes_on(self, stack: Stack, index: int) -> bool:
        piece = stack.pieces[index]
        return self._received is not None and piece.first and not piece.fresh


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
        """First and last pieces have neighbours."""
        return self.crossing.edge.grad_awaited

    def state_ready(self, state: Part) -> None:
        """Leaves the last pieces' states."""
        if self.ends:
            self.crossing.leave(self.stack, state)

    def grad_wanted(self) -> Part | None:
        """The gradients of the last pieces' states."""
        return self.crossing.grad_of_left(self.stack) if self.ends else None

    def grad_ready(self, grad: Part) -> None:
        """Gives back those of the first pieces' states."""
        if self.begins:
            self.crossing.give_back(self.stack, grad)


def _is_rows(stack: Stack, rows: int) -> bool:
    """Whether the stack's pieces are the chunk's rows, whole and in order."""
    return [p.row for p in stack.pieces if p.first and p.last] == list(range(rows))


def _stacked(rows: Sequence[Part | None]) -> Part:
    parts: list[tuple[Tensor, ...]] = [part for part in rows if part is not None]
    return tuple(torch.stack(column) for column in zip(*parts, strict=True))
