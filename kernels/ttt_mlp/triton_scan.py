"""TTT-MLP on Triton: scratch and launches of its phases. Formulas: README.md beside this file."""

from typing import Any

from torch import Tensor

from tttscale.kernels.triton_scan import Kept, State, TritonScan, padded
from tttscale.kernels.ttt_mlp.chain import advance_kernel, advance_streamed_kernel
from tttscale.kernels.ttt_mlp.chain_backward import advance_backward_kernel, replay_kernel
from tttscale.kernels.ttt_mlp.parallel import (
    hidden_backward_kernel,
    keys_kernel,
    readout_backward_kernel,
    readout_kernel,
    targets_kernel,
)

SEGMENT_TOKENS = 1024
"""Tokens whose W2 in front of every mini-batch exist at once in a backward."""


class TritonMLPScan(TritonScan):
    """kept = [G1, W1 in front of each block, G2, b1, W2 and b2 in front of each block, steps]."""

    kind = "mlp"

    def advance(self, state: State) -> tuple[list[Kept], State]:
        """G1, G2, the saved states, and the state after."""
        W1, b1, W2, b2 = self.wide_states(state)
        n, f, i, blocks = self.scans, self.dim, self.inner, self.blocks
        # LayerNorm does not see the mean over the output dim: kept out of the chain, centred sums are exact.
        W2_mean, b2_mean = W2.mean(-1, keepdim=True), b2.mean(-1, keepdim=True)
        last = [W1.clone(), b1.clone(), W2 - W2_mean, b2 - b2_mean]
        G1, G2 = self.new(n, self.length, i), self.new(n, self.length, f)
        W1_saved, W2_saved = self.new(n, blocks, f, i), self.new(n, blocks, i, f)
        b1_saved, b2_saved = self.new(n, blocks, i, wide=True), self.new(n, blocks, f, wide=True)
        saved = (W1_saved, b1_saved, W2_saved, b2_saved)
        moved, u = self.new(n, self.length, f), self.new(n, self.length, f, wide=True)
        step = self.new(n, self.length, wide=True)
        tokens = (self.k, self.v, self.lr, self.tau, self.gamma, self.beta)
        self.run(targets_kernel, "targets", (blocks, n), *tokens, moved, u, step)
        targets = (self.k, moved, u, step, self.gamma)
        resident = self.launch("advance").resident
        chain = advance_kernel if resident else advance_streamed_kernel
        self.run(chain, "advance", (n,), *targets, *last, G1, G2, *saved)
        last[2] += W2_mean
        last[3] += b2_mean
        return [[G1, W1_saved, G2, b1_saved, W2_saved, b2_saved, step]], self.narrow_states(last)

    def readout(self, saved: list[Kept]) -> Tensor:
        """out = q + LN(.)."""
        out = self._like_tokens()
        self.run(
            readout_kernel,
            "readout",
            (self.blocks, self.scans),
            *(self.q, self.k, self.lr, self.tau, self.gamma, self.beta),
            *_in_order(saved[0]),
            out,
        )
        return out

    def readout_backward(self, saved: list[Kept], d_out: Tensor) -> list[Any]:
        """Gradients at the readers, their shares in the sources', and the keys' part of the Jacobian."""
        d_out, planes = self._tokens(d_out), self.new_planes()
        n, t, i = self.scans, self.length, self.inner
        dz2q = self.new(n, t, self.dim)
        local, share, x2, xq, slope, curved = (self.new(n, t, i) for _ in range(6))
        planes.chain = (x2, xq, dz2q, local, share, slope, curved)
        kept, grid = _in_order(saved[0]), (self.blocks, n)
        G1, G2, W1, b1, W2, _ = kept
        self.run(
            keys_kernel,
            "keys",
            grid,
            *(self.k, self.v, self.lr, self.tau, self.gamma, self.beta, *kept),
            *(x2, slope, curved, planes.normed, planes.jacobian),
        )
        readers = (self.q, self.k, self.lr, self.tau)
        self.run(
            readout_backward_kernel,
            "readout_backward",
            grid,
            *(*readers, self.gamma, *kept, x2, d_out),
            *(xq, dz2q, planes.p, planes.asked, planes.d_tau, planes.d_last, planes.d_norm),
        )
        parts = padded(i) // self.columns("hidden_backward")
        asked, d_tau = (self.new(parts, n, t, wide=True) for _ in range(2))
        d_last = self.new(parts, n, self.blocks, wide=True)
        self.run(
            hidden_backward_kernel,
            "hidden_backward",
            (*grid, parts),
            *(*readers, G1, G2, W1, b1, W2, x2, dz2q),
            *(planes.dz1q, local, share, asked, d_tau, d_last),
        )
        planes.asked += asked.sum(0)
        planes.d_tau += d_tau.sum(0)
        planes.d_last += d_last.sum(0)
        return [(planes, d_out)]

    def advance_backward(self, saved: list[Kept], works: list[Any], d_state: State) -> State:
        """Gradients of the state before; dZ1 and the whole p on the way. Segment by segment."""
        planes, n, f, i = works[0][0], self.scans, self.dim, self.inner
        running = [s.clone() for s in self.wide_states(d_state)]
        planes.dz1 = self.new(n, self.length, i)
        planes.future = self.new(n, self.length, wide=True)
        planes.dw1 = self.new(n, self.blocks, f, i)
        planes.db1 = self.new(n, self.blocks, i, wide=True)
        planes.dw1[:, -1], planes.db1[:, -1] = running[0], running[1][:, 0]
        count, segment = -(-self.length // self.size), max(self.block, SEGMENT_TOKENS // self.size)
        inside = self.new(n, min(segment, count), i, f)
        for begin in reversed(range(0, count, segment)):
            self._segment(saved[0], planes, running, inside, begin, min(begin + segment, count))
        planes.chain = ()
        return self.narrow_states(running)

    def _segment(
        self, kept: Kept, planes: Any, running: list[Tensor], inside: Tensor, begin: int, end: int
    ) -> None:
        _, _, G2, _, W2_saved, _, step = kept
        x2, xq, dz2q, local, share, slope, curved = planes.chain
        n, columns = self.scans, padded(self.dim)
        blocks = -(-(end - begin) // self.block)
        replay_kernel[(blocks, n, padded(self.inner) // columns)](
            *(step, x2, G2, W2_saved, inside),
            *(begin, end, self.length, self.heads),
            **self.options(replay_kernel, "replay"),
        )
        advance_backward_kernel[(n,)](
            *(self.k, self.q, step, self.gamma, G2, x2, xq, planes.dz1q, dz2q),
            *(local, share, slope, curved, planes.normed, planes.p, planes.jacobian, inside),
            *(*running, planes.dz1, planes.future, planes.dw1, planes.db1),
            *(*self.strides, begin, end, self.length, self.heads, self.scans),
            **self.options(advance_backward_kernel, "advance_backward"),
        )


def _in_order(kept: Kept) -> tuple[Tensor, ...]:
    """G1, G2, then W1, b1, W2, b2 as the kernels take them."""
    G1, W1, G2, b1, W2, b2, _ = kept
    return G1, G2, W1, b1, W2, b2
