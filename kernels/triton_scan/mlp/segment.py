"""TTT-MLP on Triton: scratch and launches of its phases. Formulas: README.md beside this file."""

import torch
from torch import Tensor

from tttscale.kernels.triton_scan.mlp.advance import advance_kernel, advance_streamed_kernel
from tttscale.kernels.triton_scan.mlp.advance_backward import advance_backward_kernel
from tttscale.kernels.triton_scan.mlp.advance_backward_single_pass import (
    advance_backward_merged_kernel,
)
from tttscale.kernels.triton_scan.mlp.readout import readout_kernel
from tttscale.kernels.triton_scan.mlp.readout_backward import readout_backward_kernel
from tttscale.kernels.triton_scan.scan import TritonScan
from tttscale.kernels.triton_scan.segment import Kept, Planes, Segment, State, padded
from tttscale.kernels.triton_scan.targets import targets_kernel


class MLPSegment(Segment):
    """kept = [G1, W1 in front of each block, G2, b1, W2 and b2 in front of each block, steps]."""

    kind = "mlp"

    def advance(self, state: State) -> tuple[Kept, State]:
        """G1, G2, the saved states, and the state after."""
        W1, b1, W2, b2 = self.wide_states(state)
        n, f, i, blocks = self.scans, self.dim, self.inner, self.blocks
        # LayerNorm does not see the mean over the output dim: kept out of the chain, centred sums are exact.
        W2_mean, b2_mean = W2.mean(-1, keepdim=True), b2.mean(-1, keepdim=True)
        first = [W1, b1, W2 - W2_mean, b2 - b2_mean]
        G1, G2 = self.new(n, self.length, i), self.new(n, self.length, f)
        W1_saved, W2_saved = self.new(n, blocks, f, i), self.new(n, blocks, i, f)
        b1_saved, b2_saved = self.new(n, blocks, i, wide=True), self.new(n, blocks, f, wide=True)
        saved = (W1_saved, b1_saved, W2_saved, b2_saved)
        moved, u = self.new(n, self.length, f), self.new(n, self.length, f, wide=True)
        step = self.new(n, self.length, wide=True)
        tokens = (self.k, self.v, self.lr, self.tau, self.gamma, self.beta)
        self.run(targets_kernel, "targets", (blocks, n), *tokens, step, u, moved, None)
        targets = (self.k, moved, u, step, self.gamma)
        if self.launch("advance").resident:
            last = [torch.empty_like(s) for s in first]
            arguments = (*targets, *first, *last, G1, G2, *saved)
            self.run(advance_kernel, "advance", (n,), *arguments)
        else:
            last = [W1.clone(), b1.clone(), *first[2:]]
            arguments = (*targets, *last, *self._tiles("advance"), G1, G2, *saved)
            self.run(advance_streamed_kernel, "advance", (n,), *arguments)
        last[2] += W2_mean
        last[3] += b2_mean
        return [G1, W1_saved, G2, b1_saved, W2_saved, b2_saved, step], self.narrow_states(last)

    def readout(self, kept: Kept, out: Tensor) -> None:
        """out = q + LN(.)."""
        self.run(
            readout_kernel,
            "readout",
            (self.blocks, self.scans),
            *(self.q, self.k, self.lr, self.tau, self.gamma, self.beta),
            *_in_order(kept),
            out,
        )

    def readout_backward(self, kept: Kept, d_out: Tensor) -> Planes:
        """Gradients at the readers, their shares in the sources', and the keys' part of the Jacobian."""
        planes = self.new_planes()
        n, t, i = self.scans, self.length, self.inner
        dz2q, x2, xq = self.new(n, t, self.dim), self.new(n, t, i), self.new(n, t, i)
        padded_shape = (n, self.blocks * self.block * self.size, -(-i // 16) * 16)
        local, share, slope, curved = (self.new(*padded_shape) for _ in range(4))  # fragments.py
        db1_read = self.new(n, self.blocks, i, wide=True)
        db2_read = self.new(n, self.blocks, self.dim, wide=True)
        inside = self.new(n, -(-t // self.size), i, self.dim)
        planes.chain = (x2, xq, dz2q, db1_read, db2_read, local, share, slope, curved, inside)
        self.run(
            readout_backward_kernel,
            "readout_backward",
            (self.blocks, n),
            *(self.q, self.k, self.v, self.lr, self.tau, self.gamma, self.beta, kept[-1]),
            *(*_in_order(kept), d_out),
            *(x2, slope, curved, planes.normed, planes.jacobian, inside),
            *(xq, dz2q, db2_read, planes.p, planes.dz1q, db1_read, local, share),
            *(planes.asked, planes.d_tau, planes.d_last, planes.d_norm),
        )
        return planes

    def advance_backward(self, kept: Kept, planes: Planes, d_state: State) -> State:
        """Gradients of the state before; dZ1 and the whole p on the way."""
        G2, step = kept[2], kept[-1]
        x2, xq, dz2q, *reads, local, share, slope, curved, inside = planes.chain
        n, f, i = self.scans, self.dim, self.inner
        running = [s.clone() for s in self.wide_states(d_state)]
        # Nor do inner gradients see the mean of their gradient over the output dim.
        means = [s.mean(-1, keepdim=True) for s in running[2:]]
        for s, mean in zip(running[2:], means, strict=True):
            s -= mean
        planes.dz1 = self.new(n, self.length, i)
        kappa2 = self.new(n, self.length, f)
        planes.second = (G2, kappa2)
        planes.dw1 = self.new(n, self.blocks, f, i)
        planes.db1 = self.new(n, self.blocks, i, wide=True)
        planes.dw1[:, -1], planes.db1[:, -1] = running[0], running[1][:, 0]
        merged = self.launch("advance_backward").merged
        self.run(
            advance_backward_merged_kernel if merged else advance_backward_kernel,
            "advance_backward",
            (n,),
            *(self.k, self.q, step, self.gamma, G2, x2, xq, planes.dz1q, dz2q, *reads),
            *(local, share, slope, curved, planes.normed, planes.p, planes.jacobian, inside),
            *(*running, *self._tiles("advance_backward")),
            *(planes.dz1, kappa2, planes.dw1, planes.db1),
        )
        for s, mean in zip(running[2:], means, strict=True):
            s += mean
        planes.chain = ()
        return self.narrow_states(running)

    def _tiles(self, kernel: str) -> tuple[Tensor, Tensor]:
        """Scratch for a state between mini-batches, in fragment order (fragments.py)."""
        columns = self.columns(kernel)
        rows = -(-self.inner // columns) * columns
        shape = (self.scans, rows, padded(self.dim))
        return self.new(*shape, wide=True), self.new(*shape, wide=True)


class TritonMLPScan(TritonScan):
    """Scratch of a segment's backward in bf16 at f = 64: 7.3 KB per token and head, 2 of them W2."""

    segment_type = MLPSegment
    segment_tokens = 2 << 10


def _in_order(kept: Kept) -> tuple[Tensor, ...]:
    """G1, G2, then W1, b1, W2, b2 as the kernels take them."""
    G1, W1, G2, b1, W2, b2, _ = kept
    return G1, G2, W1, b1, W2, b2
