"""The Triton kernels compile for GPUs that are not here, and fit."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.static import kernels, one_token
from benchmarks.static.configurations import PAPER
from benchmarks.static.fingerprint import row_name
from tests.pinned import is_pinned

ENV = {**os.environ, "TRITON_INTERPRET": "0", "PYTHONDONTWRITEBYTECODE": "1"}
BENCHMARKS = Path(__file__).parents[2] / "benchmarks/data"


def run(*words):
    done = subprocess.run(
        [sys.executable, *words], env=ENV, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip().splitlines()


def test_compiles_and_fits():
    """One configuration of an A100. Every other one: `python -m tests.campaigns.compiled_kernels`."""
    rows = json.loads(
        run("-m", "benchmarks.static.compiled", "linear", "64", "16", "bf16", "80")[-1]
    )
    assert len(rows) == 6
    assert all(row["fits"] for row in rows), rows
    for row in rows:
        assert ("issued_per_token" in row) != row["kernel"].startswith("advance")
        if "issued_per_token" in row:
            assert row["programs_per_sm"] * row["num_warps"] * 32 * row["registers"] <= 64 << 10
            assert row["issued_per_token"] > 0
            assert 0 < row["cycles"] <= row["cycles_loads_exposed"]
            assert row["cycles_to_move"] > 0
    (readout,) = (row for row in rows if row["kernel"] == "readout_kernel")
    # q, k, G and out; of each block of 64 tokens its W and, in fp32, b; lr.
    expected = 4 * 2 * 64 + (2 * 64 * 64 + 4 * 64) / 64 + 4
    assert readout["bytes_per_token"] == pytest.approx(expected, abs=1)  # parameters, shared
    if is_pinned("triton"):  # 3.8 spills two of these six
        assert not any(row["stack_bytes"] or row["local_accesses"] for row in rows), rows
    assert not any(row["repeated_products"] for row in rows), rows
    assert sum(row["products"] for row in rows) > 40


def test_the_papers_shape_does_not_spill_on_hopper(tmp_path, monkeypatch):
    """In bf16. In fp32: the campaign, and the report below as long as no code changes."""
    monkeypatch.setattr(
        kernels, "shapes_of", lambda *_: [("mlp", *PAPER[0]), ("linear", *PAPER[0])]
    )
    kernels.bench_kernels(tmp_path / "kernels", capability=90, everything=False)
    rows = json.loads((tmp_path / "kernels.json").read_text())["data"]["kernels"]
    assert {row["inner"] for row in rows} == {"linear", "mlp"}
    assert len(rows) == 2 * 6
    assert all(row["fits"] for row in rows)
    if is_pinned("triton"):  # 3.8 spills the reverse chain of TTT-Linear
        assert not [row for row in rows if row["stack_bytes"] or row["local_accesses"]]
    chains = [row for row in rows if row["kernel"].startswith("advance")]
    assert len(chains) == 4
    for row in chains:
        assert 200 < row["cycles_per_step"] <= row["cycles_per_step_loads_exposed"] < 50_000
        if row["inner"] == "linear":  # all that its chains read is fetched ahead
            assert row["cycles_per_step"] == row["cycles_per_step_loads_exposed"]
    assert "| linear | bf16 | advance |" in (tmp_path / "kernels.md").read_text()


def test_the_reports_speak_of_the_kernels_that_are_shipped():
    """Every configuration was compiled as it is now and fits; none of the paper's shape spills.

    To mend: `python -m benchmarks.static.kernels --all --capability N --out benchmarks/kernels_smN`.
    """
    capabilities = ("90", "80")
    shipped = map(json.loads, run("-m", "benchmarks.static.fingerprint", *capabilities))
    for capability, codes in zip(capabilities, shipped, strict=True):
        report = BENCHMARKS / f"kernels_sm{capability}.json"
        rows = {row_name(r): r for r in json.loads(report.read_text())["data"]["kernels"]}
        assert len(codes) == 360
        assert {name: row["code"] for name, row in rows.items()} == codes
        assert all(row["fits"] and row["registers"] > 0 for row in rows.values())
        papers = [r for r in rows.values() if (r["dim"], r["K"]) == (64, 16)]
        assert len(papers) >= 2 * (6 + 6)
        assert not [row for row in papers if row["stack_bytes"] or row["local_accesses"]]
        assert not [row for row in papers if row["repeated_products"]]


def test_the_report_speaks_of_the_kernels_of_one_token():
    """To mend: `python -m benchmarks.static.one_token --out benchmarks/kernels_one_token`."""
    rows = json.loads((BENCHMARKS / "kernels_one_token.json").read_text())["data"]
    codes = []
    for capability in one_token.CAPABILITIES:
        found = run("-m", "benchmarks.static.one_token", "--fingerprint", str(capability))
        codes += [row["code"] for row in json.loads(found[-1])]
    assert [row["code"] for row in rows] == codes
    assert len(rows) == 2 * 2 * 5 * 2
    assert list(one_token.faults(rows)) == []


FINGERPRINTS = """
import importlib, sys
sys.path.insert(0, sys.argv[1])
from triton.compiler import ASTSource
from benchmarks.static.fingerprint import fingerprint

