"""One segment of a Triton scan: layout, scratch and launches, shared by all inner learners.

Legend: B sequences, H heads, N = B H scans, T tokens of the segment, f features of a head, K tokens of a
mini-batch, I inner width (f or 4 f); a block is up to 64 tokens between two saved states, not a CUDA block.

Tokens stay where they are, [B, H, T, f] with any strides of B, H and T. Scratch is [N, T, .] in the compute
dtype; so are the saved states, one before each block of mini-batches. Nothing here waits for the device.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from tttscale.kernels.learners import LEARNERS
from tttscale.kernels.triton_scan.launch_table import launch_of, mini_batches_per_block
from tttscale.kernels.triton_scan.launches.launch import Launch
from tttscale.kernels.triton_scan.token_gradients import token_gradients_kernel

State = tuple[Tensor, ...]
Kept = list[Tensor]
Inputs = Sequence[Tensor]
"""q, k, v, lr, token_idx, norm weight and bias, as `ttt_scan` takes them."""

PLANES = 5
"""Row constants of the Jacobian of G, see `store_jacobian`."""


@dataclass
class Planes:
    """Scratch that the phases of a backward hand on; fp32 [N, T] where not said otherwise."""

    dz1q: Tensor
    """[N, T, I]: gradients at the readers' first pre-activation Z1q (TTT-Linear: Zq)."""
    p: Tensor
    """[N, T, f]: the share of dG from readers of the token's own block; the chain adds the rest."""
    normed: Tensor
    """[N, T, f]: x^ of the keys."""
    jacobian: Tensor
    """[PLANES, N, T]."""
    asked: Tensor
    """Inner gradients times what readers ask of them."""
    d_tau: Tensor
    d_last: Tensor
    """[N, blocks]: gradients of the last factor, with which a block reads its earlier mini-batches."""
    d_norm: Tensor
    """[N, blocks, 2, f]: parts of the gradients of the norm's weight and bias."""
    chain: tuple[Tensor | None, ...] = ()
    """Scratch that only this learner's chain needs."""
    dz1: Tensor | None = None
    dw1: Tensor | None = None
    """[N, blocks, f, I]: gradient of the state after each block."""
    db1: Tensor | None = None
    """[N, blocks, I]."""
    second: tuple[Tensor | None, Tensor | None] = (None, None)
    """TTT-MLP's G2, and kappa2, the part of its gradient that comes through the state; [N, T, f]."""

    @property
    def nbytes(self) -> int:
        """Size in bytes."""
        held = (*self.chain, *vars(self).values())
        return sum(x.nbytes for x in held if isinstance(x, Tensor))


