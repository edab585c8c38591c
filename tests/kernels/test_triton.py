"""The Triton kernels, interpreted on the CPU, against the torch reference (fp64) and themselves."""

import functools

import pytest
import torch

from benchmarks.gpu.errors import limit_of
from benchmarks.problems import errors, on, reference, results
from benchmarks.problems import problem as random_problem
from benchmarks.static.scratch import counted
from tests.kernels.exactly import (
    LARGEST_ERROR,
    LARGEST_ERROR_OF_TOKEN_IDX,
    assert_relatively_close,
    everything,
    exactly,
    narrow,
    relative,
)
from tests.kernels.problem import KINDS, Recorder, problem
from tests.layers import small_layer
from tttscale.kernels.scan import ttt_scan
from tttscale.kernels.triton_scan import scan as triton_scan
from tttscale.kernels.triton_scan.launch_table import BLOCK_TOKENS
from tttscale.kernels.triton_scan.linear.segment import TritonLinearScan
from tttscale.kernels.triton_scan.mlp.segment import TritonMLPScan
from tttscale.kernels.triton_scan.segment import Segment
from tttscale.model import ttt_layer
from tttscale.model.chunk import Chunk
from tttscale.model.ports import NULL_PORTS

SCANS = {"linear": TritonLinearScan, "mlp": TritonMLPScan}

DTYPES = (torch.float32, torch.bfloat16)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("kind", KINDS)
def test_errors_do_not_grow_with_the_length(kind, dtype):
    """What rounding leaves of the means that LayerNorm does not see must not feed on itself."""
    leaves = on("cpu", random_problem(kind, heads=1, dim=16, tokens=1024), dtype)
    found = errors(kind, results(kind, leaves, "triton"), reference(kind, leaves))
    assert not {name: e for name, e in found.items() if not e <= limit_of(name, dtype)}


@pytest.mark.parametrize("kind", KINDS)
def test_the_launches_of_an_older_gpu(kind, monkeypatch):
    """Other tiles, and TTT-MLP's state in memory: the same results."""
    monkeypatch.setattr(triton_scan, "architecture_of", lambda device: 80)
    p = problem(kind, 16, 75, 16, batch=1)
    leaves = narrow(p, torch.bfloat16)
    ours = everything(p, leaves, backend="triton")
    assert_relatively_close(ours, exactly(p, leaves), LARGEST_ERROR[torch.bfloat16])


@pytest.mark.parametrize("kind", KINDS)
def test_batch_rows_and_strided_tokens(kind):
    p = problem(kind, 16, 40, 16, batch=2)
    leaves = narrow(p, torch.float32)
    dense = everything(p, leaves, backend="triton")
    # As the layer has them: [B, T, H, f] in memory; and v in yet another layout.
    turned = [x.detach().transpose(1, 2).contiguous().transpose(1, 2) for x in leaves[:2]]
    turned.append(leaves[2].detach().transpose(2, 3).contiguous().transpose(2, 3))
    strided = [x.requires_grad_() for x in (*turned, *(x.detach() for x in leaves[3:]))]
    ours = everything(p, strided, backend="triton")
    assert all(torch.equal(a, b) for a, b in zip(ours, dense, strict=True))
    one = [x.detach()[1:] if x.dim() > 2 else x.detach() for x in leaves]
    alone = p.scan(*one, backend="triton")
    assert all(torch.equal(a, b[1:]) for a, b in zip(alone, dense, strict=False))


def test_tokens_that_overlap_or_leave_gaps_in_memory():
    """Windows of one sequence as rows, a slice of a wider tensor: what comes out has memory of its own."""
    p = problem("linear", 16, 40, 16, batch=2)
    leaves = [x.detach() for x in narrow(p, torch.float32)]
    long = torch.randn(2, 64, 16, generator=torch.Generator().manual_seed(1))
    windows = long.unfold(1, 40, 24).permute(1, 0, 3, 2)
    assert windows.shape == leaves[0].shape
    slices = torch.cat([windows, windows], dim=-1)[..., :16]
    dense, *others = (
        everything(p, [x.requires_grad_() for x in (q, *leaves[1:])], backend="triton")
        for q in (windows.contiguous(), windows.detach(), slices.detach())
    )
    for ours in others:
        assert all(torch.equal(a, b) for a, b in zip(ours, dense, strict=True))
        assert ours[0].is_contiguous()


@pytest.mark.parametrize("kind", KINDS)
def test_strides_of_dims_with_one_place_say_nothing(kind):
    """They may be 0; kernels take it that strides are not."""
    p = problem(kind, 16, 1, 16, batch=1)
    leaves = narrow(p, torch.float32)
    dense = everything(p, leaves, backend="triton")
    q, *others = (x.detach() for x in leaves)
    q = q.as_strided(q.shape, (0, q.stride(1), 0, 1))
    ours = everything(p, [x.requires_grad_() for x in (q, *others)], backend="triton")
    assert all(torch.equal(a, b) for a, b in zip(ours, dense, strict=True))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", KINDS)
