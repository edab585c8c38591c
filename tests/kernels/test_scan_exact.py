"""The scan against its definition, against finite differences, and cut in pieces."""

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.kernels.problem import KINDS, Recorder, assert_close, primal, problem
from tttscale.kernels.torch_scan import group_scan, minibatch

SHAPES = [  # mini-batch, tokens, head dim: whole, with a remainder, shorter than a mini-batch
    (2, 4, 5),
    (2, 5, 3),
    (4, 3, 5),
    (4, 6, 3),
]


@pytest.mark.parametrize(("size", "length", "dim"), SHAPES)
@pytest.mark.parametrize("kind", KINDS)
def test_gradcheck_of_all_inputs_outputs_and_states(kind, size, length, dim):
    p = problem(kind, size, length, dim)
    fast = kind == "mlp" and dim > 3  # random projections instead of every entry
    tolerance = 1e-4 if fast else 1e-6
    assert torch.autograd.gradcheck(
        p.scan, p.leaves, eps=1e-6, atol=tolerance, rtol=tolerance, fast_mode=fast
    )


@pytest.mark.parametrize("order", ["groups", "phases", "phases that replay"])
@pytest.mark.parametrize(("size", "length", "dim"), [(2, 75, 4), (4, 70, 3), (4, 3, 5)])
@pytest.mark.parametrize("kind", KINDS)
def test_equals_the_token_by_token_definition(kind, size, length, dim, order, monkeypatch):
    if order == "phases that replay":
        monkeypatch.setattr(group_scan, "CACHE_BYTES", 0)
    p = problem(kind, size, length, dim)
    if length > 4:
        assert length / size > minibatch.GROUP
    hooks = None if order == "groups" else Recorder()
    ours, theirs = p.scan(hooks=hooks), primal(kind, size, *p.leaves)
    assert_close(ours, theirs, 1e-12)
    cotangents = p.cotangents(ours)
    assert_close(
        torch.autograd.grad(ours, p.leaves, cotangents),
        torch.autograd.grad(theirs, p.leaves, cotangents),
        1e-11,
    )


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=12, deadline=None, derandomize=True, database=None)
@given(data=st.data())
def test_any_cut_at_minibatches_changes_nothing(kind, data):
    size = data.draw(st.sampled_from([2, 3, 4]), "size")
    length = data.draw(st.integers(1, 40 * size), "length")
    places = st.integers(1, max(1, (length - 1) // size))
    cuts = data.draw(st.sets(places, max_size=4), "cuts") if length > size else set()
    edges = [0, *(c * size for c in sorted(cuts)), length]
    p = problem(kind, size, length, 4, batch=1, seed=length)
    whole = p.scan()
    outs, state = [], p.state
    for begin, end in itertools.pairwise(edges):
        tokens = [x[:, :, begin:end] for x in p.inputs[:4]]
        out, *state = p.scan(*tokens, *p.inputs[4:], *state)
        outs.append(out)
    pieces = (torch.cat(outs, dim=2), *state)
    assert_close(pieces, whole, 1e-12)
    cotangents = p.cotangents(whole)
    assert_close(
        torch.autograd.grad(pieces, p.leaves, cotangents),
        torch.autograd.grad(whole, p.leaves, cotangents),
        1e-12,
    )


@pytest.mark.parametrize("kind", KINDS)
def test_a_token_with_rate_zero_leaves_no_trace(kind):
    p = problem(kind, 4, 10, 3)
    p.inputs[3].data[:, :, 6:] = 0
    _, *last = p.scan()
    tokens = [x[:, :, :6] for x in p.inputs[:4]]
    # The update by tokens 4..7 takes the factor of row 3; that by 4, 5 alone takes row 1's.
    factors = p.inputs[4].detach().clone()
    factors[1] = factors[3]
    first = [x[:, :, :4] for x in p.inputs[:4]]
    _, *middle = p.scan(*first, *p.inputs[4:], *p.state)
    rest = [x[:, :, 4:] for x in tokens]
    _, *short = p.scan(*rest, factors, *p.inputs[5:], *middle)
    # The third mini-batch of `last` (tokens 8, 9) has rate zero throughout.
    assert_close(last, short, 1e-12)
    grads = torch.autograd.grad(last, p.inputs[1:3], p.cotangents(last))
    assert all((g[:, :, 6:] == 0).all() for g in grads)
