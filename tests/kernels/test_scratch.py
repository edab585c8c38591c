"""What a scan keeps for its backward and the most that exists at once, in bytes per token and head.

The limits are for head dim f = 64, hidden width I (64, or 4f in TTT-MLP) and K = 16, written out from the
table of phases in kernels/README.md. What a phase hands on and the states in front of each block are in the
tokens' dtype, e bytes a number; biases, sums and single numbers per token are in fp32. A state per block is
O(f I / block) a token; TTT-MLP's W2 in front of each mini-batch, f I / K, lasts until its chain is through.
"""

import json
import os
import subprocess
import sys
from functools import partial
from types import SimpleNamespace
from unittest import mock

import pytest

F, K, HEADS, SEGMENTS, MLP_SEGMENT_TOKENS = 64, 16, 2, 3, 2048
CASES = [
    (kind, *how)
    for kind in ("linear", "mlp")
    for how in (("bf16", 90), ("bf16", 80), ("fp32", 90), ("fp32", 80))
]
MODES = {"alone": (False, None), "waits": (True, None), "waits, nothing ahead": (True, 0)}
"""Whether a neighbour waits, and how many bytes may then lie ahead of the reverse chain."""
SLACK_BYTES = 16
"""Room for four more fp32 numbers per token; a plane [T, f] or a state in fp32 are 128 or more."""


def allowance(kind, dtype, capability):
    """kept, and the scratch of a forward and of a backward, bytes per token and head."""
    e = {"bf16": 2, "fp32": 4}[dtype]
    block = {"bf16": 64, "fp32": 32}[dtype]  # a state is saved every so many tokens
    jacobian, asked, d_tau, step, u = 5 * 4, 4, 4, 4, 4 * F
    # Each block's share in d(tau_last) and, side by side, in those of the norm's weight and bias.
    readers = jacobian + asked + d_tau + (4 + 2 * 4 * F) / block
    if kind == "linear":
        state = (F * F * e + 4 * F) / block  # W and b
        scores = block * e  # products of a token's key with all keys of its block
        return SimpleNamespace(
            kept=F * e + state,  # G
            forward=u + step + scores,
            tokens=3 * F * e + readers,  # dZq, p, x^: for the tokens' gradients
            chain=step + scores,  # what the reverse chain needs besides
            behind=F * e + state,  # dZ, dW and db behind each block: made by the chain
        )
    # A state in fp32 beside the one that is handed on, but for the forward chain in registers.
    running, resident = 8 * F * F * 4 / MLP_SEGMENT_TOKENS, (dtype, capability) == ("bf16", 90)
    wide, first = 4 * F, (4 * F * F * e + 4 * 4 * F) / block  # W1 and b1, or their gradients
    second = (4 * F * F * e + 4 * F) / block
    return SimpleNamespace(
        kept=(wide + F) * e + step + first + second,  # G1, G2
        forward=u + F * e + (0 if resident else running),  # v - k, rounded
        tokens=wide * e + 2 * F * e + readers,  # dZ1q, p, x^
        # X2, its readers', the slope and curvature of gelu there, shares of dG1 and dX2; dZ2q, its sum and
        # that of dZ1q per block; W2 in every mini-batch.
        chain=6 * wide * e + F * e + 4 * (wide + F) / block + 4 * F * F * e / K + running,
        behind=wide * e + F * e + first,  # dZ1, kappa2
    )


def limits(kind, dtype, capability):
    """Bytes for one head and `SEGMENTS` segments, per token of one segment."""
    may, n = allowance(kind, dtype, capability), SEGMENTS
    one = may.tokens + may.chain + may.behind
    return {
        "kept": n * may.kept,
        # A segment's scratch ends with its chain, whether a readout follows at once or not.
        "forward": n * may.kept + may.forward,
        "alone": one,
        # All readers before the chain; once it is through, what the tokens' gradients need of all.
        "waits": max(
            n * (may.tokens + may.chain) + may.behind, n * (may.tokens + may.behind) + may.chain
        ),
        "waits, nothing ahead": (n - 1) * (may.tokens + may.behind) + one,
    }


# ---- in a process without the interpreter ------------------------------------------------------------


