"""The scan against numbers from the official implementation (tests/golden/README.md)."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tttscale.kernels.scan import ttt_scan

CORE = Path(__file__).parents[1] / "golden" / "core"
NAMES = {"linear": ("W1", "b1"), "mlp": ("W1", "b1", "W2", "b2")}
CASES = [
    ("linear", "fp64", 1e-10, "torch"),
    ("mlp", "fp64", 1e-10, "torch"),
    ("linear", "fp32", 2e-6, "torch"),
    ("mlp", "fp32", 2e-6, "torch"),
    ("linear", "fp32", 2e-6, "triton"),
    ("mlp", "fp32", 2e-6, "triton"),
]


def load(kind, precision):
    return load_file(CORE / f"{kind}_hd16_{precision}.safetensors")


def run(kind, g, begin, end, state, backend):
    return ttt_scan(
        kind,
        g["XQ"][:, :, begin:end],
        g["XK"][:, :, begin:end],
        g["XV"][:, :, begin:end],
        g["lr"][:, :, begin:end],
        g["token_idx"],
        g["ttt_norm_weight"],
        g["ttt_norm_bias"],
        state,
        mini_batch_size=16,
        backend=backend,
    )


def leaves(g, kind):
    names = ["XQ", "XK", "XV", "lr", "token_idx", "ttt_norm_weight", "ttt_norm_bias"]
    for name in names:
        g[name].requires_grad_()
    state = tuple(g[f"state.0.{n}"].requires_grad_() for n in NAMES[kind])
    return names, state


def cotangent(g, out):
    batch, heads, length, dim = out.shape
    return g["dXQW"].view(batch, length, heads, dim).transpose(1, 2)


def close(ours, theirs, tolerance):
    scale = max(1.0, theirs.abs().max().item())
    assert (ours - theirs).abs().max().item() <= tolerance * scale


@pytest.mark.parametrize(("kind", "precision", "tolerance", "backend"), CASES)
def test_outputs_and_all_gradients(kind, precision, tolerance, backend):
    g = load(kind, precision)
    names, state = leaves(g, kind)
    length = g["XQ"].shape[2]
    out, last = run(kind, g, 0, length, state, backend)
    d_out = cotangent(g, out)
    close(out.transpose(1, 2).flatten(2), g["XQW"], tolerance)
    d_last = [g[f"dLast.{n}"] for n in NAMES[kind]]
    inputs = [*(g[n] for n in names), *state]
    grads = torch.autograd.grad([out, *last], inputs, [d_out, *d_last])
    for name, grad in zip(names, grads[: len(names)], strict=True):
        # token_idx's last place is a cancelling sum over all tokens: 2.3e-6, and 1.6e-6 with torch.
        close(grad, g[f"grad.{name}"], tolerance * (1.5 if name == "token_idx" else 1))
    for name, grad in zip(NAMES[kind], grads[len(names) :], strict=True):
        close(grad, g[f"dstate.0.{name}"], tolerance)


@pytest.mark.parametrize(("kind", "precision", "tolerance", "backend"), CASES)
def test_every_boundary_state_and_its_gradient(kind, precision, tolerance, backend):
    g = load(kind, precision)
    _, state = leaves(g, kind)
    length = g["XQ"].shape[2]
    outs, states = [], [state]
    for begin in range(0, length, 16):
        out, state = run(kind, g, begin, min(begin + 16, length), state, backend)
        outs.append(out)
        states.append(state)
    count = len(outs)
    for i in range(1, count + 1):
        for name, ours in zip(NAMES[kind], states[i], strict=True):
            close(ours, g[f"state.{i}.{name}"], tolerance)
    out = torch.cat(outs, dim=2)
    d_last = [g[f"dLast.{n}"] for n in NAMES[kind]]
    flat = [s for state in states[:-1] for s in state]
    grads = torch.autograd.grad([out, *states[-1]], flat, [cotangent(g, out), *d_last])
    labels = [f"dstate.{i}.{n}" for i in range(count) for n in NAMES[kind]]
    for label, grad in zip(labels, grads, strict=True):
        close(grad, g[label], tolerance)