for name, warps in (word.split(":") for word in sys.argv[2:]):
    kernel = importlib.import_module(name).kernel
    source = ASTSource(kernel, {"x_ptr": "*fp32", "N": "constexpr"}, {(1,): 8}, {})
    print(fingerprint(source, {"num_warps": int(warps)}))
"""


def test_a_fingerprint_is_of_code_and_launch(tmp_path):
    """Neither comments and docstrings nor line numbers; constants and called functions do count."""
    code = (
        "import triton\nimport triton.language as tl\nSIZE = tl.constexpr(4)\n\n\n@triton.jit\n"
        "def half(x):\n    return x * 0.5\n\n\n@triton.jit\ndef kernel(x_ptr, N: tl.constexpr):\n"
        "    tl.store(x_ptr, half(tl.load(x_ptr)) + SIZE)\n"
    )
    commented = code.replace("def half(x):\n", 'def half(x):\n    """Half."""\n    # why\n')
    texts = {
        "plain": code,
        "commented": "# above\n" + commented,
        "called": code.replace("0.5", "0.25"),
        "constant": code.replace("constexpr(4)", "constexpr(5)"),
    }
    for name, text in texts.items():
        (tmp_path / f"{name}.py").write_text(text)
    first, wider, *others = run(
        "-c", FINGERPRINTS, tmp_path, "plain:4", "plain:8", *(f"{name}:4" for name in texts)
    )
    assert others[:2] == [first, first]  # as it is, commented
    assert len({first, wider, *others[2:]}) == 4


VARIANTS = """
from functools import cache
import torch
from triton.backends.compiler import GPUTarget
from triton.compiler import make_backend
from triton.runtime.jit import JITFunction, create_function_from_signature
from benchmarks.static.recorder import problem_of

backend, seen = make_backend(GPUTarget("cuda", 90, 32)), set()

@cache
def binder(kernel):
    return create_function_from_signature(kernel.signature, kernel.params, backend)

def ask(kernel, *arguments, grid, warmup, **options):
    # Triton's own question: another answer, or other options, and it compiles anew.
    _, specialization, launch = binder(kernel)(*arguments, **options)
    seen.add((kernel.__name__, *specialization, *sorted(launch.items())))

def variants(kind, dim, tokens):
    seen.clear()
    with torch.device("meta"):
        scan, state, q = problem_of(kind, dim, 16, torch.bfloat16, tokens, 2, 90)
        _, saved, last = scan.forward(state)
        scan.backward(saved, torch.zeros_like(q), last)
    return frozenset(seen)

JITFunction.run = ask
# One token; a short last mini-batch; multiples of 16 and others; several segments.
lengths = (1, 15, 16, 75, 1000, 4096, 20000)
for kind in ("linear", "mlp"):
    for dim in (16, 48, 64):
        first = variants(kind, dim, 75)
        assert len(first) == 6
        for tokens in (*lengths, 1 << 20) if dim == 64 else lengths:
            found = variants(kind, dim, tokens)
            assert found == first, (kind, dim, tokens, found ^ first)
    # Strides of head dim 24 are multiples of 16, or not: Triton tells the two apart.
    assert len({variants(kind, 24, tokens) for tokens in lengths}) <= 2, kind
print("same")
"""


def test_another_length_compiles_nothing_new():
    assert run("-c", VARIANTS)[-1] == "same"
