"""One token of the inner learner: what a scan computes, whatever the length of a mini-batch."""

import pytest
import torch

from tests.scan.helpers import tiny_config, tiny_model
from tttscale.kernels import one_token as door
from tttscale.kernels.learners import LEARNERS
from tttscale.kernels.one_token import choose_token_backend
from tttscale.kernels.scan import ttt_scan
from tttscale.kernels.torch_scan.one_token import one_token
from tttscale.kernels.triton_scan import one_token as triton_token
from tttscale.model import ttt_layer
from tttscale.model.decoder import Decoder

B, H, F = 2, 3, 16
LARGEST_ERROR = 2e-6
CPU = torch.device("cpu")


def problem(kind, size, tokens, dtype=torch.float64, seed=0, dim=F):
    generator = torch.Generator().manual_seed(seed)

    def randn(*shape):
        return torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)

    q, k, v = (randn(B, H, tokens, dim) for _ in range(3))
    lr, tau = randn(B, H, tokens).sigmoid() / dim, randn(size).abs() / 4
    weight, bias = 1 + 0.3 * randn(H, dim), 0.3 * randn(H, dim)
    scale = 0.8 * dim**-0.5
    state = tuple(scale * randn(B, H, *shape) for shape in LEARNERS[kind].shapes(dim).values())
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


def worst(ours, exact):
    """The largest error, relative to the largest number of each tensor (at least 1)."""
    return max(
        ((a.double() - b).abs().max() / b.abs().max().clamp(min=1)).item()
        for a, b in zip(ours, exact, strict=True)
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("dim", [16, 24, 32, 64, 96, 128])
@pytest.mark.parametrize("kind", ["linear", "mlp"])
def test_the_kernel_interpreted(kind, dim, dtype):
    """Tokens in narrow dtypes are widened as they are read; all else is fp32."""
    if dim > 64 and (kind, dtype) != ("linear", torch.float32):
        pytest.skip("two wide shapes of one learner are enough")
    q, k, v, lr, tau, weight, bias, state = problem(kind, 4, 2, dim=dim)
    q, k, v = (x.to(dtype) for x in (q, k, v))
    lr, tau, weight, bias, *state = (x.float() for x in (lr, tau, weight, bias, *state))
    ours = exact = None
    for t, at in enumerate((tau[:1], tau[[1, 3]])):  # one place for all rows, then a place for each
        token = [x[:, :, t] for x in (q, k, v, lr)]
        wide = [[x.double() for x in xs] for xs in (token, (at, weight, bias), state)]
        out, ours = triton_token.one_token(kind, *token, at, weight, bias, tuple(state), ours)
        wanted, exact = one_token(kind, *wide[0], *wide[1], tuple(wide[2]), exact)
        assert out.dtype == torch.float32
        assert {a.dtype for a in ours} == {torch.float32}
        assert worst([out, *ours], [wanted, *exact]) <= LARGEST_ERROR


@pytest.mark.parametrize("kind", ["linear", "mlp"])
def test_the_kernel_writes_nothing_that_it_reads(kind):
    q, k, v, lr, tau, weight, bias, state = problem(kind, 4, 1, torch.float32)
    token = [x[:, :, 0] for x in (q, k, v, lr)]
    _, sums = triton_token.one_token(kind, *token, tau[:1], weight, bias, state, None)
    read = (*token, tau, weight, bias, *state, *sums)
    kept = [t.clone() for t in read]
    out, now = triton_token.one_token(kind, *token, tau[1:2], weight, bias, state, sums)
    assert all(torch.equal(a, b) for a, b in zip(kept, read, strict=True))
    turned = [x.transpose(0, 1).contiguous().transpose(0, 1) for x in (*token, *state, *sums)]
    parts = tuple(turned[4 : 4 + len(state)]), tuple(turned[4 + len(state) :])
    again, same = triton_token.one_token(kind, *turned[:4], tau[1:2], weight, bias, *parts)
    assert torch.equal(out, again)
    assert all(torch.equal(a, b) for a, b in zip(now, same, strict=True))


@pytest.mark.parametrize("kind", ["linear", "mlp"])
def test_a_model_decodes_by_the_kernel(kind, monkeypatch):
    model = tiny_model(tiny_config(kind, hidden_size=32), torch.float32)
    ids = torch.randint(0, 23, (2, 11), generator=torch.Generator().manual_seed(1))
    wanted = Decoder(model, rows=2).read_all(ids)
    used = []

    def by_triton(*arguments):
        used.append(arguments[0])
        return door.one_token(*arguments, backend="triton")

    monkeypatch.setattr(ttt_layer, "one_token", by_triton)
    decoder = Decoder(model, rows=2)
    found = torch.cat([decoder.read_all(piece) for piece in ids.split([1, 6, 4], dim=1)], dim=1)
    assert (found - wanted).abs().max() < 1e-5
    assert len(used) == 2 * 11  # no piece holds a whole mini-batch from its beginning


def test_which_one_is_taken(monkeypatch):
    monkeypatch.setattr(door, "architecture_of", lambda device: 90)
    wide, narrow = torch.float64, torch.float32
    assert choose_token_backend("torch", "linear", CPU, 64, narrow).name == "torch"
    auto = choose_token_backend("auto", "linear", CPU, 64, narrow)
    assert auto == ("torch", "are for GPUs")
    assert choose_token_backend("triton", "mlp", CPU, 64, narrow) == ("triton", None)
    for dim, dtype, said in (
        (64, wide, "takes fp32, not float64"),
        (160, narrow, "head dims up to 128, not 160"),
    ):
        with pytest.raises(ValueError, match=f"one_token: backend 'triton' .*{said}"):
            choose_token_backend("triton", "mlp", CPU, dim, dtype)
        gpu = choose_token_backend("auto", "mlp", torch.device("cuda"), dim, dtype)
        assert gpu.name == "torch"
    monkeypatch.setenv("TRITON_INTERPRET", "0")
    with pytest.raises(ValueError, match="needs a GPU"):
        choose_token_backend("triton", "mlp", CPU, 64, narrow)
