"""TTT-MLP in plain torch: the two phases of a scan and their hand-written backwards.

Formulas: README.md beside this file (paper: arXiv 2407.04620, appendix A, dual form).
Legend: see ../minibatch.py; h = 4f hidden features, h1 = h + 1. X2 = [gelu(Z1), 1] of the keys, `Xq` of
the readers; `Z1q`, `Z2q` are the readers' pre-activations.
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
from tttscale.kernels.ttt_mlp.gelu import gelu, slope_and_curvature, times_slope

State = tuple[Tensor, ...]
Inputs = tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]


@dataclass
class Saved:
    """What the forward keeps for the backward; Z1 and the readers' hidden layer are recomputed."""

    G1: Tensor
    G2: Tensor
    Z2: Tensor
    Z2q: Tensor
    states1: Tensor
    states2: Tensor

    def tensors(self) -> list[Tensor]:
        """In the order of the constructor."""
        return [self.G1, self.G2, self.Z2, self.Z2q, self.states1, self.states2]


def _activated(z: Tensor) -> Tensor:
    """[gelu(z), 1]: [..., h] -> [..., h1]."""
    out = torch.empty(*z.shape[:-1], z.shape[-1] + 1, dtype=z.dtype, device=z.device)
    out[..., :-1] = gelu(z)
    out[..., -1] = 1
    return out


