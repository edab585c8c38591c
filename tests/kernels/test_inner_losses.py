"""Inner losses against the formulas, written out token by token in fp64."""

import pytest
import torch

from tttscale.kernels.learners import LEARNERS
from tttscale.kernels.scan import ttt_scan
from tttscale.kernels.torch_scan.inner_losses import inner_losses

EPS = 1e-6


def learner(kind, state, x, gamma, beta):
    """f(x) = x + LN(f_res(x)) of one head, [K, f]."""
    if kind == "linear":
        w, b = state
        z = x @ w + b
    else:
        w1, b1, w2, b2 = state
        z = torch.nn.functional.gelu(x @ w1 + b1, approximate="tanh") @ w2 + b2
    return x + torch.nn.functional.layer_norm(z, [x.shape[-1]], gamma, beta, EPS)


def by_hand(kind, k, v, lr, tau, gamma, beta, state, initial, size):
    """One sequence and head; the steps by autograd."""
    now, found = [s.clone().requires_grad_() for s in state], [[], [], []]
    for at in range(0, len(k), size):
        x, y, rate = k[at : at + size], v[at : at + size], lr[at : at + size]

        def losses(weights, x=x, y=y):
            return (learner(kind, weights, x, gamma, beta) - y).square()

        before = losses(now)
        total = (0.5 * before.sum(1) * rate).sum() * tau[len(x) - 1]
        grads = torch.autograd.grad(total, now)
        after = [(w - g).detach().requires_grad_() for w, g in zip(now, grads, strict=True)]
        for losses_of, at_weights in zip(found, (initial, now, after), strict=True):
            losses_of.append(losses(at_weights).mean(1).detach())
        now = after
    return [torch.cat(parts) for parts in found]


@pytest.mark.parametrize("kind", ["linear", "mlp"])
@pytest.mark.parametrize("length", [12, 150, 70])
def test_inner_losses_are_those_of_the_formula(kind, length):
    torch.manual_seed(0)
    batch, heads, f, size = 2, 3, 6, 4

    def random(*shape):
        return torch.randn(*shape, dtype=torch.float64)

    k, v = random(batch, heads, length, f), random(batch, heads, length, f)
    lr, tau = random(batch, heads, length).sigmoid() / f, random(size).abs()
    gamma, beta = 1 + 0.3 * random(heads, f), 0.3 * random(heads, f)
    shapes = LEARNERS[kind].shapes(f).values()
    state = tuple(0.3 * random(batch, heads, *shape) for shape in shapes)
    initial = tuple(0.3 * random(1, heads, *shape) for shape in shapes)
    untouched = [s.clone() for s in state]
    found = inner_losses(kind, k, v, lr, tau, gamma, beta, state, initial, size)
    assert all(map(torch.equal, state, untouched))
    for b in range(batch):
        for h in range(heads):
            expected = by_hand(
                kind, k[b, h], v[b, h], lr[b, h], tau, gamma[h], beta[h],
                [s[b, h] for s in state], [s[0, h] for s in initial], size,
            )  # fmt: skip
            for ours, theirs in zip(found, expected, strict=True):
                torch.testing.assert_close(ours[b, h], theirs, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("kind", ["linear", "mlp"])
def test_two_halves_are_the_whole(kind):
    """The state after the first half, as the scan gives it, continues the second."""
    torch.manual_seed(1)
    f, size, length = 4, 4, 96
    k, v = (torch.randn(1, 2, length, f, dtype=torch.float64) for _ in range(2))
    lr, tau = torch.rand(1, 2, length, dtype=torch.float64) / f, torch.rand(size).double()
    gamma, beta = torch.ones(2, f).double(), torch.zeros(2, f).double()
    shapes = LEARNERS[kind].shapes(f).values()
    state = tuple(0.3 * torch.randn(1, 2, *shape, dtype=torch.float64) for shape in shapes)
    rest = tau, gamma, beta
    whole = inner_losses(kind, k, v, lr, *rest, state, state, size)
    half = slice(0, 48)
    _, after = ttt_scan(
        kind, k[:, :, half], k[:, :, half], v[:, :, half], lr[:, :, half], *rest, state,
        mini_batch_size=size,
    )  # fmt: skip
    second = inner_losses(kind, *(x[:, :, 48:] for x in (k, v, lr)), *rest, after, state, size)
    for all_of, part in zip(whole, second, strict=True):
        torch.testing.assert_close(all_of[:, :, 48:], part, rtol=1e-12, atol=1e-13)
