"""The Triton kernels compile for GPUs that are not here, and fit."""

import json
import os
import subprocess
import sys

import pytest

from tttscale.bench.kernels import bench_kernels

ENV = {**os.environ, "TRITON_INTERPRET": "0"}


def run(*words):
    done = subprocess.run(
        [sys.executable, *words], env=ENV, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip().splitlines()[-1]


@pytest.mark.parametrize(
    ("kind", "dim", "size", "dtype", "capability"),
    [("linear", 64, 16, "bf16", 80), ("mlp", 64, 16, "bf16", 80), ("mlp", 128, 16, "bf16", 90)],
)
def test_compiles_and_fits(kind, dim, size, dtype, capability):
    words = map(str, (kind, dim, size, dtype, capability))
    rows = json.loads(run("-m", "tttscale.bench.compiled", *words))
    assert len(rows) >= 6
    assert all(row["fits"] for row in rows), rows
    if (dim, size) == (64, 16):
        assert not any(row["local_accesses_in_loops"] for row in rows), rows


def test_the_papers_shape_does_not_spill_on_hopper(tmp_path):
    bench_kernels(tmp_path / "kernels", capability=90, everything=False)
    rows = json.loads((tmp_path / "kernels.json").read_text())["data"]["kernels"]
    assert {row["inner"] for row in rows} == {"linear", "mlp"}
    assert all(row["fits"] for row in rows)
    assert {row["dtype"] for row in rows} == {"bf16", "fp32"}
    assert not [row for row in rows if row["local_accesses_in_loops"]]
    assert not [row for row in rows if row["stack_bytes"] or row["local_accesses"]]
    chains = [r for r in rows if r["kernel"].startswith("advance") and r["dtype"] == "bf16"]
    assert len(chains) == 4
    for row in chains:
        assert 200 < row["cycles_per_step"] <= row["cycles_per_step_loads_exposed"] < 50_000
        if row["inner"] == "linear":  # all that its chains read is fetched ahead
            assert row["cycles_per_step"] == row["cycles_per_step_loads_exposed"]
    assert "| linear | 64 | 16 | bf16 | advance |" in (tmp_path / "kernels.md").read_text()


LENGTHS = """
import torch
from tttscale.bench.compiled import launches
for kind in ("linear", "mlp"):
    seen = set()
    for tokens in (1, 16, 75, 4096, 1 << 20):
        sources = launches(kind, 16, 16, torch.bfloat16, tokens).sources
        seen.add(str({n: (s.signature, s.constants, s.attrs, o) for n, (s, o) in sources.items()}))
    assert len(seen) == 1, seen
print("same")
"""


def test_another_length_compiles_nothing_new():
    assert run("-c", LENGTHS) == "same"