def test_a_cut_changes_nothing(kind, dtype):
    """In bf16, where states inside the scan are rounded for readers, up to that."""
    p = problem(kind, 16, 2 * BLOCK_TOKENS + 11, 16, batch=1)
    leaves = narrow(p, dtype)
    whole = everything(p, leaves, backend="triton")

    def in_pieces(*tensors):
        tokens, shared, state = tensors[:4], tensors[4:7], tensors[7:]
        outs = []
        for begin, end in ((0, 48), (48, 48 + BLOCK_TOKENS), (48 + BLOCK_TOKENS, None)):
            part = [x[:, :, begin:end] for x in tokens]
            out, state = ttt_scan(kind, *part, *shared, state, mini_batch_size=16, backend="triton")
            outs.append(out)
        return torch.cat(outs, dim=2), *state

    results = in_pieces(*leaves)
    cotangents = [c.to(r.dtype) for c, r in zip(p.cotangents(results), results, strict=True)]
    grads = torch.autograd.grad(results, leaves, cotangents)
    found = errors(kind, [*results, *grads], [x.detach().double() for x in whole])
    limits = {n: 1e-6 if dtype == torch.float32 else limit_of(n, dtype) for n in found}
    limits["dtoken_idx"] = max(limits["dtoken_idx"], LARGEST_ERROR_OF_TOKEN_IDX)
    assert not {name: e for name, e in found.items() if not e <= limits[name]}


@pytest.mark.parametrize("kind", KINDS)
def test_scratch_is_that_of_a_segment_and_changes_nothing(kind, monkeypatch):
    """Segments of 64 tokens: equal to the reference, and bitwise whatever lay ready ahead."""
    p = problem(kind, 16, 150, 16, batch=1)
    leaves = narrow(p, torch.float32)
    exact = exactly(p, leaves)
    monkeypatch.setattr(SCANS[kind], "segment_tokens", 64)
    ours = everything(p, leaves, backend="triton")
    assert_relatively_close(ours, exact, 1e-6)
    for room_bytes in (0, 1 << 30):
        monkeypatch.setattr(triton_scan, "SCRATCH_BYTES", room_bytes)
        waited = everything(p, leaves, backend="triton", hooks=Recorder())
        assert all(torch.equal(a, b) for a, b in zip(ours, waited, strict=True))


@pytest.mark.parametrize("kind", KINDS)
def test_scratch_does_not_grow_with_the_length_or_the_rows(kind, monkeypatch):
    monkeypatch.setattr(SCANS[kind], "segment_tokens", 128)
    peaks = []
    for rows, length in ((1, 128), (1, 384), (2, 192)):
        p = problem(kind, 16, length, 16, batch=rows, heads=1)
        inputs = [x.detach() for x in narrow(p, torch.float32)]
        scan = SCANS[kind](tuple(inputs[:7]), 16, torch.float32)
        out, saved, last = scan.forward(tuple(inputs[7:]))
        with counted() as scratch:
            scan.backward(saved, out, last)
        assert scratch.now_bytes == 0
        peaks.append(scratch.most_bytes)
    # TTT-MLP's chain has a running state for each row.
    row_bytes = sum(s.nbytes for s in last) // 2 if kind == "mlp" else 0
    assert peaks[1] == peaks[0] > 0
    assert 0 <= peaks[2] - peaks[0] <= row_bytes, peaks


@pytest.mark.parametrize("kind", KINDS)
def test_phases_with_a_neighbour(kind):
    p = problem(kind, 16, 40, 16, batch=1)
    leaves = narrow(p, torch.float32)
    outside = tuple(torch.randn_like(s) for s in leaves[7:])
    hooks = Recorder(outside=outside)
    out, *last = p.scan(*leaves, backend="triton", hooks=hooks)
    assert hooks.calls == ["send_state"]
    assert all(torch.equal(a, b) for a, b in zip(hooks.state, last, strict=True))
    grads = torch.autograd.grad(out.sum(), leaves)
    assert hooks.calls == ["send_state", "recv_grad", "send_grad"]
    assert all(torch.equal(a, b) for a, b in zip(hooks.grad, grads[7:], strict=True))
    results = p.scan(*leaves, backend="triton")
    whole = torch.autograd.grad(results, leaves, [torch.ones_like(results[0]), *outside])
    assert all(torch.equal(a, b) for a, b in zip(grads, whole, strict=True))


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_but_the_chain_stands_between_neighbours(kind, monkeypatch):
    """What runs before the state is ready, and between asking for its gradient and having it."""
    launched, run = [], Segment.run

    def recorded(self, kernel, name, grid, **tensors):
        launched.append(name)
        run(self, kernel, name, grid, **tensors)

    class Marks(Recorder):
        def send_state(self, state):
            launched.append("send_state")

        def recv_grad(self):
            launched.append("recv_grad")

        def send_grad(self, grad):
            launched.append("send_grad")

    monkeypatch.setattr(Segment, "run", recorded)
    monkeypatch.setattr(SCANS[kind], "segment_tokens", 64)
    p = problem(kind, 16, 100, 16, batch=1, heads=1)
    everything(p, narrow(p, torch.float32), backend="triton", hooks=Marks())
    ready, wanted, done = (launched.index(x) for x in ("send_state", "recv_grad", "send_grad"))
    assert launched[:ready] == ["targets", "advance"] * 2
    assert launched[wanted + 1 : done] == ["advance_backward"] * 2
    assert launched[ready + 1 : ready + 3] == ["readout"] * 2
    assert "readout_backward" in launched[ready:wanted]


