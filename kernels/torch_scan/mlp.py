"""TTT-MLP in plain torch: what happens inside one group of mini-batches.

Formulas: ../ttt_mlp.md (paper: arXiv 2407.04620, appendix A, dual form).
Legend: see minibatch.py; h = 4f hidden features, h1 = h + 1. X2 = [gelu(Z1), 1] of the keys, `Xq` of
the readers; `Z1q`, `Z2q` are the readers' pre-activations.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from tttscale.kernels.torch_scan.gelu import gelu, gelu_and_slope, slope_and_curvature
from tttscale.kernels.torch_scan.group_scan import Grads, GroupScan, Kept, State, Tokens
from tttscale.kernels.torch_scan.inner_loss import (
    Jacobian,
    by_minibatch,
    gradient,
    gradients,
    norm_backward,
    normalise,
    sum_tokens,
)
from tttscale.kernels.torch_scan.minibatch import join, matmul, replay, split


@dataclass
class MLPBackwardState:
    """Tensors that the backward phases of one group hand on."""

    d_out: Tensor
    d_gamma: Tensor
    d_beta: Tensor
    d_tau: Tensor
    Xq: Tensor
    dZ2q: Tensor
    dX2: Tensor
    """Readers' share of the gradient of the keys' hidden layer."""
    dz1: Tensor
    """[n, N, 2K, h]: gradients at the keys' Z1 (filled in by the chain), then at the readers' Z1q."""
    asked1: Tensor
    asked2: Tensor
    jacobian: Jacobian
    kappa1: Tensor
    kappa2: Tensor
    update_d_k: Tensor
    dy: Tensor


class _Chain:
    """The forward chain of one group, a mini-batch at a time."""

    def __init__(self, tokens: Tokens, state: State) -> None:
        miss = tokens.target.miss
        self.k, self.u, self.gamma2 = tokens.k, tokens.target.u, tokens.target.gamma2
        self.rates = tokens.rates.step
        self.updates = (self.rates * tokens.k).transpose(-1, -2)
        self.Z1 = miss.new_empty(*miss.shape[:3], state[0].shape[-1])
        self.X2 = _with_ones(self.Z1)
        self.E, self.G1 = torch.empty_like(self.Z1), torch.empty_like(self.Z1)
        self.Z2, self.G2 = torch.empty_like(miss), torch.empty_like(miss)

    def gradients(self, i: int, W1: Tensor, W2: Tensor) -> None:
        """Z1, X2, Z2, G2 and G1 of mini-batch i at these weights."""
        torch.bmm(self.k[i], W1, out=self.Z1[i])
        _, slope = gelu_and_slope(self.Z1[i], out=self.X2[i, ..., :-1])
        torch.bmm(self.X2[i], W2, out=self.Z2[i])
        self.G2[i] = gradient(self.Z2[i], self.u[i], self.gamma2)
        torch.bmm(self.G2[i], W2[:, :-1].transpose(-1, -2), out=self.E[i])
        torch.mul(self.E[i], slope, out=self.G1[i])

    def update(self, i: int, before: State, after: State) -> None:
        """Write the weights after mini-batch i into `after`, which may be `before`."""
        torch.baddbmm(before[0], self.updates[i], self.G1[i], out=after[0])
        keys2 = (self.rates[i] * self.X2[i]).transpose(-1, -2)
        torch.baddbmm(before[1], keys2, self.G2[i], out=after[1])

    def kept(self, first: State) -> Kept:
        """Tensors that a backward needs of the group; the readers' part is filled in later."""
        return [self.G1, self.G2, self.Z2, self.Z2, self.Z1, self.Z1, self.E, *first]


