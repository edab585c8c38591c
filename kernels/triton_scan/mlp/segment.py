"""TTT-MLP on Triton: scratch and launches of its phases. Formulas: ../../ttt_mlp.md."""

from collections.abc import Sequence

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
    """kept = [G1, W1 before each block, G2, b1, W2 and b2 before each block, steps]."""

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
        moved, u = self.new(n, self.length, f), self.new(n, self.length, f, wide=True)
        step = self.new(n, self.length, wide=True)
        self.run(
            targets_kernel,
            "targets",
            (blocks, n),
            step_ptr=step,
            u_ptr=u,
            moved_ptr=moved,
            scores_ptr=None,
        )
        kept = [G1, W1_saved, G2, b1_saved, W2_saved, b2_saved, step]
        rest = {"moved_ptr": moved, "u_ptr": u, "step_ptr": step, **_pointers(kept)}
        if self.launch("advance").resident:
            last = [torch.empty_like(s) for s in first]
            rest |= _named("{}_ptr", first) | _named("{}_last_ptr", last)
            self.run(advance_kernel, "advance", (n,), **rest)
        else:
            last = [W1.clone(), b1.clone(), *first[2:]]
            tiles1, tiles2 = self._tiles("advance")
            rest |= _named("{}_ptr", last)
            self.run(
                advance_streamed_kernel,
                "advance",
                (n,),
                w1_tiles_ptr=tiles1,
                w2_tiles_ptr=tiles2,
                **rest,
            )
        last[2] += W2_mean
        last[3] += b2_mean
        return kept, self.narrow_states(last)

    def readout(self, kept: Kept, out: Tensor) -> None:
        """out = q + LN(.)."""
        grid = (self.blocks, self.scans)
        self.run(readout_kernel, "readout", grid, **_pointers(kept), out_ptr=out)

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
            **_pointers(kept),
            step_ptr=kept[-1],
            d_out_ptr=d_out,
            x2_ptr=x2,
            slope_ptr=slope,
            curved_ptr=curved,
            normed_ptr=planes.normed,
            plane_ptr=planes.jacobian,
            inside_ptr=inside,
            xq_ptr=xq,
            dz2q_ptr=dz2q,
            db2_read_ptr=db2_read,
            p_ptr=planes.p,
            dz1q_ptr=planes.dz1q,
            db1_read_ptr=db1_read,
            local_ptr=local,
            share_ptr=share,
            asked_ptr=planes.asked,
            dtau_ptr=planes.d_tau,
            dlast_ptr=planes.d_last,
            dnorm_ptr=planes.d_norm,
        )
        return planes

    def advance_backward(self, kept: Kept, planes: Planes, d_state: State) -> State:
        """Gradients of the state before; dZ1 and the whole p on the way."""
        G2, step = kept[2], kept[-1]
        x2, xq, dz2q, db1_read, db2_read, local, share, slope, curved, inside = planes.chain
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
        dw1_tiles, dw2_tiles = self._tiles("advance_backward")
        self.run(
            advance_backward_merged_kernel if merged else advance_backward_kernel,
            "advance_backward",
            (n,),
            step_ptr=step,
            g2_ptr=G2,
            x2_ptr=x2,
            xq_ptr=xq,
            dz1q_ptr=planes.dz1q,
            dz2q_ptr=dz2q,
            db1_read_ptr=db1_read,
            db2_read_ptr=db2_read,
            local_ptr=local,
            share_ptr=share,
            slope_ptr=slope,
            curved_ptr=curved,
            normed_ptr=planes.normed,
            p_ptr=planes.p,
            plane_ptr=planes.jacobian,
            w2_inside_ptr=inside,
            **_named("d{}_ptr", running),
            dw1_tiles_ptr=dw1_tiles,
            dw2_tiles_ptr=dw2_tiles,
            dz1_ptr=planes.dz1,
            kappa2_ptr=kappa2,
            dw1_saved_ptr=planes.dw1,
            db1_saved_ptr=planes.db1,
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


def _pointers(kept: Kept) -> dict[str, Tensor]:
    """The kept tensors, without the steps, by the names of kernels' parameters."""
    G1, W1, G2, b1, W2, b2, _ = kept
    return {"g1_ptr": G1, "g2_ptr": G2, **_named("{}_saved_ptr", (W1, b1, W2, b2))}


def _named(name: str, state: Sequence[Tensor]) -> dict[str, Tensor]:
    """W1, b1, W2, b2 by the names of kernels' parameters, such as "{}_ptr"."""
    return {name.format(part): x for part, x in zip(("w1", "b1", "w2", "b2"), state, strict=True)}