@pytest.mark.parametrize(
    ("dim", "dtype", "hooks", "architecture"),
    [
        (16, torch.float32, None, 90),
        (24, torch.bfloat16, Recorder(), 90),
        (24, torch.bfloat16, None, 80),
    ],
)
@pytest.mark.parametrize("kind", KINDS)
def test_no_result_depends_on_uninitialised_memory(
    kind, dim, dtype, hooks, architecture, monkeypatch
):
    monkeypatch.setattr(triton_scan, "architecture_of", lambda device: architecture)
    p = problem(kind, 16, 75, dim, batch=1, heads=1)
    leaves = narrow(p, dtype)
    clean, poisoned = everything(p, leaves, backend="triton"), []

    def poison(make):
        def poisoning(*args, **kwargs):
            out = make(*args, **kwargs)
            poisoned.append(out.shape)
            return out.fill_(float("nan")) if out.is_floating_point() else out

        return poisoning

    for owner, name in (
        *((torch, n) for n in ("empty", "empty_like", "empty_strided")),
        (torch.Tensor, "new_empty"),
    ):
        monkeypatch.setattr(owner, name, poison(getattr(owner, name)))
    results = everything(p, leaves, backend="triton", hooks=hooks)
    assert poisoned
    assert all(torch.equal(a, b) for a, b in zip(results, clean, strict=True))


@pytest.mark.parametrize("kind", KINDS)
def test_factors_and_rates_of_zero(kind):
    """A clamped factor of the last token and padded tokens (rate 0) divide by nothing."""
    p = problem(kind, 16, 40, 16, batch=1, heads=1)
    with torch.no_grad():
        p.inputs[4][[7, 15]] = 0
        p.inputs[3][:, :, 5:20] = 0
    leaves = narrow(p, torch.float32)
    assert_relatively_close(everything(p, leaves, backend="triton"), exactly(p, leaves), 1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_a_layer_with_documents_inside(kind, monkeypatch):
    """Document starts in one row and in both, padding in front of one: as the loader places them."""
    layer = small_layer(kind)
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(2, 75, 32, generator=generator, dtype=torch.float64)
    starts = ((32, 48), (48,))
    padded = torch.zeros(2, 75, dtype=torch.bool)
    padded[:, 40:48] = True
    chunk = Chunk(starts, padded)

    def everything_of(layer, x):
        layer.zero_grad()
        x = x.clone().requires_grad_()
        y = layer(x, chunk, NULL_PORTS)
        y.square().sum().backward()
        return [y.detach(), x.grad, *(p.grad.clone() for p in layer.parameters())]

    exact = everything_of(layer, x)
    monkeypatch.setattr(ttt_layer, "ttt_scan", functools.partial(ttt_scan, backend="triton"))
    ours = everything_of(layer.float(), x.float())
    errors = [relative(a, b) for a, b in zip(ours, exact, strict=True)]
    assert all(error <= 1e-4 for error in errors), errors


@pytest.mark.parametrize(
    ("kind", "size", "dim", "dtype", "words"),
    [
        ("linear", 16, 16, torch.float64, "takes fp32 and bf16, not float64"),
        ("linear", 16, 160, torch.float32, "head dims up to 128, not 160"),
        ("linear", 8, 16, torch.float32, "16, 32 or 64 tokens, not 8"),
    ],
)
def test_what_has_no_kernel_is_refused(kind, size, dim, dtype, words):
    p = problem(kind, size, 20, dim, batch=1, heads=1)
    leaves = [x.detach().to(dtype) for x in p.leaves]
    with pytest.raises(ValueError, match=words):
        p.scan(*leaves, backend="triton")
    p.scan(*leaves)


def test_without_an_interpreter_a_cpu_is_refused(monkeypatch):
    monkeypatch.delenv("TRITON_INTERPRET")
    p = problem("linear", 16, 20, 16, batch=1, heads=1)
    with pytest.raises(ValueError, match="needs a GPU, or TRITON_INTERPRET=1"):
        p.scan(*(x.detach().float() for x in p.leaves), backend="triton")
