"""The documents of a chunk side by side: what shares no state need not wait for each other.

A row of a chunk is cut where documents start. Pieces of about equal length become the rows of one scan, a
stack. Shorter ones are filled up in front, by whole mini-batches whose rates are zero: these change no state
and no output of others, so that the result is that of each piece alone.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from tttscale.model.device import to_device


@dataclass(frozen=True)
class Limits:
    """How far pieces are put together."""

    places_per_filling: int
    """At most one place in this many of a stack is filling (a last short mini-batch aside)."""
    states_bytes: int
    """Of a stack's rows; several copies of them exist at once."""
    rows: int
    """Of a stack."""


LIMITS = {
    # Rows run beside each other, on processors that one row leaves idle: few stacks, a short chain in all.
    "cuda": Limits(4, 256 << 20, 256),
    # What is won is overhead per step. Filling costs what tokens cost, states that leave the cache more.
    "cpu": Limits(16, 2 << 20, 256),
}


@dataclass(frozen=True)
class Piece:
    """A run of one row's tokens in which no document starts but at `begin`."""

    row: int
    begin: int
    end: int
    first: bool
    """Begins where the chunk does."""
    last: bool
    """Ends where the chunk does: its state is the one that goes on."""
    fresh: bool
    """A document starts here."""

    @property
    def continues(self) -> bool:
        """Goes on from the chunk before."""
        return self.first and not self.fresh


@dataclass(frozen=True)
class Stack:
    """Pieces that are scanned as rows of one batch."""

    pieces: tuple[Piece, ...]
    length: int
    offsets: tuple[int, ...]
    """Where each piece begins in its row; tokens before are filling."""

    def places(self, tokens: int) -> Tensor:
        """int64 [pieces, length]: each place's token in the flattened [rows * tokens]; -1 in filling."""
        places = torch.full((len(self.pieces), self.length), -1)
        for at, offset, piece in zip(places, self.offsets, self.pieces, strict=True):
            begin, count = piece.row * tokens + piece.begin, piece.end - piece.begin
            at[offset : offset + count] = torch.arange(begin, begin + count)
        return places


def cut(starts: Sequence[Sequence[int]], length: int) -> Iterator[Piece]:
    """The pieces of all rows; starts[row] are the positions in which a document starts."""
    for row, positions in enumerate(starts):
        for begin, end in pairwise([*sorted({0, *positions}), length]):
            yield Piece(row, begin, end, begin == 0, end == length, begin in positions)


def stack(pieces: Sequence[Piece], size: int, state_bytes: int, limits: Limits) -> list[Stack]:
    """Stacks of pieces, mini-batches of `size` tokens staying what they are; those that continue stand first.

    state_bytes is that of one row. Stacks whose state goes on come first, those that begin with the chunk
    last: so in a backward, which runs the other way, nothing waits that need not.
    """
    groups: list[list[Piece]] = []
    filling = 0
    for piece in sorted(pieces, key=lambda p: (p.begin - p.end, p.row, p.begin)):
        now = groups[-1] if groups else []
        most = (now[0].end - now[0].begin) // size if now else 0
        filling += most - (piece.end - piece.begin) // size
        rows = len(now) + 1
        full = rows > limits.rows or rows * state_bytes > limits.states_bytes
        if now and not full and filling * limits.places_per_filling <= most * rows:
            now.append(piece)
        else:
            groups.append([piece])
            filling = 0
    groups.sort(key=lambda g: (not any(p.last for p in g), any(p.first for p in g)))
    return [_stack(group, size) for group in groups]


def _stack(pieces: list[Piece], size: int) -> Stack:
    pieces = sorted(pieces, key=lambda p: not p.continues)
    lengths = [p.end - p.begin for p in pieces]
    most, short = max(n // size for n in lengths), max(n % size for n in lengths)
    offsets = tuple((most - n // size) * size for n in lengths)
    return Stack(tuple(pieces), most * size + short, offsets)


class Packing:
    """How the tokens of a chunk's rows move into stacks and back; made once for all layers."""

    def __init__(
        self,
        starts: Sequence[Sequence[int]],
        length: int,
        size: int,
        state_bytes: int,
        device: torch.device,
    ) -> None:
        """Stack the pieces.

        Args:
            starts: for each row the positions, multiples of `size`, in which a document starts.
            length: tokens of a row.
            size: mini-batch size K.
            state_bytes: of one row.
            device: of the tokens.
        """
        pieces = list(cut(starts, length))
        self.whole = len(pieces) == len(starts) and len({p.fresh for p in pieces}) == 1
        """No document starts inside, and in all rows or none at the beginning: one stack as they are."""
        if self.whole:
            self.stacks = [Stack(tuple(pieces), length, (0,) * len(pieces))]
            return
        limits = LIMITS["cpu" if device.type == "cpu" else "cuda"]
        self.stacks = stack(pieces, size, state_bytes, limits)
        places = torch.cat([s.places(length).flatten() for s in self.stacks])
        back = torch.empty(len(starts) * length, dtype=torch.int64)
        taken = places >= 0
        back[places[taken]] = torch.arange(len(places))[taken]
        self._filling = to_device(~taken, device)
        self._places, self._back = to_device(places.clamp(min=0), device), to_device(back, device)
        self._sizes = [len(s.pieces) * s.length for s in self.stacks]
        self._rows = (len(starts), length)

    def apart(self, x: Tensor, *, nothing: bool = False) -> list[Tensor]:
        """[rows, length, ...] -> [pieces, length of the stack, ...] for each stack.

        Filling holds some token's values, or zeros with `nothing`.
        """
        if self.whole:
            return [x]
        moved = _Move.apply(x.flatten(0, 1), self._places, self._back, None)
        if nothing:
            moved = moved.masked_fill(self._filling.view(-1, *[1] * (moved.dim() - 1)), 0)
        parts = moved.split(self._sizes)
        return [p.unflatten(0, (-1, s.length)) for p, s in zip(parts, self.stacks, strict=True)]

    def together(self, parts: list[Tensor]) -> Tensor:
        """The inverse of `apart`."""
        if self.whole:
            return parts[0]
        moved = torch.cat([part.flatten(0, 1) for part in parts])
        return _Move.apply(moved, self._back, self._places, self._filling).unflatten(0, self._rows)


class _Move(torch.autograd.Function):
    """x[places]; its gradient is picked the other way, so that nothing is added up and all is exact."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, places: Tensor, back: Tensor, filling: Tensor | None
    ) -> Tensor:
        """[n, ...] -> [len(places), ...]; filling: which of x nobody takes, if there are such."""
        ctx.save_for_backward(back, filling)
        return x.index_select(0, places)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None]:
        """Each element's gradient from its place; 0 where there is none."""
        back, filling = ctx.saved_tensors
        grad = grad.index_select(0, back)
        if filling is not None:
            grad.masked_fill_(filling.view(-1, *[1] * (grad.dim() - 1)), 0)
        return grad, None, None, None
