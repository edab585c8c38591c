"""What ttt_scan promises besides its numbers: order of the phases, dtypes, memory, messages."""

import itertools
from types import SimpleNamespace

import pytest
import torch

from tests.kernels.problem import KINDS, NAMES, Recorder, assert_close, problem
from tttscale.kernels import scan
from tttscale.kernels.scan import ttt_scan
from tttscale.kernels.torch_scan.linear import LinearScan
from tttscale.kernels.torch_scan.minibatch import GROUP
from tttscale.kernels.torch_scan.mlp import MLPScan
from tttscale.kernels.triton_scan.launch_table import architecture_of, why_no_launch

SCANS = {"linear": LinearScan, "mlp": MLPScan}
METHODS = (
    *("forward", "advance", "readout"),
    *("backward", "readout_backward", "advance_backward", "gradients"),
)


def spy(monkeypatch, kind, calls):
    for name in METHODS:
        method = getattr(SCANS[kind], name)

        def recorded(self, *args, _name=name, _method=method):
            calls.append(f"{_name} begins")
            result = _method(self, *args)
            calls.append(f"{_name} ends")
            return result

        monkeypatch.setattr(SCANS[kind], name, recorded)


def between(*names):
    """Names of phases and of calls in their order; a phase begins and ends."""
    events = []
    for name in names:
        events += [f"{name} begins", f"{name} ends"] if name in METHODS else [name]
    return events


@pytest.mark.parametrize(
    ("awaited", "forward", "backward"),
    [
        (
            True,
            ("advance", "send_state", "readout"),
            ("readout_backward", "recv_grad", "advance_backward", "send_grad", "gradients"),
        ),
        (False, ("forward", "send_state"), ("recv_grad", "backward", "send_grad")),
    ],
)
@pytest.mark.parametrize("kind", KINDS)
def test_handoff_is_called_between_the_phases(kind, awaited, forward, backward, monkeypatch):
    p, hooks = problem(kind, 4, 10, 3), Recorder(awaited)
    spy(monkeypatch, kind, hooks.calls)
    out, *last = p.scan(hooks=hooks)
    assert hooks.calls == between(*forward)
    assert all(torch.equal(a, b) for a, b in zip(hooks.state, last, strict=True))
    hooks.calls.clear()
    grads = torch.autograd.grad(out.sum(), p.state)
    assert hooks.calls == between(*backward)
    assert all(torch.equal(a, b) for a, b in zip(hooks.grad, grads, strict=True))


def waiting_and_not(p, dtype):
    """All results and gradients: nobody waits, somebody does."""
    leaves = [x.detach().to(dtype).requires_grad_() for x in p.leaves]
    for awaited in (False, True):
        results = p.scan(*leaves, hooks=Recorder(awaited))
        cotangents = [c.to(dtype) for c in p.cotangents(results)]
        yield [*results, *torch.autograd.grad(results, leaves, cotangents)]


@pytest.mark.parametrize("kind", KINDS)
def test_waiting_changes_the_order_but_no_bit(kind):
    """Of three groups, whose parts of the shared parameters' gradients do not add up alike in any order."""
    both = waiting_and_not(problem(kind, 4, 150, 3), torch.float64)
    assert all(torch.equal(a, b) for a, b in zip(*both, strict=True))


