"""TTT-Linear in plain torch: what happens inside one group of mini-batches.

Formulas: ../ttt_linear.md (paper: arXiv 2407.04620, appendix A, dual form).
Legend: see minibatch.py. `Zq` is the readers' pre-norm output Q' W - (tril(Q' K'^T) eta) G.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from tttscale.kernels.torch_scan.group_scan import Grads, GroupScan, Kept, State, Tokens
from tttscale.kernels.torch_scan.inner_loss import (
    Jacobian,
    gradient,
    gradients,
    norm_backward,
    normalise,
    sum_tokens,
)
from tttscale.kernels.torch_scan.minibatch import join, matmul, replay, split


@dataclass
class LinearBackwardState:
    """Tensors that the backward phases of one group hand on."""

    d_out: Tensor
    d_gamma: Tensor
    d_beta: Tensor
    dz: Tensor
    """[n, N, 2K, f]: gradients at the keys' Z (filled in by the chain), then at the readers' Zq."""
    scores: Tensor
    """tril(Q' K'^T)."""
    asked: Tensor
    """rho without the future's part: what readers ask of each inner gradient."""
    jacobian: Jacobian
    kappa: Tensor
    """K' dW of the state after each mini-batch."""
    update_d_k: Tensor
    """G dW^T, the keys' part in the state's update."""
    dy: Tensor