class _Readers:
    """The readers of one group, a mini-batch at a time: after each step of the chain, or after all of it.

    Either way each product has operands of one shape and place in memory, on which its bits may depend.
    """

    def __init__(self, tokens: Tokens, Z1: Tensor, Z2: Tensor) -> None:
        self.q, self.coefficients = tokens.q, tokens.rates.coefficients()
        self.scores1 = matmul(tokens.q, tokens.k.transpose(-1, -2)).mul_(self.coefficients)
        self.Xq = _with_ones(Z1[0])
        self.Z1q, self.Z2q = torch.empty_like(Z1), torch.empty_like(Z2)

    def read(self, i: int, kept: Kept, inside: State) -> None:
        """Z1q and Z2q = Xq W2 - (tril(Xq X2^T) eta) G2 of mini-batch i."""
        (G1, G2), (W1, W2, X2) = kept[:2], inside
        torch.bmm(self.q[i], W1[i], out=self.Z1q[i]).sub_(torch.bmm(self.scores1[i], G1[i]))
        gelu(self.Z1q[i], out=self.Xq[..., :-1])
        scores2 = torch.bmm(self.Xq, X2[i].transpose(-1, -2)).mul_(self.coefficients[i])
        torch.bmm(self.Xq, W2[i], out=self.Z2q[i]).sub_(torch.bmm(scores2, G2[i]))