@pytest.mark.parametrize(
    ("size", "dim", "heads"),
    [(1, 2, 1), (1, 34, 3), (2, 6, 1), (2, 64, 1), (3, 64, 2), (3, 64, 3), (16, 6, 1), (16, 10, 3)],
)
@pytest.mark.parametrize("kind", KINDS)
def test_waiting_changes_no_bit_at_shapes_that_fill_no_vector(kind, size, dim, heads):
    """A product's bits may depend on where its operands lie, an elementwise function's on its length."""
    for batch in (1, 2):
        p = problem(kind, size, 2 * GROUP * size + size + size // 2, dim, batch=batch, heads=heads)
        both = waiting_and_not(p, torch.float32)
        assert all(torch.equal(a, b) for a, b in zip(*both, strict=True))


@pytest.mark.parametrize("awaited", [True, False])
@pytest.mark.parametrize("kind", KINDS)
def test_gradient_from_outside_is_added_to_autograds_own(kind, awaited):
    p = problem(kind, 4, 10, 3)
    results = p.scan()
    d_out, *d_last = p.cotangents(results)
    wanted = torch.autograd.grad(results, p.leaves, [d_out, *d_last])
    # All of it from outside; then a part from outside and the rest through autograd.
    for share in (1.0, 0.25):
        outside = tuple(share * d for d in d_last)
        results = p.scan(hooks=Recorder(awaited, outside))
        rest = [(1 - share) * d for d in d_last]
        assert_close(torch.autograd.grad(results, p.leaves, [d_out, *rest]), wanted, 1e-12)
    results = p.scan(hooks=Recorder(awaited, tuple(d_last)))
    assert_close(torch.autograd.grad(results[0], p.leaves, d_out), wanted, 1e-12)


@pytest.mark.parametrize("awaited", [True, False])
@pytest.mark.parametrize("kind", KINDS)
def test_no_result_depends_on_uninitialised_memory(kind, awaited, monkeypatch):
    p = problem(kind, 4, 75, 3)

    def everything():
        results = p.scan(hooks=Recorder(awaited))
        return [*results, *torch.autograd.grad(results, p.leaves, p.cotangents(results))]

    clean, poisoned = everything(), []

    def poison(make):
        def poisoning(*args, **kwargs):
            out = make(*args, **kwargs)
            poisoned.append(out.shape)
            return out.fill_(float("nan")) if out.is_floating_point() else out

        return poisoning

    for owner, name in ((torch, "empty"), (torch, "empty_like"), (torch.Tensor, "new_empty")):
        monkeypatch.setattr(owner, name, poison(getattr(owner, name)))
    results = everything()
    assert poisoned
    assert all(torch.equal(a, b) for a, b in zip(results, clean, strict=True))


def relative(ours, exact):
    return ((ours.double() - exact).norm() / exact.norm()).item()


@pytest.mark.parametrize("kind", KINDS)
def test_bf16_tokens_keep_fp32_states(kind):
    p = problem(kind, 4, 75, 8)
    tokens = [x.detach().bfloat16() for x in p.inputs[:3]]
    rest = [x.detach().float() for x in p.leaves[3:]]
    exact = [x.double().requires_grad_() for x in (*tokens, *rest)]
    narrow = [x.requires_grad_() for x in (*tokens, *rest)]
    wanted, results = p.scan(*exact), p.scan(*narrow)
    assert results[0].dtype == torch.bfloat16
    assert {s.dtype for s in results[1:]} == {torch.float32}
    assert relative(results[0], wanted[0]) < 2**-8
    assert all(relative(a, b) < 1e-5 for a, b in zip(results[1:], wanted[1:], strict=True))
    cotangents = [c.to(r.dtype) for c, r in zip(p.cotangents(results), results, strict=True)]
    grads = torch.autograd.grad(results, narrow, cotangents)
    theirs = torch.autograd.grad(wanted, exact, [c.double() for c in cotangents])
    for i, (grad, leaf, wide) in enumerate(zip(grads, narrow, theirs, strict=True)):
        assert grad.dtype == leaf.dtype
        assert relative(grad, wide) < (2**-8 if i < 3 else 1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_autocast_does_not_reach_inside(kind):
    p = problem(kind, 4, 30, 8)
    leaves = [x.detach().float().requires_grad_() for x in p.leaves]
    plain = p.scan(*leaves)
    with torch.autocast("cpu", torch.bfloat16):
        cast = p.scan(*leaves)
    assert all(torch.equal(a, b) for a, b in zip(plain, cast, strict=True))
    cotangents = [c.float() for c in p.cotangents(plain)]
    grads = [torch.autograd.grad(results, leaves, cotangents) for results in (plain, cast)]
    assert all(torch.equal(a, b) for a, b in zip(*grads, strict=True))


@pytest.mark.parametrize("kind", KINDS)
def test_inputs_need_not_be_contiguous(kind):
    p = problem(kind, 4, 10, 3)
    turned = [x.detach().transpose(-1, -2).contiguous().transpose(-1, -2) for x in p.leaves[:3]]
    leaves = [*turned, *p.leaves[3:7], *(s[:, :1].expand(-1, 2, -1, -1) for s in p.state)]
    dense = [x.clone(memory_format=torch.contiguous_format) for x in leaves]
    assert_close(p.scan(*leaves), p.scan(*dense), 1e-14)


def call(p, changes=None, *, kind=None, backend="auto", size=None):
    named = {**dict(zip(NAMES, p.inputs, strict=True)), "state": tuple(p.state), **(changes or {})}
    return ttt_scan(kind or p.kind, **named, mini_batch_size=size or p.size, backend=backend)


def test_messages_name_what_does_not_fit():
    p = problem("linear", 4, 10, 3)
    q, lr = p.inputs[0], p.inputs[3]
    with pytest.raises(ValueError, match=r"kind 'cubic'.*'linear', 'mlp'"):
        call(p, kind="cubic")
    with pytest.raises(ValueError, match=r"backend 'cuda'.*'torch'"):
        call(p, backend="cuda")
    with pytest.raises(ValueError, match=r"token_idx \(4,\); expected \(8,\)"):
        call(p, size=8)
    nothing = {n: x[:, :, :0] for n, x in (("q", q), ("k", q), ("v", q), ("lr", lr))}
    with pytest.raises(ValueError, match="at least one row, head, token"):
        call(p, nothing)
    for name, wrong in (("k", q[:, :, :9]), ("v", q[..., :2]), ("lr", lr[:, :1])):
        shape = ", ".join(map(str, wrong.shape))
        with pytest.raises(ValueError, match=rf"{name} \({shape}\).*\[B, H, T, f\]"):
            call(p, {name: wrong})


@pytest.mark.parametrize("kind", KINDS)
def test_states_and_norms_of_another_shape_are_refused(kind):
    p = problem(kind, 4, 10, 3, batch=1)
    other = problem("mlp" if kind == "linear" else "linear", 4, 10, 3, batch=1)
    with pytest.raises(ValueError, match="state"):
        call(p, {"state": tuple(other.state)})
    with pytest.raises(ValueError, match="state"):
        call(p, {"state": tuple(s[:, :1] for s in p.state)})
    with pytest.raises(ValueError, match="norm_weight"):
        call(p, {"norm_weight": p.inputs[5][:1]})
    with pytest.raises(ValueError, match="norm_bias"):
        call(p, {"norm_bias": p.inputs[6][:, :2]})


@pytest.mark.parametrize(
    ("capability", "dtype", "triton"),
    [
        ((9, 0), torch.bfloat16, True),
        ((8, 0), torch.float32, True),
        ((12, 0), torch.bfloat16, True),
        ((9, 0), torch.float64, False),
        ((7, 5), torch.float32, False),
    ],
)
@pytest.mark.parametrize("kind", KINDS)
def test_on_a_gpu_auto_takes_triton_wherever_it_has_a_kernel(
    kind, capability, dtype, triton, monkeypatch
):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    q = SimpleNamespace(is_cuda=True, device=torch.device("cuda"), shape=(1, 1, 1, 64), dtype=dtype)
    taken = scan._scan_type(kind, "auto", q, 16)  # type: ignore[arg-type]
    assert ("triton_scan" in taken.__module__) == triton
    if not triton:
        with pytest.raises(ValueError, match=r"needs a GPU of|takes fp32 and bf16"):
            scan._scan_type(kind, "triton", q, 16)  # type: ignore[arg-type]


@pytest.mark.parametrize("architecture", [80, 90])
def test_what_there_is_a_launch_for(architecture):
    for dtype in (torch.float32, torch.bfloat16):
        for dim, size in itertools.product((16, 24, 32, 64, 96, 128), (16, 32, 64)):
            assert why_no_launch(architecture, dim, size, dtype) is None
    assert "head dims up to 128, not 160" in why_no_launch(architecture, 160, 16, torch.bfloat16)
    assert "16, 32 or 64 tokens, not 48" in why_no_launch(architecture, 64, 48, torch.bfloat16)
    assert "fp32 and bf16, not float16" in why_no_launch(architecture, 64, 16, torch.float16)
    assert architecture_of(torch.device("cpu")) == 90