class LinearScan(GroupScan):
    """kept = [G, Z, Zq, W]; inside = (W before each mini-batch,)."""

    def join(self, state: State) -> State:
        """[W1; b1]: [N, f + 1, f]."""
        return (join(state[0], state[1], self.dtype),)

    def split(self, joined: State) -> State:
        """W1, b1."""
        return split(joined[0], self.batch)

    def advance_group(self, tokens: Tokens, state: State) -> tuple[Kept, State]:
        """Z = K' W, G = g(Z), W <- W - tau_last (lam K')^T G."""
        W, count = state[0], tokens.k.shape[0]
        inside = W.new_empty(count, *W.shape)
        inside[0] = W
        Z, G = torch.empty_like(tokens.target.miss), torch.empty_like(tokens.target.miss)
        updates = (tokens.rates.step * tokens.k).transpose(-1, -2)
        steps = [t.unbind(0) for t in (tokens.k, inside, Z, tokens.target.u, updates)]
        for i, (k, now, z, u, update) in enumerate(zip(*steps, strict=True)):
            torch.bmm(k, now, out=z)
            G[i] = gradient(z, u, tokens.target.gamma2)
            torch.baddbmm(now, update, G[i], out=inside[i + 1] if i + 1 < count else W)
        return [G, Z, Z, inside[0].clone()], (inside,)

    def readout_group(self, tokens: Tokens, kept: Kept, inside: State) -> Tensor:
        """Zq = Q' W - (tril(Q' K'^T) eta) G, out = q + LN(Zq)."""
        attention = matmul(tokens.q, tokens.k.transpose(-1, -2)).mul_(tokens.rates.coefficients())
        Zq = matmul(tokens.q, inside[0])
        Zq.flatten(0, 1).baddbmm_(attention.flatten(0, 1), kept[0].flatten(0, 1), alpha=-1)
        kept[2] = Zq
        target = tokens.target
        return torch.addcmul(tokens.q[..., :-1] + target.beta, target.gamma, normalise(Zq)[0])

    @staticmethod
    def lean(kept: Kept) -> Kept:
        """Without G."""
        return kept[1:]

    def whole(self, tokens: Tokens, lean: Kept) -> Kept:
        """G = g(Z) again, as the chain formed it."""
        return [gradients(lean[0], tokens.target), *lean]

    def replay(self, tokens: Tokens, kept: Kept) -> State:
        """The same products as in `advance_group`."""
        keys = (tokens.rates.step * tokens.k).transpose(-1, -2)
        return (replay(kept[3], keys, kept[0]),)

    def readout_backward_group(
        self, tokens: Tokens, kept: Kept, inside: State, d_out: Tensor
    ) -> LinearBackwardState:
        """dZq, and what readers ask of G."""
        G, Z, Zq = kept[:3]
        normed, mean, rstd = normalise(Zq)
        size, rates = tokens.k.shape[2], tokens.rates
        dz = G.new_empty(*G.shape[:2], 2 * size, G.shape[-1])
        dz[:, :, size:] = norm_backward(d_out * tokens.target.gamma, Zq, mean, rstd)
        scores = matmul(tokens.q, tokens.k.transpose(-1, -2)).tril_()
        return LinearBackwardState(
            d_out=d_out,
            d_gamma=sum_tokens(d_out, normed),
            d_beta=d_out.sum((0, 2)),
            dz=dz,
            scores=scores,
            asked=matmul((scores * rates.tau).transpose(-1, -2), dz[:, :, size:]),
            jacobian=Jacobian.prepare(Z, tokens.target.u, G, tokens.target.gamma2),
            kappa=torch.empty_like(G),
            update_d_k=torch.empty_like(tokens.k),
            dy=torch.empty_like(G),
        )

    def advance_backward_group(
        self, tokens: Tokens, kept: Kept, inside: State, bwd: LinearBackwardState, d_state: State
    ) -> None:
        """p = -lam (asked + tau_last K' dW); dZ = J(p); dW <- dW + K'^T dZ + Q'^T dZq."""
        dW, rates = d_state[0], tokens.rates
        local = (bwd.asked * -rates.lam).unbind(0)
        future, G, keys = rates.step.unbind(0), kept[0].unbind(0), tokens.k.unbind(0)
        pairs = torch.cat([tokens.k, tokens.q], dim=2).transpose(-1, -2).unbind(0)
        dz, dz_keys = bwd.dz.unbind(0), bwd.dz[:, :, : tokens.k.shape[2]].unbind(0)
        kappas, updates, dys = (t.unbind(0) for t in (bwd.kappa, bwd.update_d_k, bwd.dy))
        jacobians = bwd.jacobian.steps()
        for i in reversed(range(len(keys))):
            torch.bmm(keys[i], dW, out=kappas[i])
            torch.bmm(G[i], dW.transpose(-1, -2), out=updates[i])
            p = torch.addcmul(local[i], future[i], kappas[i])
            dys[i].copy_(jacobians[i].transpose(p, dz_keys[i]))
            dW.baddbmm_(pairs[i], dz[i])

    def gradients_group(
        self, tokens: Tokens, kept: Kept, inside: State, bwd: LinearBackwardState
    ) -> Grads:
        """Gradients of tokens, rates and norm parameters."""
        G, size, rates = kept[0], tokens.k.shape[2], tokens.rates
        pairs = matmul(bwd.dz[:, :, size:], G.transpose(-1, -2))
        d_tau = -(pairs * bwd.scores * rates.lam.transpose(-1, -2)).sum(-1)
        pairs.mul_(rates.coefficients())
        both = matmul(bwd.dz, inside[0].transpose(-1, -2))
        d_k, d_q = both[:, :, :size], both[:, :, size:]
        d_q -= matmul(pairs, tokens.k)
        d_k -= matmul(pairs.transpose(-1, -2), tokens.q)
        d_k.addcmul_(rates.step, bwd.update_d_k)
        d_v, d_gamma, d_beta = tokens.target.backward(bwd.dy, bwd.jacobian.normed)
        d_q[..., :-1] += bwd.d_out
        d_k[..., :-1] -= d_v
        future = torch.linalg.vecdot(G, bwd.kappa)
        d_lam = -torch.linalg.vecdot(G, bwd.asked) - rates.tau_last[..., 0] * future
        d_tau_last = -(rates.lam[..., 0] * future).sum((1, 2))
        token_idx = rates.grad_token_idx(d_tau, d_tau_last)
        d_gamma, d_beta = d_gamma + bwd.d_gamma, d_beta + bwd.d_beta
        return Grads(d_q, d_k, d_v, d_lam, token_idx, d_gamma, d_beta)
