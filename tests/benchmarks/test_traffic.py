"""Counted bytes against sizes written out by hand."""

import json
import os
import subprocess
import sys

import pytest
import torch

from benchmarks.static.traffic import PARTS, Counted, bytes_of
from tttscale.kernels.ops.pointwise import EAGER

D, HIDDEN, HEADS, TOKENS = 768, 2048, 12, 4096  # ttt-linear-125m
LINEAR, BF16 = ("ttt-linear-125m", str(TOKENS)), 2


def rows(*words):
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.static.traffic", *words],
        env={**os.environ, "TRITON_INTERPRET": "0"},
        capture_output=True,
        text=True,
        check=True,
    )
    found = json.loads(done.stdout.strip().splitlines()[-1])
    return {(r["compiled"], r["direction"], r["part"]): r for r in found}


def scan_bytes():
    """All arguments of the three kernels of a forward, bytes per token; blocks of 64 tokens."""
    f = D // HEADS
    token, wide, block = BF16 * f, 4 * f, 64
    state = (BF16 * f * f + 4 * f) / block  # W and b in front of a block
    scores = BF16 * block  # products of a token's key with those of its block
    targets = 2 * token + 4 + 4 + wide + scores  # k, v, rate; step, u
    advance = token + wide + 4 + scores + token + state  # k, u, step; G
    ends = 2 * 4 * (f * f + f) / TOKENS  # the states that come in and leave
    readout = 4 * token + 4 + state  # q, k, G, out, rate
    norm = 4 * (5 * f + 2 * 16 / HEADS) / TOKENS  # weight, bias; token_idx is shared by the heads
    return HEADS * (targets + advance + ends + readout + norm)


def test_a_blocks_bytes():
    found = rows(*LINEAR)
    assert {key[2] for key in found} == set(PARTS)
    matrices = [(D, D)] * 4 + [(D, HEADS)] + [(D, HIDDEN)] * 2 + [(HIDDEN, D)]
    tokens = BF16 * sum(a + b for a, b in matrices)
    weights = BF16 * sum(a * b for a, b in matrices) / TOKENS
    for compiled in (False, True):
        forward = found[compiled, "forward", "products"]
        assert forward["calls"] == len(matrices)
        assert forward["bytes_per_token"] == pytest.approx(tokens + weights, abs=1)
        # Two products for each: three tokens' tensors and two of parameters, of which one is fp32.
        backward = found[compiled, "backward", "products"]
        assert backward["calls"] == 2 * len(matrices)
        assert backward["bytes_per_token"] == pytest.approx(2 * tokens + 3 * weights, abs=1)
        scan = found[compiled, "forward", "scan"]
        assert scan["calls"] == 3  # targets, advance, readout
        assert scan["bytes_per_token"] == pytest.approx(scan_bytes(), abs=1)
        # What the reverse chain waits for, the chain, gradients.
        assert found[compiled, "backward", "scan"]["calls"] == 3
    # Three norms, of which two take a residual; two convolutions' inputs and one of them; both others;
    # gates; the last residual. fp32 stream, bf16 elsewhere.
    norms = 3 * (4 + 2) + 2 * (2 + 4)
    convolutions = 2 * (2 + 2) + (2 + 2) + (2 + 4)
    expected = D * (norms + convolutions + 3 * BF16 + (4 + 2 + 4)) + 3 * BF16 * HIDDEN
    between = found[True, "forward", "between"]["bytes_per_token"]
    assert expected <= between <= 1.03 * expected
    for direction in ("forward", "backward"):
        plain, fast = (found[c, direction, "between"]["bytes_per_token"] for c in (False, True))
        assert plain > 4 * fast


def test_a_call_counts_what_it_reads_and_writes():
    x, y = torch.ones(8, 4), torch.ones(8, 1).expand(8, 4)
    assert bytes_of([x, x, y]) == 4 * (8 * 4 + 8)
    counted = Counted(tokens=8)
    with counted:
        z = x + y
        z.view(4, 8)
        z.add_(x)
        torch.zeros(8)
        torch.ones(2) + 1
    assert counted.calls == {"between": 3, "parameters": 2}
    assert counted.bytes["between"] == (32 + 8 + 32) * 4 + 3 * 32 * 4 + 8 * 4


def test_an_operator_is_one_pass_over_its_arguments_and_results():
    counted = Counted(tokens=8)
    gate, up = (torch.ones(1, 8, 4, requires_grad=True) for _ in range(2))
    with counted:
        out = counted.compiled(EAGER).swiglu(gate, up)
        assert counted.bytes == {"between": 3 * 32 * 4}
        torch.autograd.backward(out, torch.empty_like(out))
    assert counted.bytes["between"] == (3 + 5) * 32 * 4
    assert counted.calls["between"] == 2
