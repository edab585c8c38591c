"""The documents of a chunk side by side: segments that share no state need not wait for each other.

A row of a chunk is cut into segments where documents start. Segments of about equal length become the rows of
one scan. Shorter ones are filled up in front, by whole mini-batches whose rates are zero: these change no
state and no output of others, so that the result is that of each segment alone.
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
    """How many segments are packed together."""

    tokens_per_filler: int
    """At most one token in this many is filler (a last short mini-batch aside)."""
    states_bytes: int
    """States of all packed rows together; several copies of them exist at once."""
    rows: int
    """Packed rows of one scan."""


LIMITS = {
    # Rows run beside each other, on processors that one row leaves idle: few scans, a short chain in all.
    "cuda": Limits(4, 256 << 20, 256),
    # The gain is less overhead per step. Filler costs what tokens cost, states that leave the cache more.
    "cpu": Limits(16, 2 << 20, 256),
}


@dataclass(frozen=True)
class Segment:
    """Consecutive tokens of one row in which no document starts but at `begin`."""

    row: int
    begin: int
    end: int
    first: bool
    """Begins where the chunk does."""
    last: bool
    """Ends where the chunk does: its state is the one that is sent."""
    fresh: bool
    """A document starts here."""

    @property
    def continues(self) -> bool:
        """Whether its document began in a chunk before."""
        return self.first and not self.fresh


@dataclass(frozen=True)
class PackedRows:
    """Segments that are scanned as rows of one batch."""

    segments: tuple[Segment, ...]
    length: int
    offsets: tuple[int, ...]
    """Where each segment begins in its row; tokens before are filler."""

    def token_index(self, tokens: int) -> Tensor:
        """int64 [segments, length]: each token's place in the flattened [rows * tokens]; -1 for filler."""
        index = torch.full((len(self.segments), self.length), -1)
        for row, offset, segment in zip(index, self.offsets, self.segments, strict=True):
            begin, count = segment.row * tokens + segment.begin, segment.end - segment.begin
            row[offset : offset + count] = torch.arange(begin, begin + count)
        return index


def cut(starts: Sequence[Sequence[int]], length: int) -> Iterator[Segment]:
    """The segments of all rows; starts[row] are the positions in which a document starts."""
    for row, positions in enumerate(starts):
        for begin, end in pairwise([*sorted({0, *positions}), length]):
            yield Segment(row, begin, end, begin == 0, end == length, begin in positions)


def pack(
    segments: Sequence[Segment], size: int, state_bytes: int, limits: Limits
) -> list[PackedRows]:
    """Group segments into scans; mini-batches of `size` tokens stay whole, segments that continue come first.

    state_bytes is that of one row. Scans whose state is sent come first, those that begin with the chunk
    last: so in a backward, which runs the other way, nothing waits longer than it must.
    """
    groups: list[list[Segment]] = []
    filler = 0
    for segment in sorted(segments, key=lambda s: (s.begin - s.end, s.row, s.begin)):
        now = groups[-1] if groups else []
        most = (now[0].end - now[0].begin) // size if now else 0
        filler += most - (segment.end - segment.begin) // size
        rows = len(now) + 1
        full = rows > limits.rows or rows * state_bytes > limits.states_bytes
        if now and not full and filler * limits.tokens_per_filler <= most * rows:
            now.append(segment)
        else:
            groups.append([segment])
            filler = 0
    groups.sort(key=lambda g: (not any(s.last for s in g), any(s.first for s in g)))
    return [_packed(group, size) for group in groups]


def _packed(segments: list[Segment], size: int) -> PackedRows:
    segments = sorted(segments, key=lambda s: not s.continues)
    lengths = [s.end - s.begin for s in segments]
    most, short = max(n // size for n in lengths), max(n % size for n in lengths)
    offsets = tuple((most - n // size) * size for n in lengths)
    return PackedRows(tuple(segments), most * size + short, offsets)


class Packing:
    """How the tokens of a chunk's rows move into packed rows and back; made once for all layers."""

    def __init__(
        self,
        starts: Sequence[Sequence[int]],
        length: int,
        size: int,
        state_bytes: int,
        device: torch.device,
    ) -> None:
        """Pack the segments.

        Args:
            starts: for each row the positions, multiples of `size`, in which a document starts.
            length: tokens of a row.
            size: mini-batch size K.
            state_bytes: of one row.
            device: of the tokens.
        """
        segments = list(cut(starts, length))
        self.whole = len(segments) == len(starts) and len({s.fresh for s in segments}) == 1
        """No document starts inside, and in all rows or none at the beginning: one scan of unchanged rows."""
        if self.whole:
            self.scans = [PackedRows(tuple(segments), length, (0,) * len(segments))]
            return
        limits = LIMITS["cpu" if device.type == "cpu" else "cuda"]
        self.scans = pack(segments, size, state_bytes, limits)
        index = torch.cat([rows.token_index(length).flatten() for rows in self.scans])
        back = torch.empty(len(starts) * length, dtype=torch.int64)
        taken = index >= 0
        back[index[taken]] = torch.arange(len(index))[taken]
        self._filler = to_device(~taken, device)
        self._index, self._back = to_device(index.clamp(min=0), device), to_device(back, device)
        self._sizes = [len(rows.segments) * rows.length for rows in self.scans]
        self._rows = (len(starts), length)

    def pack(self, x: Tensor, *, zero_filler: bool = False) -> list[Tensor]:
        """[rows, length, ...] -> [segments, length of the scan, ...] for each scan.

        Filler holds some token's values, or zeros with `zero_filler`.
        """
        if self.whole:
            return [x]
        moved = _Move.apply(x.flatten(0, 1), self._index, self._back, None)
        if zero_filler:
            moved = moved.masked_fill(self._filler.view(-1, *[1] * (moved.dim() - 1)), 0)
        packed = zip(moved.split(self._sizes), self.scans, strict=True)
        return [tokens.unflatten(0, (-1, rows.length)) for tokens, rows in packed]

    def unpack(self, packed: list[Tensor]) -> Tensor:
        """The inverse of `pack`."""
        if self.whole:
            return packed[0]
        moved = torch.cat([tokens.flatten(0, 1) for tokens in packed])
        return _Move.apply(moved, self._back, self._index, self._filler).unflatten(0, self._rows)


class _Move(torch.autograd.Function):
    """x[index]; its gradient is picked the other way, so that nothing is added up and all is exact."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, index: Tensor, back: Tensor, filler: Tensor | None) -> Tensor:
        """[n, ...] -> [len(index), ...]; filler: which of x `index` leaves out, if any."""
        ctx.save_for_backward(back, filler)
        return x.index_select(0, index)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None]:
        """Each element's gradient from its place; 0 where there is none."""
        back, filler = ctx.saved_tensors
        grad = grad.index_select(0, back)
        if filler is not None:
            grad.masked_fill_(filler.view(-1, *[1] * (grad.dim() - 1)), 0)
        return grad, None, None, None