class Segment(ABC):
    """A scan over q, k, v [B, H, T, f] of equal strides; rates and norm in the states' dtype."""

    kind: ClassVar[str]
    """Name of the learner."""

    def __init__(self, inputs: Inputs, size: int, architecture: int) -> None:
        self.q, self.k, self.v = inputs[:3]
        self.lr, self.tau, self.gamma, self.beta = (x.contiguous() for x in inputs[3:])
        self.size, self.dtype, self.architecture = size, self.lr.dtype, architecture
        self.batch, self.heads, self.length, self.dim = self.q.shape
        self.scans, self.compute = self.batch * self.heads, self.q.dtype
        # A dim with one place may have 0, where any number would do; mlp/readout_backward.py takes none.
        self.strides = tuple(stride or self.dim for stride in self.q.stride()[:3])
        self.block = mini_batches_per_block(architecture, size, self.compute)
        self.blocks = -(-self.length // (self.block * size))
        self.inner = LEARNERS[self.kind].inner_width(self.dim)
        self._own: dict[str, Any] = {
            "q_ptr": self.q,
            "k_ptr": self.k,
            "v_ptr": self.v,
            "lr_ptr": self.lr,
            "tau_ptr": self.tau,
            "gamma_ptr": self.gamma,
            "beta_ptr": self.beta,
            **dict(zip(("stride_b", "stride_h", "stride_t"), self.strides, strict=True)),
            "T": self.length,
            "heads": self.heads,
            "scans": self.scans,
        }
        """Arguments that every kernel of the segment may take, by the names of its parameters."""

    # ---- what a learner supplies ----------------------------------------------------------------

    @abstractmethod
    def advance(self, state: State) -> tuple[Kept, State]:
        """The serial chain: inner gradients and saved states, and the state after."""

    @abstractmethod
    def readout(self, kept: Kept, out: Tensor) -> None:
        """All outputs, into `out`."""

    @abstractmethod
    def readout_backward(self, kept: Kept, d_out: Tensor) -> Planes:
        """Everything that needs no gradient of the state."""

    @abstractmethod
    def advance_backward(self, kept: Kept, planes: Planes, d_state: State) -> State:
        """The reverse chain: the gradient of the state after -> of the state before."""

    # ---- the last phase -------------------------------------------------------------------------

    def gradients(
        self, kept: Kept, planes: Planes, d_out: Tensor, dq: Tensor, dk: Tensor, dv: Tensor
    ) -> list[Tensor]:
        """dq, dk, dv into the tensors given; returns those of lr, token_idx, norm weight and bias."""
        g1, w1 = kept[:2]
        g2, kappa2 = planes.second
        d_lr, d_norm = torch.empty_like(self.lr), torch.empty_like(planes.d_norm)
        future = self.new(self.scans, self.length, wide=True)
        self.run(
            token_gradients_kernel,
            "gradients",
            (self.blocks, self.scans),
            d_out_ptr=d_out,
            g1_ptr=g1,
            dz1_ptr=planes.dz1,
            dz1q_ptr=planes.dz1q,
            w1_saved_ptr=w1,
            dw1_saved_ptr=planes.dw1,
            db1_saved_ptr=planes.db1,
            p_ptr=planes.p,
            normed_ptr=planes.normed,
            plane_ptr=planes.jacobian,
            asked_ptr=planes.asked,
            g2_ptr=g2,
            kappa2_ptr=kappa2,
            future_ptr=future,
            dq_ptr=dq,
            dk_ptr=dk,
            dv_ptr=dv,
            dlr_ptr=d_lr,
            dnorm_ptr=d_norm,
        )
        parts = (planes.d_norm + d_norm).view(self.batch, self.heads, self.blocks, 2, self.dim)
        d_gamma, d_beta = parts.sum((0, 2)).unbind(1)
        d_tau = self._grad_token_idx(planes.d_tau, -(self.lr.flatten(0, 1) * future))
        d_tau[-1] += planes.d_last.sum()
        return [d_lr, d_tau, d_gamma, d_beta]

    def _grad_token_idx(self, rows: Tensor, last: Tensor) -> Tensor:
        """Readers' factors, and those of each mini-batch's last token that its update uses; -> [K]."""
        full, short = divmod(self.length, self.size)
        cut = full * self.size
        grad = rows[:, :cut].unflatten(1, (-1, self.size)).sum((0, 1))
        grad[-1] += last[:, :cut].sum()
        if short:
            grad[:short] += rows[:, cut:].sum(0)
            grad[short - 1] += last[:, cut:].sum()
        return grad

    # ---- layout and launches --------------------------------------------------------------------

    def new(self, *shape: int, wide: bool = False) -> Tensor:
        """Scratch on the tokens' device, in the compute dtype or in the states'."""
        dtype = self.dtype if wide else self.compute
        return torch.empty(*shape, dtype=dtype, device=self.q.device)

    def new_planes(self) -> Planes:
        """Scratch of a backward."""
        n, t, f = self.scans, self.length, self.dim
        return Planes(
            dz1q=self.new(n, t, self.inner),
            p=self.new(n, t, f),
            normed=self.new(n, t, f),
            jacobian=self.new(PLANES, n, t, wide=True),
            asked=self.new(n, t, wide=True),
            d_tau=self.new(n, t, wide=True),
            d_last=self.new(n, self.blocks, wide=True),
            d_norm=self.new(n, self.blocks, 2, f, wide=True),
        )

    def wide_states(self, state: State) -> list[Tensor]:
        """Each [B, H, i, o] as [N, i, o], contiguous, in the states' dtype."""
        return [s.to(self.dtype).flatten(0, 1).contiguous() for s in state]

    def narrow_states(self, state: list[Tensor]) -> State:
        """The inverse of `wide_states`."""
        return tuple(s.unflatten(0, (self.batch, self.heads)) for s in state)

    def launch(self, kernel: str) -> Launch:
        """How a kernel of this learner is launched."""
        launch = (self.architecture, self.kind, kernel, self.dim, self.size, self.compute)
        return launch_of(*launch)

    def _shape(self, launch: Launch) -> dict[str, Any]:
        """The compile-time arguments that every kernel takes, and how to launch it."""
        unfused = {} if launch.fused else {"enable_fp_fusion": False}
        return {
            **unfused,
            "F": self.dim,
            "FP": padded(self.dim),
            "K": self.size,
            "BLOCK": self.block,
            "BF16": self.compute == torch.bfloat16,
            "num_warps": launch.num_warps,
            "num_stages": launch.num_stages,
            "maxnreg": launch.max_registers,
        }

    def columns(self, kernel: str) -> int:
        """Hidden columns that a program of a parallel kernel takes at a time."""
        return min(self.launch(kernel).inner_columns, padded(self.inner))

    def options(self, kernel: Any, name: str) -> dict[str, Any]:
        """All compile-time arguments of a kernel of this learner."""
        launch = self.launch(name)
        options = self._shape(launch)
        if "I" in kernel.arg_names:
            options["I"] = self.inner
        if "IB" in kernel.arg_names:
            options["IB"] = self.columns(name)
        if "KEYS_IB" in kernel.arg_names:
            options["KEYS_IB"] = min(launch.key_columns, options["IB"])
        return options

    def run(self, kernel: Any, name: str, grid: tuple[int, ...], **tensors: Tensor | None) -> None:
        """Launch a kernel of this learner.

        Args:
            kernel: the Triton function.
            name: of its launch in the tables.
            grid: programs (CTAs) to run.
            tensors: by the names of its parameters. Tokens, rates, norm, strides and lengths of this segment
                are added to those where the kernel has parameters for them.
        """
        options, values = self.options(kernel, name), {**self._own, **tensors}
        assert tensors.keys() <= set(kernel.arg_names), kernel
        # Triton takes arguments in order for less of the host's time than by name.
        kernel[grid](*(values[x] for x in kernel.arg_names if x not in options), **options)


def padded(dim: int) -> int:
    """The power of two, 16 at least, that a Triton tile needs for dim."""
    return max(16, 1 << (dim - 1).bit_length())
