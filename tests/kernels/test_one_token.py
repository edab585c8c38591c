"""One token of the inner learner: what a scan computes, whatever the length of a mini-batch."""

import pytest
import torch

from tttscale.kernels.learners import LEARNERS
from tttscale.kernels.scan import ttt_scan
from tttscale.kernels.torch_scan.one_token import one_token

B, H, F = 2, 3, 16


def problem(kind, size, tokens, dtype=torch.float64, seed=0):
    generator = torch.Generator().manual_seed(seed)

    def randn(*shape):
        return torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)

    q, k, v = (randn(B, H, tokens, F) for _ in range(3))
    lr, tau = randn(B, H, tokens).sigmoid() / F, randn(size).abs() / 4
    weight, bias = 1 + 0.3 * randn(H, F), 0.3 * randn(H, F)
    state = tuple(0.2 * randn(B, H, *shape) for shape in LEARNERS[kind].shapes(F).values())
    return q, k, v, lr, tau, weight, bias, state


def close(state, sums, tau):
    return tuple(w - tau * a for w, a in zip(state, sums, strict=True))


@pytest.mark.parametrize("size", [1, 4, 16])
@pytest.mark.parametrize("kind", ["linear", "mlp"])
def test_tokens_one_by_one_are_a_scan(kind, size):
    q, k, v, lr, tau, weight, bias, state = problem(kind, size, 2 * size)
    whole, last = ttt_scan(
        kind, q, k, v, lr, tau, weight, bias, state, mini_batch_size=size, backend="torch"
    )
    sums = None
    for t in range(2 * size):
        place = t % size
        at = tau[place : place + 1]
        out, sums = one_token(
            kind, q[:, :, t], k[:, :, t], v[:, :, t], lr[:, :, t], at, weight, bias, state, sums
        )
        assert (out - whole[:, :, t]).abs().max() < 1e-12
        if place == size - 1:
            state, sums = close(state, sums, tau[-1]), None
    for ours, theirs in zip(state, last, strict=True):
        assert (ours - theirs).abs().max() < 1e-12


@pytest.mark.parametrize("kind", ["linear", "mlp"])
def test_rows_at_places_of_their_own(kind):
    q, k, v, lr, tau, weight, bias, state = problem(kind, 8, 2)

    def run(rows, at, sums, t):
        mine = tuple(w[rows] for w in state)
        tokens = (x[rows, :, t] for x in (q, k, v, lr))
        return one_token(kind, *tokens, at, weight, bias, mine, sums)

    _, sums = run(slice(0, 1), tau[:1], None, 0)
    first, _ = run(slice(0, 1), tau[1:2], sums, 1)
    second, _ = run(slice(1, 2), tau[:1], None, 1)
    both = tuple(torch.cat([a, torch.zeros_like(a)]) for a in sums)
    out, _ = run(slice(0, 2), tau[[1, 0]], both, 1)
    assert (out - torch.cat([first, second])).abs().max() < 1e-13


@pytest.mark.parametrize("kind", ["linear", "mlp"])
def test_nothing_is_written_in_place(kind):
    q, k, v, lr, tau, weight, bias, state = problem(kind, 4, 1)
    token = [x[:, :, 0] for x in (q, k, v, lr)]
    _, sums = one_token(kind, *token, tau[:1], weight, bias, state, None)
    kept = [t.clone() for t in (*token, tau, weight, bias, *state, *sums)]
    one_token(kind, *token, tau[1:2], weight, bias, state, sums)
    for before, now in zip(kept, (*token, tau, weight, bias, *state, *sums), strict=True):
        assert torch.equal(before, now)
