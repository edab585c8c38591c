"""TTT-Linear on Triton: scratch and launches of its phases. Formulas: README.md beside this file."""

from typing import Any

from torch import Tensor

from tttscale.kernels.triton_scan import Kept, State, TritonScan
from tttscale.kernels.ttt_linear.chain import advance_backward_kernel, advance_kernel
from tttscale.kernels.ttt_linear.parallel import (
    jacobian_kernel,
    readout_backward_kernel,
    readout_kernel,
)


class TritonLinearScan(TritonScan):
    """kept = [G, W and b in front of each block]."""

    kind = "linear"

    def advance(self, state: State) -> tuple[list[Kept], State]:
        """G, the saved states, and the state after."""
        W, b = self.wide_states(state)
        n, f = self.scans, self.dim
        G = self.new(n, self.length, f)
        W_saved, b_saved = self.new(n, self.blocks, f, f), self.new(n, self.blocks, f, wide=True)
        last = [W.new_empty(W.shape), b.new_empty(b.shape)]
        tokens = (self.k, self.v, self.lr, self.tau, self.gamma, self.beta)
        self.run(advance_kernel, "advance", (n,), *tokens, W, b, G, W_saved, b_saved, *last)
        return [[G, W_saved, b_saved]], self.narrow_states(last)

    def readout(self, saved: list[Kept]) -> Tensor:
        """out = q + LN(.)."""
        out = self._like_tokens()
        tokens = (self.q, self.k, self.lr, self.tau, self.gamma, self.beta)
        self.run(readout_kernel, "readout", (self.blocks, self.scans), *tokens, *saved[0], out)
        return out

    def readout_backward(self, saved: list[Kept], d_out: Tensor) -> list[Any]:
        """dZq, the readers' share of dG, and the Jacobian's row constants."""
        d_out, planes = self._tokens(d_out), self.new_planes()
        grid, norm = (self.blocks, self.scans), (self.gamma, self.beta)
        keys = (self.k, self.v, self.lr, self.tau, *norm, *saved[0])
        self.run(jacobian_kernel, "jacobian", grid, *keys, planes.normed, planes.jacobian)
        self.run(
            readout_backward_kernel,
            "readout_backward",
            grid,
            *(self.q, self.k, self.lr, self.tau, self.gamma, *saved[0], d_out),
            *(planes.dz1q, planes.p, planes.asked, planes.d_tau, planes.d_last, planes.d_norm),
        )
        return [(planes, d_out)]

    def advance_backward(self, saved: list[Kept], works: list[Any], d_state: State) -> State:
        """dW and db of the state before; dZ and the whole p on the way."""
        planes, n, f = works[0][0], self.scans, self.dim
        dW, db = self.wide_states(d_state)
        planes.dz1 = self.new(n, self.length, f)
        planes.dw1 = self.new(n, self.blocks, f, f)
        planes.db1 = self.new(n, self.blocks, f, wide=True)
        first = [dW.new_empty(dW.shape), db.new_empty(db.shape)]
        self.run(
            advance_backward_kernel,
            "advance_backward",
            (n,),
            *(self.k, self.q, self.lr, self.tau, self.gamma, saved[0][0]),
            *(planes.normed, planes.dz1q, planes.p, planes.jacobian, dW, db),
            *(planes.dz1, planes.dw1, planes.db1, *first),
        )
        return self.narrow_states(first)