class MLPScan:
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
        W1, W2 = join(*state[:2], self.dtype), join(*state[2:], self.dtype)
        Z2 = torch.empty_like(self.target.miss)
        G1, G2, firsts1, firsts2 = [], [], [], []
        Z1 = Z2.new_empty(*Z2.shape[1:3], W1.shape[-1])
        rates, keys = self.rates.step.unbind(0), self.k.unbind(0)
        updates = (self.rates.step * self.k).transpose(-1, -2).unbind(0)
        zs, us = Z2.unbind(0), self.target.u.unbind(0)
        for begin, end in self.groups:
            firsts1.append(W1.clone())
            firsts2.append(W2.clone())
            inside1, inside2 = (W.new_empty(end - begin, *W.shape) for W in (W1, W2))
            inside1[0], inside2[0] = W1, W2
            X2 = Z1.new_ones(end - begin, *Z1.shape[:2], Z1.shape[2] + 1)
            for i in range(begin, end):
                at, last = i - begin, i + 1 == end
                now1, now2, x2 = inside1[at], inside2[at], X2[at]
                torch.bmm(keys[i], now1, out=Z1)
                x2[..., :-1] = gelu(Z1)
                torch.bmm(x2, now2, out=zs[i])
                G2.append(gradient(zs[i], us[i], self.target.gamma2))
                G1.append(times_slope(torch.bmm(G2[-1], now2[:, :-1].transpose(-1, -2)), Z1))
                torch.baddbmm(now1, updates[i], G1[-1], out=W1 if last else inside1[at + 1])
                keys2 = (rates[i] * x2).transpose(-1, -2)
                torch.baddbmm(now2, keys2, G2[-1], out=W2 if last else inside2[at + 1])
            self._cache.put(begin, (inside1, inside2, X2))
        saved = Saved(
            torch.stack(G1),
            torch.stack(G2),
            Z2,
            Z2.new_empty(0),
            torch.stack(firsts1),
            torch.stack(firsts2),
        )
        return saved, (*split(W1, self.batch), *split(W2, self.batch))

    def readout(self, saved: Saved) -> Tensor:
        """All outputs q + LN(Z2q), in parallel over groups, given the inner gradients."""
        Z2q = torch.empty_like(saved.Z2)
        coefficients = self.rates.coefficients()
        for begin, end in self.groups:
            group = slice(begin, end)
            W1, W2, X2 = self._replay(saved, begin, end)
            Xq = _activated(self._readers_hidden(saved, group, W1, coefficients[group]))
            scores = matmul(Xq, X2.transpose(-1, -2)).mul_(coefficients[group])
            Z2q[group] = matmul(Xq, W2) - matmul(scores, saved.G2[group])
        saved.Z2q = Z2q
        normed = normalise(Z2q)[0]
        out = torch.addcmul(self.q[..., :-1] + self.target.beta, self.target.gamma, normed)
        return from_minibatches(out, self.shape, self.dtype)

    def _readers_hidden(self, saved: Saved, group: slice, W1: Tensor, coefficients: Tensor) -> Tensor:
        scores = matmul(self.q[group], self.k[group].transpose(-1, -2)).mul_(coefficients)
        return matmul(self.q[group], W1) - matmul(scores, saved.G1[group])

    # ---- backward ------------------------------------------------------------------------------

    def readout_backward(self, saved: Saved, d_out: Tensor) -> None:
        """Everything that needs no gradient of the state, group by group."""
        d_out = to_minibatches(d_out, self.size, self.dtype)
        normed, mean, rstd = normalise(saved.Z2q)
        self.d_gamma = sum_tokens(d_out, normed)
        self.d_beta = d_out.sum((0, 2))
        self.d_q = d_out
        self.dZ2q = norm_backward(d_out * self.target.gamma, saved.Z2q, mean, rstd)
        hidden = saved.G1.shape
        self.Xq = saved.G1.new_empty(*hidden[:-1], hidden[-1] + 1)
        self.dX2 = torch.empty_like(saved.G1)  # what readers ask of the keys' hidden layer
        self.dz1 = saved.G1.new_empty(*hidden[:2], 2 * self.size, hidden[-1])  # keys, then readers
        self.asked1, self.asked2 = torch.empty_like(saved.G1), torch.empty_like(saved.G2)
        self.d_tau = torch.empty_like(self.rates.lam[..., 0])
        coefficients = self.rates.coefficients()
        for begin, end in self.groups:
            self._readout_backward_group(saved, slice(begin, end), coefficients[begin:end])
        self.jacobian = Jacobian.prepare(saved.Z2, self.target.u, saved.G2, self.target.gamma2)

    def _readout_backward_group(self, saved: Saved, group: slice, coefficients: Tensor) -> None:
        rates, dZ2q = self.rates, self.dZ2q[group]
        lam = rates.lam[group].transpose(-1, -2)
        W1, W2, X2 = self._replay(saved, group.start, group.stop)
        Z1q = self._readers_hidden(saved, group, W1, coefficients)
        Xq = _activated(Z1q)
        self.Xq[group] = Xq
        scores = matmul(Xq, X2.transpose(-1, -2)).tril_()
        pairs = matmul(dZ2q, saved.G2[group].transpose(-1, -2))
        self.d_tau[group] = -(pairs * scores * lam).sum(-1)
        pairs.mul_(coefficients)
        self.dX2[group] = -matmul(pairs.transpose(-1, -2), Xq[..., :-1])
        dXq = matmul(dZ2q, W2[..., :-1, :].transpose(-1, -2)) - matmul(pairs, X2[..., :-1])
        dZ1q = times_slope(dXq, Z1q)
        self.dz1[group, :, self.size :] = dZ1q
        self.asked2[group] = matmul((scores * rates.tau).transpose(-1, -2), dZ2q)
        scores = matmul(self.q[group], self.k[group].transpose(-1, -2)).tril_()
        self.asked1[group] = matmul((scores * rates.tau).transpose(-1, -2), dZ1q)
        pairs = matmul(dZ1q, saved.G1[group].transpose(-1, -2))
        self.d_tau[group] -= (pairs * scores * lam).sum(-1)

    def advance_backward(self, saved: Saved, d_state: State) -> State:
        """The reverse chain: the gradient of the state after the scan -> of the state before it."""
        dW1, dW2 = join(*d_state[:2], self.dtype), join(*d_state[2:], self.dtype)
        self.kappa1, self.kappa2 = torch.empty_like(saved.G1), torch.empty_like(saved.G2)
        self.dy = torch.empty_like(saved.G2)
        self.update_d_k = torch.empty_like(self.k)
        self.kq = torch.cat([self.k, self.q], dim=2)
        jacobians = self.jacobian.steps()
        for begin, end in reversed(self.groups):
            self._advance_backward_group(saved, slice(begin, end), dW1, dW2, jacobians[begin:end])
        return (*split(dW1, self.batch), *split(dW2, self.batch))

    def _advance_backward_group(
        self, saved: Saved, group: slice, dW1: Tensor, dW2: Tensor, jacobians: list[Jacobian]
    ) -> None:
        size, W1, W2, X2 = self.size, *self._replay(saved, group.start, group.stop)
        slope, curvature = slope_and_curvature(matmul(self.k[group], W1))
        # One product updates dW2: rows (keys' hidden, readers' hidden, dE), columns (dZ2, dZ2q, G2).
        rows = torch.cat([X2, self.Xq[group], torch.zeros_like(X2)], dim=2)
        cols = torch.cat([saved.G2[group], self.dZ2q[group], saved.G2[group]], dim=2)
        curved = matmul(saved.G2[group], W2[..., :-1, :].transpose(-1, -2)).mul_(curvature)
        step = self.rates.step[group]
        local1 = self.asked1[group] * -self.rates.lam[group]
        local2 = self.asked2[group] * -self.rates.lam[group]
        for i in reversed(range(group.stop - group.start)):
            at, W2i = group.start + i, W2[i, :, :-1]
            torch.bmm(X2[i], dW2, out=self.kappa2[at])
            torch.bmm(self.k[at], dW1, out=self.kappa1[at])
            dG1 = torch.addcmul(local1[i], step[i], self.kappa1[at])
            dE = dG1 * slope[i]
            rows[i, :, 2 * size :, :-1] = dE
            p = torch.addcmul(local2[i], step[i], self.kappa2[at]).baddbmm_(dE, W2i)
            dZ2 = cols[i, :, :size]
            self.dy[at] = jacobians[i].transpose(p, dZ2)
            dX2 = torch.bmm(saved.G2[at], dW2[:, :-1].transpose(-1, -2)).mul_(step[i])
            dX2.add_(self.dX2[at]).baddbmm_(dZ2, W2i.transpose(-1, -2))
            dZ1 = self.dz1[at, :, :size]
            torch.mul(dG1, curved[i], out=dZ1)
            dZ1.addcmul_(dX2, slope[i])
            torch.bmm(saved.G1[at], dW1.transpose(-1, -2), out=self.update_d_k[at])
            dW2.baddbmm_(rows[i].transpose(-1, -2), cols[i])
            dW1.baddbmm_(self.kq[at].transpose(-1, -2), self.dz1[at])

    def gradients(self, saved: Saved) -> tuple[Tensor, ...]:
        """Gradients of q, k, v, lr, token_idx, norm weight and bias, all in parallel."""
        size, rates = self.size, self.rates
        pairs = matmul(self.dz1[:, :, size:], saved.G1.transpose(-1, -2))
        pairs.mul_(rates.coefficients())
        d_q = matmul(pairs, self.k).neg_()
        d_k = matmul(pairs.transpose(-1, -2), self.q).neg_()
        d_k.addcmul_(rates.step, self.update_d_k)
        for begin, end in self.groups:
            W1 = self._replay(saved, begin, end)[0]
            both = matmul(self.dz1[begin:end], W1.transpose(-1, -2))
            d_k[begin:end] += both[:, :, :size]
            d_q[begin:end] += both[:, :, size:]
        d_v, d_gamma, d_beta = self.target.backward(self.dy, self.jacobian.normed)
        d_q[..., :-1] += self.d_q
        d_k[..., :-1] -= d_v
        dot = torch.linalg.vecdot
        future = dot(saved.G1, self.kappa1) + dot(saved.G2, self.kappa2)
        asked = dot(saved.G1, self.asked1) + dot(saved.G2, self.asked2)
        d_lam = -asked - rates.tau_last[..., 0] * future
        d_tau_last = -(rates.lam[..., 0] * future).sum((1, 2))
        return (
            from_minibatches(d_q, self.shape, self.dtype),
            from_minibatches(d_k, self.shape, self.dtype),
            from_minibatches(d_v, self.shape, self.dtype),
            from_minibatches(d_lam.unsqueeze(-1), self.shape[:3] + (1,), self.dtype).squeeze(-1),
            rates.grad_token_idx(self.d_tau, d_tau_last),
            per_head(d_gamma + self.d_gamma, self.batch),
            per_head(d_beta + self.d_beta, self.batch),
        )

    # ---- states inside a group -----------------------------------------------------------------

    def _replay(self, saved: Saved, begin: int, end: int) -> tuple[Tensor, Tensor, Tensor]:
        """States before mini-batches begin..end and the keys' hidden layer, as in `advance`."""
        held = self._cache.get(begin)
        if held is None:
            at, group = begin // GROUP, slice(begin, end)
            keys = (self.rates.step[group] * self.k[group]).transpose(-1, -2)
            W1 = replay(saved.states1[at], keys, saved.G1[group])
            X2 = _activated(matmul(self.k[group], W1))
            keys = (self.rates.step[group] * X2).transpose(-1, -2)
            W2 = replay(saved.states2[at], keys, saved.G2[group])
            held = self._cache.put(begin, (W1, W2, X2))
        return held[0], held[1], held[2]
