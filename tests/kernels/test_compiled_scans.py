"""Compiled kernels of the paper's shape, run on the CPU by benchmarks/ptx: results, bits, no races."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.gpu.errors import limit_of
from benchmarks.static.configurations import DTYPES
from tests.campaigns.compiled_kernels import every
from tests.campaigns.emulated_kernels import faults

LAUNCHES = {"linear": 6, "mlp": 6}
REPORT = Path(__file__).parents[2] / "benchmarks/data/kernels_emulated.json"


@pytest.mark.parametrize(
    ("kind", "dtype", "capability", "tokens"),
    [
        ("linear", "bf16", 90, 91),  # more than a block, and a short mini-batch
        ("linear", "bf16", 80, 59),
        ("linear", "fp32", 90, 59),
        ("mlp", "bf16", 90, 75),
        ("mlp", "bf16", 80, 43),
        ("mlp", "fp32", 90, 43),
    ],
)
def test_compiled_scans_equal_the_reference(kind, dtype, capability, tokens):
    words = map(str, (kind, 64, 16, dtype, capability, tokens))
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.ptx", *words, *(["waits"] if kind == "linear" else [])],
        env={**os.environ, "TRITON_INTERPRET": "0", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    facts = json.loads(done.stdout.strip().splitlines()[-1])
    assert len(facts["launches"]) == LAUNCHES[kind]
    off = {n: e for n, e in facts["errors"].items() if not e <= limit_of(n, DTYPES[dtype])}
    assert not off
    assert facts["same_bits"] is (True if kind == "linear" else None)


@pytest.mark.parametrize(("kind", "capability"), [("linear", 90), ("mlp", 90), ("mlp", 80)])
def test_compiled_tokens_equal_the_reference(kind, capability):
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.ptx.one_token", kind, "64", str(capability)],
        env={**os.environ, "TRITON_INTERPRET": "0", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    facts = json.loads(done.stdout.strip().splitlines()[-1])
    assert facts["launches"] == ["one_token_kernel"] * 2
    assert facts["error"] < 1e-6


def test_the_report_covers_every_shipped_configuration():
    """To mend: `python -m tests.campaigns.emulated_kernels --out benchmarks/kernels_emulated`."""
    ran = json.loads(REPORT.read_text())["data"]
    assert set(ran) == {str(configuration) for configuration in every()}
    assert not [
        f for configuration in every() for f in faults(ran[str(configuration)], configuration)
    ]
