"""TTT-Linear in plain torch: the two phases of a scan and their hand-written backwards.

Formulas: README.md beside this file (paper: arXiv 2407.04620, appendix A, dual form).
Legend: see ../minibatch.py. `Zq` is the readers' pre-norm output Q' W - (tril(Q' K'^T) eta) G.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from tttscale.kernels.inner_loss import (
    Jacobian,
    Target,
    gradient,
    norm_backward,
    normalise,
    per_head,
    sum_tokens,
)
from tttscale.kernels.minibatch import (
    GROUP,
    GroupCache,
    Rates,
    from_minibatches,
    groups,
    join,
    matmul,
    replay,
    split,
    to_minibatches,
)

State = tuple[Tensor, ...]
Inputs = tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]


@dataclass
class Saved:
    """What the forward keeps for the backward."""

    Z: Tensor
    G: Tensor
    Zq: Tensor
    states: Tensor
    """[ceil(n/GROUP), N, f1, f]: the state before each group."""

    def tensors(self) -> list[Tensor]:
        """In the order of the constructor."""
        return [self.Z, self.G, self.Zq, self.states]


class LinearScan:
    """One scan over q, k, v [B, H, T, f]; methods are called in the order in which they stand."""

    saved_type = Saved

    def __init__(self, inputs: Inputs, size: int, dtype: torch.dtype) -> None:
        q, k, v, lr, token_idx, weight, bias = inputs
        self.shape, self.size, self.dtype, self.batch = q.shape, size, dtype, q.shape[0]
        self.q = to_minibatches(q, size, dtype, ones=True)
        self.k = to_minibatches(k, size, dtype, ones=True)
        values = to_minibatches(v, size, dtype)
        self.target = Target.build(self.k[..., :-1], values, weight, bias, self.batch)
        self.rates = Rates.build(lr, token_idx, size, dtype)
        self.groups, self._cache = groups(self.k.shape[0]), GroupCache()

    # ---- forward -------------------------------------------------------------------------------

    def advance(self, state: State) -> tuple[Saved, State]:
        """The serial chain: inner gradients of every mini-batch, and the state after the last."""
        W = join(*state, self.dtype)
        Z = torch.empty_like(self.target.miss)
        G, firsts = [], []
        updates = (self.rates.step * self.k).transpose(-1, -2).unbind(0)
        keys, zs, us = self.k.unbind(0), Z.unbind(0), self.target.u.unbind(0)
        for begin, end in self.groups:
            inside = W.new_empty(end - begin, *W.shape)
            inside[0] = W
            firsts.append(W.clone())
            states = inside.unbind(0)
            for i in range(begin, end):
                now, after = states[i - begin], W if i + 1 == end else states[i + 1 - begin]
                torch.bmm(keys[i], now, out=zs[i])
                G.append(gradient(zs[i], us[i], self.target.gamma2))
                torch.baddbmm(now, updates[i], G[-1], out=after)
            self._cache.put(begin, (inside,))
        saved = Saved(Z, torch.stack(G), Z.new_empty(0), torch.stack(firsts))
        return saved, split(W, self.batch)

    def readout(self, saved: Saved) -> Tensor:
        """All outputs q + LN(Zq), in parallel, given the inner gradients; [B, H, T, f]."""
        attention = matmul(self.q, self.k.transpose(-1, -2)).mul_(self.rates.coefficients())
        Zq = matmul(attention, saved.G).neg_()
        for begin, end in self.groups:
            W = self._replay(saved, begin, end)
            n, N = W.shape[:2]
            Zq[begin:end].view(n * N, *Zq.shape[2:]).baddbmm_(
                self.q[begin:end].flatten(0, 1), W.flatten(0, 1)
            )
        saved.Zq = Zq
        normed = normalise(Zq)[0]
        out = torch.addcmul(self.q[..., :-1] + self.target.beta, self.target.gamma, normed)
        return from_minibatches(out, self.shape, self.dtype)

    # ---- backward ------------------------------------------------------------------------------

    def readout_backward(self, saved: Saved, d_out: Tensor) -> None:
        """Everything that needs no gradient of the state: dZq, and what readers ask of G."""
        d_out = to_minibatches(d_out, self.size, self.dtype)
        normed, mean, rstd = normalise(saved.Zq)
        self.d_gamma = sum_tokens(d_out, normed)
        self.d_beta = d_out.sum((0, 2))
        self.d_q = d_out
        f1 = self.k.shape[-1]
        self.kq = torch.cat([self.k, self.q], dim=2)  # [n, N, 2K, f1]
        self.dz = torch.empty(*self.kq.shape[:3], f1 - 1, dtype=self.dtype, device=self.k.device)
        self.dZq = self.dz[:, :, self.size :]
        self.dZq.copy_(norm_backward(d_out * self.target.gamma, saved.Zq, mean, rstd))
        self.scores = matmul(self.q, self.k.transpose(-1, -2)).tril_()
        readers = self.scores * self.rates.tau
        self.asked = matmul(readers.transpose(-1, -2), self.dZq)  # rho without the future's part
        self.jacobian = Jacobian.prepare(saved.Z, self.target.u, saved.G, self.target.gamma2)

    def advance_backward(self, saved: Saved, d_state: State) -> State:
        """The reverse chain: the gradient of the state after the scan -> of the state before it."""
        dW = join(*d_state, self.dtype)
        size, count = self.size, self.k.shape[0]
        local = (self.asked * -self.rates.lam).unbind(0)
        future = self.rates.step.unbind(0)
        keys, pairs = self.k.unbind(0), self.kq.transpose(-1, -2).unbind(0)
        dz, dz_keys = self.dz.unbind(0), self.dz[:, :, :size].unbind(0)
        self.kappa = torch.empty_like(saved.G)
        kappas, G, jacobians = self.kappa.unbind(0), saved.G.unbind(0), self.jacobian.steps()
        self.update_d_k = torch.empty_like(self.k)
        updates = self.update_d_k.unbind(0)
        dy: list[Tensor] = [dW] * count
        for i in reversed(range(count)):
            torch.bmm(keys[i], dW, out=kappas[i])
            torch.bmm(G[i], dW.transpose(-1, -2), out=updates[i])
            p = torch.addcmul(local[i], future[i], kappas[i])
            dy[i] = jacobians[i].transpose(p, dz_keys[i])
            dW.baddbmm_(pairs[i], dz[i])
        self.dy = torch.stack(dy)
        return split(dW, self.batch)

    def gradients(self, saved: Saved) -> tuple[Tensor, ...]:
        """Gradients of q, k, v, lr, token_idx, norm weight and bias, all in parallel."""
        size, rates = self.size, self.rates
        pairs = matmul(self.dZq, saved.G.transpose(-1, -2))
        d_tau = -(pairs * self.scores * rates.lam.transpose(-1, -2)).sum(-1)
        pairs.mul_(rates.coefficients())
        d_q = matmul(pairs, self.k).neg_()
        d_k = matmul(pairs.transpose(-1, -2), self.q).neg_()
        d_k.addcmul_(rates.step, self.update_d_k)
        for begin, end in self.groups:
            W = self._replay(saved, begin, end)
            both = matmul(self.dz[begin:end], W.transpose(-1, -2))
            d_k[begin:end] += both[:, :, :size]
            d_q[begin:end] += both[:, :, size:]
        d_v, d_gamma, d_beta = self.target.backward(self.dy, self.jacobian.normed)
        d_q[..., :-1] += self.d_q
        d_k[..., :-1] -= d_v
        future = torch.linalg.vecdot(saved.G, self.kappa)
        d_lam = -torch.linalg.vecdot(saved.G, self.asked) - rates.tau_last[..., 0] * future
        d_tau_last = -(rates.lam[..., 0] * future).sum((1, 2))
        return (
            from_minibatches(d_q, self.shape, self.dtype),
            from_minibatches(d_k, self.shape, self.dtype),
            from_minibatches(d_v, self.shape, self.dtype),
            from_minibatches(d_lam.unsqueeze(-1), self.shape[:3] + (1,), self.dtype).squeeze(-1),
            rates.grad_token_idx(d_tau, d_tau_last),
            per_head(d_gamma + self.d_gamma, self.batch),
            per_head(d_beta + self.d_beta, self.batch),
        )

    # ---- states inside a group -----------------------------------------------------------------

    def _replay(self, saved: Saved, begin: int, end: int) -> Tensor:
        """States before mini-batches begin..end, [g, N, f1, f]: the same products as in `advance`."""
        held = self._cache.get(begin)
        if held is None:
            keys = (self.rates.step[begin:end] * self.k[begin:end]).transpose(-1, -2)
            states = replay(saved.states[begin // GROUP], keys, saved.G[begin:end])
            held = self._cache.put(begin, (states,))
        return held[0]