class MLPScan(GroupScan):
    """kept = [G1, G2, Z2, Z2q, Z1, Z1q, E, W1, W2]; inside = (W1, W2 before each mini-batch, X2)."""

    def join(self, state: State) -> State:
        """[W1; b1], [W2; b2]: [N, f + 1, h], [N, h + 1, f]."""
        W1, b1, W2, b2 = state
        return join(W1, b1, self.dtype), join(W2, b2, self.dtype)

    def split(self, joined: State) -> State:
        """W1, b1, W2, b2."""
        return (*split(joined[0], self.batch), *split(joined[1], self.batch))

    def advance_group(self, tokens: Tokens, state: State) -> tuple[Kept, State]:
        """The chain: Z1, X2, Z2, G2 = g(Z2), G1 = (G2 W2^T) gelu'(Z1), then both updates."""
        return self._run(_Chain(tokens, state), state, None)

    def forward_group(self, tokens: Tokens, state: State) -> tuple[Kept, Tensor]:
        """Readers follow each step while its state is in the cache."""
        chain = _Chain(tokens, state)
        readers = _Readers(tokens, chain.Z1, chain.Z2)
        kept, _ = self._run(chain, state, readers)
        return kept, self._outputs(tokens, kept, readers)

    def readout_group(self, tokens: Tokens, kept: Kept, inside: State) -> Tensor:
        """out = q + LN(Z2q)."""
        readers = _Readers(tokens, kept[4], kept[2])
        for i in range(tokens.k.shape[0]):
            readers.read(i, kept, inside)
        return self._outputs(tokens, kept, readers)

    def _run(self, chain: _Chain, state: State, readers: _Readers | None) -> tuple[Kept, State]:
        """All steps, updating `state` in place."""
        count = len(chain.Z1)
        W1, W2 = (W.new_empty(count, *W.shape) for W in state)
        W1[0], W2[0] = state
        kept, inside = chain.kept((state[0].clone(), state[1].clone())), (W1, W2, chain.X2)
        for i in range(count):
            chain.gradients(i, W1[i], W2[i])
            if readers is not None:
                readers.read(i, kept, inside)
            last = i + 1 == count
            chain.update(i, (W1[i], W2[i]), state if last else (W1[i + 1], W2[i + 1]))
        return kept, inside

    def _outputs(self, tokens: Tokens, kept: Kept, readers: _Readers) -> Tensor:
        kept[3], kept[5], target = readers.Z2q, readers.Z1q, tokens.target
        normed = normalise(readers.Z2q)[0]
        return torch.addcmul(tokens.q[..., :-1] + target.beta, target.gamma, normed)

    @staticmethod
    def lean(kept: Kept) -> Kept:
        """Without G1 and G2."""
        return kept[2:]

    def whole(self, tokens: Tokens, lean: Kept) -> Kept:
        """G2 = g(Z2) and G1 = E gelu'(Z1) again, as the chain formed them."""
        Z2, _, Z1, _, E = lean[:5]
        G1 = by_minibatch(lambda e, z: e * gelu_and_slope(z)[1], E, Z1)
        return [G1, gradients(Z2, tokens.target), *lean]

    def replay(self, tokens: Tokens, kept: Kept) -> State:
        """The same products as in `advance_group`, on operands at the same places."""
        rates, X2 = tokens.rates.step, _with_ones(kept[4])
        for i, z in enumerate(kept[4]):
            gelu(z, out=X2[i, ..., :-1])
        W1 = replay(kept[7], (rates * tokens.k).transpose(-1, -2), kept[0])
        keys2 = [(rate * x).transpose(-1, -2) for rate, x in zip(rates, X2, strict=True)]
        W2 = replay(kept[8], keys2, kept[1])
        return W1, W2, X2

    def readout_backward_group(
        self, tokens: Tokens, kept: Kept, inside: State, d_out: Tensor
    ) -> MLPBackwardState:
        """dZ2q, dZ1q, and what readers ask of G1, G2 and of the keys' hidden layer."""
        (G1, G2, Z2, Z2q, _, Z1q), (_, W2, X2), rates = kept[:6], inside, tokens.rates
        size, coefficients = tokens.k.shape[2], rates.coefficients()
        normed, mean, rstd = normalise(Z2q)
        dZ2q = norm_backward(d_out * tokens.target.gamma, Z2q, mean, rstd)
        Xq, slope = _activated_and_slope(Z1q)
        scores2 = matmul(Xq, X2.transpose(-1, -2)).tril_()
        pairs2 = matmul(dZ2q, G2.transpose(-1, -2))
        d_tau = pairs2 * scores2
        pairs2.mul_(coefficients)
        dXq = matmul(dZ2q, W2[..., :-1, :].transpose(-1, -2)).sub_(matmul(pairs2, X2[..., :-1]))
        dz1 = G1.new_empty(*G1.shape[:2], 2 * size, G1.shape[-1])
        dZ1q = dXq.mul_(slope)
        dz1[:, :, size:] = dZ1q
        scores1 = matmul(tokens.q, tokens.k.transpose(-1, -2)).tril_()
        d_tau.addcmul_(matmul(dZ1q, G1.transpose(-1, -2)), scores1)
        return MLPBackwardState(
            d_out=d_out,
            d_gamma=sum_tokens(d_out, normed),
            d_beta=d_out.sum((0, 2)),
            d_tau=-(d_tau * rates.lam.transpose(-1, -2)).sum(-1),
            Xq=Xq,
            dZ2q=dZ2q,
            dX2=matmul(pairs2.transpose(-1, -2), Xq[..., :-1]).neg_(),
            dz1=dz1,
            asked1=matmul((scores1 * rates.tau).transpose(-1, -2), dZ1q),
            asked2=matmul((scores2 * rates.tau).transpose(-1, -2), dZ2q),
            jacobian=Jacobian.prepare(Z2, tokens.target.u, G2, tokens.target.gamma2),
            kappa1=torch.empty_like(G1),
            kappa2=torch.empty_like(G2),
            update_d_k=torch.empty_like(tokens.k),
            dy=torch.empty_like(G2),
        )

    def advance_backward_group(
        self, tokens: Tokens, kept: Kept, inside: State, bwd: MLPBackwardState, d_state: State
    ) -> None:
        """The reverse chain through both layers; see ../ttt_mlp.md."""
        (dW1, dW2), (_, W2, X2), (G1, G2), step = d_state, inside, kept[:2], tokens.rates.step
        size = tokens.k.shape[2]
        slope, curvature = slope_and_curvature(kept[4])
        dZ2 = torch.empty_like(G2)
        dE = torch.zeros_like(X2[0])  # its last column belongs to the bias, which E does not have
        curved = curvature.mul_(kept[6])
        pairs = torch.cat([tokens.k, tokens.q], dim=2).transpose(-1, -2)
        local1, local2 = (asked * -tokens.rates.lam for asked in (bwd.asked1, bwd.asked2))
        jacobians = bwd.jacobian.steps()
        for i in reversed(range(len(jacobians))):
            W2i, dZ1 = W2[i, :, :-1], bwd.dz1[i, :, :size]
            torch.bmm(X2[i], dW2, out=bwd.kappa2[i])
            torch.bmm(tokens.k[i], dW1, out=bwd.kappa1[i])
            torch.bmm(G1[i], dW1.transpose(-1, -2), out=bwd.update_d_k[i])
            dG1 = torch.addcmul(local1[i], step[i], bwd.kappa1[i])
            dE_i = torch.mul(dG1, slope[i], out=dE[..., :-1])
            p = torch.addcmul(local2[i], step[i], bwd.kappa2[i]).baddbmm_(dE_i, W2i)
            bwd.dy[i] = jacobians[i].transpose(p, dZ2[i])
            dX2 = torch.bmm(G2[i], dW2[:, :-1].transpose(-1, -2))
            dX2 = torch.addcmul(bwd.dX2[i], step[i], dX2).baddbmm_(dZ2[i], W2i.transpose(-1, -2))
            torch.mul(dG1, curved[i], out=dZ1)
            dZ1.addcmul_(dX2, slope[i])
            dW2.baddbmm_(bwd.Xq[i].transpose(-1, -2), bwd.dZ2q[i])
            dW2.baddbmm_(X2[i].transpose(-1, -2), dZ2[i])
            dW2.baddbmm_(dE.transpose(-1, -2), G2[i])
            dW1.baddbmm_(pairs[i], bwd.dz1[i])

    def gradients_group(
        self, tokens: Tokens, kept: Kept, inside: State, bwd: MLPBackwardState
    ) -> Grads:
        """Gradients of tokens, rates and norm parameters."""
        (G1, G2), size, rates = kept[:2], tokens.k.shape[2], tokens.rates
        pairs = matmul(bwd.dz1[:, :, size:], G1.transpose(-1, -2)).mul_(rates.coefficients())
        both = matmul(bwd.dz1, inside[0].transpose(-1, -2))
        d_k, d_q = both[:, :, :size], both[:, :, size:]
        d_q -= matmul(pairs, tokens.k)
        d_k -= matmul(pairs.transpose(-1, -2), tokens.q)
        d_k.addcmul_(rates.step, bwd.update_d_k)
        d_v, d_gamma, d_beta = tokens.target.backward(bwd.dy, bwd.jacobian.normed)
        d_q[..., :-1] += bwd.d_out
        d_k[..., :-1] -= d_v
        dot = torch.linalg.vecdot
        future = dot(G1, bwd.kappa1) + dot(G2, bwd.kappa2)
        asked = dot(G1, bwd.asked1) + dot(G2, bwd.asked2)
        d_lam = -asked - rates.tau_last[..., 0] * future
        d_tau_last = -(rates.lam[..., 0] * future).sum((1, 2))
        token_idx = rates.grad_token_idx(bwd.d_tau, d_tau_last)
        d_gamma, d_beta = d_gamma + bwd.d_gamma, d_beta + bwd.d_beta
        return Grads(d_q, d_k, d_v, d_lam, token_idx, d_gamma, d_beta)


def _activated_and_slope(z: Tensor) -> tuple[Tensor, Tensor]:
    """[gelu(z), 1] and gelu'(z)."""
    out = _with_ones(z)
    return out, gelu_and_slope(z, out=out[..., :-1])[1]


def _with_ones(z: Tensor) -> Tensor:
    """[..., h] -> [..., h1], of which the last column is 1 and the others are to be filled."""
    out = z.new_empty(*z.shape[:-1], z.shape[-1] + 1)
    out[..., -1] = 1
    return out
