"""Every shipped kernel compiled for a GPU and its PTX run on the CPU: results against fp64, and races.

    python -m tests.campaigns.emulated_kernels
    python -m tests.campaigns.emulated_kernels --only linear:64:16:bf16:90 mlp:64:32:bf16:80

Takes no GPU, but two cores for an hour or two (tests/ptx says what is checked on the way). Exits with 1 and
says which results are off, which differ with neighbours that wait, and which accesses are faults. Tokens: one
block and a part of the next, which ends in a short mini-batch.
"""

import json
import os
import subprocess
import sys
import time

import torch

from tests.campaigns.compiled_kernels import Configuration, asked, examine_all
from tttscale.bench.gpu_errors import limit_of
from tttscale.bench.kernels import DTYPES
from tttscale.kernels.launch_table import mini_batches_per_block


def tokens_of(configuration: Configuration) -> int:
    """A block, a mini-batch of the next one and a short one."""
    _, _, size, dtype = configuration.shape
    block = mini_batches_per_block(configuration.capability, size, DTYPES[dtype])
    return (block + 1) * size + 11


def examine(configuration: Configuration) -> list[str]:
    began = time.monotonic()
    words = map(str, (*configuration.shape, configuration.capability, tokens_of(configuration)))
    done = subprocess.run(
        [sys.executable, "-m", "tests.ptx", *words, "waits"],
        env={**os.environ, "TRITON_INTERPRET": "0", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        found = [done.stderr.strip().splitlines()[-1]]
        worst = ""
    else:
        facts = json.loads(done.stdout.strip().splitlines()[-1])
        found = list(faults(facts, DTYPES[configuration.shape[3]]))
        name = max(facts["errors"], key=facts["errors"].__getitem__)
        worst = f", worst error {facts['errors'][name]:.1e} ({name})"
    seconds = time.monotonic() - began
    print(f"{configuration}: {seconds:.0f} s{worst}", *found, sep="\n  ", flush=True)
    return [f"{configuration} {fault}" for fault in found]


def faults(facts: dict, dtype: torch.dtype) -> list[str]:
    """What is wrong with one configuration's results."""
    found = [
        f"{name}: relative error {error:.1e}"
        for name, error in facts["errors"].items()
        if not error <= limit_of(name, dtype)
    ]
    return found if facts["same_bits"] else [*found, "other bits with neighbours that wait"]


if __name__ == "__main__":
    examine_all(examine, asked("Run every compiled kernel, no GPU needed."))
