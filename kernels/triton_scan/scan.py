"""A Triton scan in segments: the order of its phases, and how much of their scratch exists at once.

A segment is a scan of its own over consecutive tokens, from the state that the segment before it has left.
So the scratch of a backward, several numbers per token and hidden feature, is that of one segment and not of
all tokens. If a peer waits, each phase runs over all segments before the next phase begins, as in
`GroupScan`; how much scratch may then be ready before the reverse chain is bounded in bytes. Both orders do
the same sums.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from tttscale.kernels.triton_scan.launch_table import BLOCK_TOKENS, architecture_of
from tttscale.kernels.triton_scan.segment import Inputs, Kept, Planes, Segment, State

SCRATCH_BYTES = 3 << 29
"""Scratch that segments may hold while the scan waits for the state's gradient; one segment always may."""


@dataclass
class SegmentBackwardState:
    """Tensors that the phases of one segment's backward hand on."""

    d_out: Tensor
    """[B, H, t, f]: gradient of the segment's outputs."""
    planes: Planes | None = None
    """Set by readout_backward, freed by gradients."""


class TritonScan:
    """One scan over q, k, v [B, H, T, f]; the phases are those of `GroupScan`."""

    # What a learner supplies.

    segment_type: ClassVar[type[Segment]]
    segment_tokens: ClassVar[int]
    """Most tokens of a segment, all batch rows together; a segment has at least one block of each row."""

    def __init__(
        self, inputs: Inputs, size: int, dtype: torch.dtype, architecture: int | None = None
    ) -> None:
        """Inputs as `ttt_scan` takes them; dtype is the states'; architecture: see launch_table.py."""
        q, k, v, lr, token_idx, weight, bias = inputs
        self.shape, self.compute, self.device = q.shape, q.dtype, q.device
        self._strides = _token_strides(q)
        along = [*map(self._aligned, (q, k, v)), lr.to(dtype)]
        shared = [x.to(dtype) for x in (token_idx, weight, bias)]
        step = max(BLOCK_TOKENS, self.segment_tokens // len(q) // BLOCK_TOKENS * BLOCK_TOKENS)
        bounds = range(0, q.shape[2], step)
        self._cuts = [slice(b, min(b + step, q.shape[2])) for b in bounds]
        self.segments = [
            self.segment_type(
                [*(x[:, :, cut] for x in along), *shared],
                size,
                architecture or architecture_of(q.device),
            )
            for cut in self._cuts
        ]
        self.groups = range(len(self.segments))

    @staticmethod
    def lean(kept: Kept) -> Kept:
        """All that is kept of a segment is saved for the backward."""
        return kept

    # ---- forward --------------------------------------------------------------------------------

    def forward(self, state: State) -> tuple[Tensor, list[Kept], State]:
        """Both phases, segment by segment."""
        out, saved = self._new_tokens(), []
        for segment, cut in zip(self.segments, self._cuts, strict=True):
            kept, state = segment.advance(state)
            segment.readout(kept, out[:, :, cut])
            saved.append(kept)
        return out, saved, state

    def advance(self, state: State) -> tuple[list[Kept], State]:
        """The serial chain: inner gradients and saved states, and the state after."""
        saved = []
        for segment in self.segments:
            kept, state = segment.advance(state)
            saved.append(kept)
        return saved, state

    def readout(self, saved: list[Kept]) -> Tensor:
        """All outputs."""
        out = self._new_tokens()
        for segment, cut, kept in zip(self.segments, self._cuts, saved, strict=True):
            segment.readout(kept, out[:, :, cut])
        return out

    # ---- backward -------------------------------------------------------------------------------

    def backward(
        self, saved: list[Kept], d_out: Tensor, d_state: State
    ) -> tuple[State, list[Tensor]]:
        """All phases, segment by segment, last one first."""
        grads, bwds = self._new_grads(), self._bwds(d_out)
        for i in reversed(self.groups):
            d_state = self._advance_backward(i, saved[i], bwds[i], d_state)
            self._gradients(i, saved[i], bwds[i], grads)
        return d_state, grads

    def readout_backward(self, saved: list[Kept], d_out: Tensor) -> list[SegmentBackwardState]:
        """Run what needs no gradient of the state, for as many last segments as may hold scratch."""
        bwds, room_bytes = self._bwds(d_out), SCRATCH_BYTES
        for i in reversed(self.groups):
            planes = self.segments[i].readout_backward(saved[i], bwds[i].d_out)
            bwds[i].planes, room_bytes = planes, room_bytes - planes.nbytes
            if room_bytes < planes.nbytes:
                break
        return bwds

    def advance_backward(
        self, saved: list[Kept], bwds: list[SegmentBackwardState], d_state: State
    ) -> State:
        """The reverse chain: the gradient of the state after -> of the state before."""
        for i in reversed(self.groups):
            d_state = self._advance_backward(i, saved[i], bwds[i], d_state)
        return d_state

    def gradients(self, saved: list[Kept], bwds: list[SegmentBackwardState]) -> list[Tensor]:
        """Gradients of q, k, v, lr, token_idx, norm weight and bias."""
        grads = self._new_grads()
        for i in reversed(self.groups):
            self._gradients(i, saved[i], bwds[i], grads)
        return grads

    def _bwds(self, d_out: Tensor) -> list[SegmentBackwardState]:
        d_out = self._aligned(d_out)
        return [SegmentBackwardState(d_out[:, :, cut]) for cut in self._cuts]

    def _advance_backward(
        self, i: int, kept: Kept, bwd: SegmentBackwardState, d_state: State
    ) -> State:
        if bwd.planes is None:
            bwd.planes = self.segments[i].readout_backward(kept, bwd.d_out)
        return self.segments[i].advance_backward(kept, bwd.planes, d_state)

    def _gradients(
        self, i: int, kept: Kept, bwd: SegmentBackwardState, grads: list[Tensor]
    ) -> None:
        """Enter one segment's gradients; its scratch ends here."""
        assert bwd.planes is not None
        tokens, cut = grads[:3], self._cuts[i]
        parts = self.segments[i].gradients(
            kept, bwd.planes, bwd.d_out, *(x[:, :, cut] for x in tokens)
        )
        bwd.planes = None
        grads[3][:, :, cut] = parts[0]
        for whole, part in zip(grads[4:], parts[1:], strict=True):
            whole += part

    def _new_grads(self) -> list[Tensor]:
        segment = self.segments[0]
        rates, shared = segment.lr, (segment.tau, segment.gamma, segment.beta)
        return [
            *(self._new_tokens() for _ in range(3)),
            rates.new_empty(self.shape[:3]),
            *(torch.zeros_like(x) for x in shared),
        ]

    # ---- layout ---------------------------------------------------------------------------------

    def _new_tokens(self) -> Tensor:
        """Uninitialised [B, H, T, f], in q's strides."""
        strides = (*self._strides, 1)
        return torch.empty_strided(self.shape, strides, dtype=self.compute, device=self.device)

    def _aligned(self, x: Tensor) -> Tensor:
        """x in q's strides, as it is where it has them."""
        wanted = (*self._strides, 1)
        sizes = zip(x.shape, x.stride(), wanted, strict=True)
        if x.dtype == self.compute and all(n == 1 or a == b for n, a, b in sizes):
            return x
        return self._new_tokens().copy_(x)


def _token_strides(q: Tensor) -> tuple[int, int, int]:
    """Strides of B, H and T to use: q's own where it fills its memory, without gaps and overlaps."""
    _, heads, length, dim = q.shape
    dims = zip(q.stride()[:3], q.shape[:3], strict=True)
    extent = dim if q.stride(3) == 1 or dim == 1 else 0
    for stride, size in sorted((s, n) for s, n in dims if n > 1):
        extent = extent * size if stride == extent else 0
    if extent:
        return q.stride()[0], q.stride()[1], q.stride()[2]
    return heads * length * dim, length * dim, dim
