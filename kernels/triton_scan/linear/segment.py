"""TTT-Linear on Triton: scratch and launches of its phases. Formulas: ../../ttt_linear.md."""

from torch import Tensor

from tttscale.kernels.triton_scan.linear.advance import advance_kernel
from tttscale.kernels.triton_scan.linear.advance_backward import advance_backward_kernel
from tttscale.kernels.triton_scan.linear.readout import readout_kernel
from tttscale.kernels.triton_scan.linear.readout_backward import readout_backward_kernel
from tttscale.kernels.triton_scan.scan import TritonScan
from tttscale.kernels.triton_scan.segment import Kept, Planes, Segment, State
from tttscale.kernels.triton_scan.targets import targets_kernel


class LinearSegment(Segment):
    """kept = [G, W and b before each block]."""

    kind = "linear"

    def advance(self, state: State) -> tuple[Kept, State]:
        """G, the saved states, and the state after."""
        W, b = self.wide_states(state)
        n, f = self.scans, self.dim
        G = self.new(n, self.length, f)
        W_saved, b_saved = self.new(n, self.blocks, f, f), self.new(n, self.blocks, f, wide=True)
        last = [W.new_empty(W.shape), b.new_empty(b.shape)]
        u = self.new(n, self.length, f, wide=True)
        step, scores = self._step_and_scores()
        self.run(
            targets_kernel,
            "targets",
            (self.blocks, n),
            step_ptr=step,
            u_ptr=u,
            moved_ptr=None,
            scores_ptr=scores,
        )
        self.run(
            advance_kernel,
            "advance",
            (n,),
            u_ptr=u,
            step_ptr=step,
            scores_ptr=scores,
            w_ptr=W,
            b_ptr=b,
            g_ptr=G,
            w_saved_ptr=W_saved,
            b_saved_ptr=b_saved,
            w_last_ptr=last[0],
            b_last_ptr=last[1],
        )
        return [G, W_saved, b_saved], self.narrow_states(last)

    def readout(self, kept: Kept, out: Tensor) -> None:
        """out = q + LN(.)."""
        grid = (self.blocks, self.scans)
        self.run(readout_kernel, "readout", grid, **_pointers(kept), out_ptr=out)

    def readout_backward(self, kept: Kept, d_out: Tensor) -> Planes:
        """Step and products of keys, dZq, the readers' share of dG, and the Jacobian's row constants."""
        planes = self.new_planes()
        planes.chain = step, scores = self._step_and_scores()
        self.run(
            readout_backward_kernel,
            "readout_backward",
            (self.blocks, self.scans),
            **_pointers(kept),
            d_out_ptr=d_out,
            step_ptr=step,
            scores_ptr=scores,
            normed_ptr=planes.normed,
            plane_ptr=planes.jacobian,
            dzq_ptr=planes.dz1q,
            local_ptr=planes.p,
            asked_ptr=planes.asked,
            dtau_ptr=planes.d_tau,
            dlast_ptr=planes.d_last,
            dnorm_ptr=planes.d_norm,
        )
        return planes

    def advance_backward(self, kept: Kept, planes: Planes, d_state: State) -> State:
        """dW and db of the state before; dZ and the whole p on the way."""
        n, f = self.scans, self.dim
        dW, db = self.wide_states(d_state)
        planes.dz1 = self.new(n, self.length, f)
        planes.dw1 = self.new(n, self.blocks, f, f)
        planes.db1 = self.new(n, self.blocks, f, wide=True)
        first = [dW.new_empty(dW.shape), db.new_empty(db.shape)]
        step, scores = planes.chain
        self.run(
            advance_backward_kernel,
            "advance_backward",
            (n,),
            step_ptr=step,
            scores_ptr=scores,
            g_ptr=kept[0],
            normed_ptr=planes.normed,
            dzq_ptr=planes.dz1q,
            p_ptr=planes.p,
            plane_ptr=planes.jacobian,
            dw_ptr=dW,
            db_ptr=db,
            dz_ptr=planes.dz1,
            dw_saved_ptr=planes.dw1,
            db_saved_ptr=planes.db1,
            dw_first_ptr=first[0],
            db_first_ptr=first[1],
        )
        planes.chain = ()
        return self.narrow_states(first)

    def _step_and_scores(self) -> tuple[Tensor, Tensor | None]:
        """Scratch of targets_kernel: step [N, T], and the products of keys inside blocks if there are any."""
        step, scores = self.new(self.scans, self.length, wide=True), None
        if self.block > 1:
            # Fetched ahead is what gives every thread 4 bytes of a mini-batch's products.
            threads = 32 * self.launch("advance").num_warps
            too_narrow = self.size**2 * self.q.element_size() < 4 * threads
            scores = self.new(self.scans, self.length, self.block * self.size, wide=too_narrow)
        return step, scores


class TritonLinearScan(TritonScan):
    """Scratch of a segment's backward in bf16 at f = 64: 0.8 KB per token and head; of a forward 0.4."""

    segment_type = LinearSegment
    segment_tokens = 8 << 10


def _pointers(kept: Kept) -> dict[str, Tensor]:
    """The kept tensors by the names of kernels' parameters."""
    return dict(zip(("g_ptr", "w_saved_ptr", "b_saved_ptr"), kept, strict=True))