def allocated(kind, dtype, capability, awaited, ahead_bytes):
    """The same, counted in a forward and backward whose launches are left out; no host may wait in them."""
    import torch

    from benchmarks.static.configurations import DTYPES
    from benchmarks.static.recorder import recording
    from benchmarks.static.scratch import counted
    from tests.kernels.problem import NothingWaits, Recorder
    from tttscale.kernels import scan
    from tttscale.kernels.triton_scan import scan as triton_scan
    from tttscale.kernels.triton_scan.linear.segment import TritonLinearScan
    from tttscale.kernels.triton_scan.mlp.segment import TritonMLPScan

    scan_type = {"linear": TritonLinearScan, "mlp": TritonMLPScan}[kind]
    tokens, inner = SEGMENTS * scan_type.segment_tokens, F if kind == "linear" else 4 * F
    shapes = [(F, inner), (1, inner), (inner, F), (1, F)][: 2 if kind == "linear" else 4]
    q, k, v = (torch.zeros(1, tokens, HEADS, F, dtype=DTYPES[dtype]) for _ in range(3))
    rest = [torch.zeros(1, HEADS, tokens), torch.zeros(K), *torch.zeros(2, HEADS, F)]
    leaves = [x.transpose(1, 2) for x in (q, k, v)] + rest
    state = tuple(torch.zeros(1, HEADS, *shape) for shape in shapes)
    for leaf in (*leaves, *state):
        leaf.requires_grad_()
    own = {x.untyped_storage().data_ptr() for x in (*leaves, *state)}
    saved_bytes = {}

    def pack(x):
        saved_bytes[x.untyped_storage().data_ptr()] = x.untyped_storage().nbytes()
        return x

    hooks = Recorder(awaited)
    ahead = triton_scan.SCRATCH_BYTES if ahead_bytes is None else ahead_bytes
    with (
        NothingWaits(),
        recording(),
        mock.patch.object(
            scan, "_scan_type", return_value=partial(scan_type, architecture=capability)
        ),
        mock.patch.object(triton_scan, "SCRATCH_BYTES", ahead),
    ):
        with counted() as forward, torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
            out, last = scan.ttt_scan(kind, *leaves, state=state, mini_batch_size=K, hooks=hooks)
        kept_bytes = sum(n for at, n in saved_bytes.items() if at not in own)
        alive_bytes = forward.now_bytes
        with counted() as backward:
            results = (out, *last)
            torch.autograd.grad(results, [*leaves, *state], [torch.zeros_like(x) for x in results])
    assert hooks.calls == ["send_state", "recv_grad", "send_grad"]
    assert backward.now_bytes == 0
    # Nothing hangs on the graph but what autograd knows of.
    assert alive_bytes == kept_bytes
    per = HEADS * scan_type.segment_tokens
    return {
        "kept": kept_bytes / per,
        "forward": forward.most_bytes / per,
        "backward": backward.most_bytes / per,
    }


def main():
    found = [
        [allocated(*case, awaited, ahead) for awaited, ahead in MODES.values()] for case in CASES
    ]
    print(json.dumps(found))


# ---- tests -------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def found():
    """case -> mode -> bytes."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.kernels.test_scratch"],
        env={**os.environ, "TRITON_INTERPRET": "0"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    rows = json.loads(done.stdout.strip().splitlines()[-1])
    return {case: dict(zip(MODES, row, strict=True)) for case, row in zip(CASES, rows, strict=True)}


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("case", CASES, ids=lambda case: "-".join(map(str, case)))
def test_scratch_is_what_the_phases_need(case, mode, found):
    ours, may = found[case][mode], limits(*case)
    for what, limit in (
        ("kept", may["kept"]),
        ("forward", may["forward"]),
        ("backward", may[mode]),
    ):
        assert ours[what] <= limit + SLACK_BYTES, what
        # Whoever needs less lowers the limit here; a counter that sees nothing is none.
        assert ours[what] >= 0.98 * limit, what


def test_host_waits_would_be_noticed():
    """What `allocated` runs under refuses them, in a backward pass as well."""
    import torch

    from tests.kernels.problem import NothingWaits

    class Reads(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x * 2

        @staticmethod
        def backward(ctx, grad):
            return grad * grad.sum().item()

    x = torch.ones(3, requires_grad=True)
    waits = (
        lambda: x.detach().sum().item(),
        lambda: x.nonzero(),
        lambda: x[x > 0],
        lambda: x.to("meta"),
        lambda: Reads.apply(x).sum().backward(),
    )
    with NothingWaits():
        (x * 2).sum().backward()
        for wait in waits:
            with pytest.raises(AssertionError, match="aten"):
                wait()


if __name__ == "__main__":
    main()
