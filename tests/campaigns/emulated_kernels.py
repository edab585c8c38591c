"""Every shipped kernel compiled for a GPU and its PTX run on the CPU: results against fp64, and races.

    python -m tests.campaigns.emulated_kernels --out benchmarks/kernels_emulated
    python -m tests.campaigns.emulated_kernels --only linear:64:16:bf16:90 mlp:64:32:bf16:80
    python -m tests.campaigns.emulated_kernels --render benchmarks/kernels_emulated   the page, from its JSON

Takes no GPU, but two cores for half an hour; benchmarks/ptx says what is checked on the way. Exits with 1 and
says which results are off, which differ with neighbours that wait, and which accesses are faults. Tokens:
one block and a part of the next, which ends in a short mini-batch.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from benchmarks.gpu.errors import limit_of
from benchmarks.problems import NAMES, worst
from benchmarks.static.configurations import DTYPES
from tests.campaigns.compiled_kernels import Configuration, chosen, command_line, examine_all
from tttscale.bench import report
from tttscale.kernels.triton_scan.launch_table import mini_batches_per_block

TITLE = "Compiled kernels, run without a GPU"
HOW = (
    "Forward and backward of one head, once alone and once with neighbours that wait, on kernels "
    "compiled for the GPU named, whose PTX `benchmarks/ptx` runs on the CPU: **simulated**. Nothing here "
    "says how fast they are, nor what the assembler makes of PTX. Errors are relative, root of mean "
    "squares, against the fp64 reference of the same (rounded) inputs; scratch holds NaN until it is "
    "written. An access outside of all tensors, to shared memory that nobody wrote, or that meets "
    "another warp's with no barrier or fence in between, would have ended the run; lanes of one warp "
    "are not held against each other. *same bits*: outputs, states and gradients of both runs.\n\n"
    "Limits: 1e-5 in fp32; 1e-2 in bf16, but 3e-2 for token_idx, each of whose places is one sum over "
    "all tokens that mostly cancels."
)


def tokens_of(configuration: Configuration) -> int:
    """A block, a mini-batch of the next one and a short one."""
    _, _, size, dtype = configuration.shape
    block = mini_batches_per_block(configuration.capability, size, DTYPES[dtype])
    return (block + 1) * size + 11


class Campaign:
    """Runs configurations, each in a process of its own, and keeps what they gave."""

    def __init__(self) -> None:
        self.facts: dict[Configuration, dict[str, Any]] = {}

    def examine(self, configuration: Configuration) -> list[str]:
        """What is wrong with it."""
        began = time.monotonic()
        words = map(str, (*configuration.shape, configuration.capability, tokens_of(configuration)))
        done = subprocess.run(
            [sys.executable, "-m", "benchmarks.ptx", *words, "waits"],
            env={**os.environ, "TRITON_INTERPRET": "0", "OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            found, largest = [(done.stderr.strip() or "no word").splitlines()[-1]], ""
        else:
            facts = self.facts[configuration] = json.loads(done.stdout.strip().splitlines()[-1])
            found = list(faults(facts, configuration))
            name = worst(facts["errors"])
            largest = f", largest error {facts['errors'][name]:.1e} ({name})"
        seconds = time.monotonic() - began
        print(f"{configuration}: {seconds:.0f} s{largest}", *found, sep="\n  ", flush=True)
        return [f"{configuration} {fault}" for fault in found]

    def write(self, out: Path, wanted: Sequence[Configuration], found: Sequence[str]) -> None:
        """Write OUT.md and OUT.json."""
        ran = {c: self.facts[c] for c in wanted if c in self.facts}
        data = {str(configuration): facts for configuration, facts in ran.items()}
        report.write(out, TITLE, sections_of(ran, len(wanted), found), data)


def render(out: Path) -> None:
    """Write OUT.md again from OUT.json; nothing is run."""
    circumstances, data = report.read(out)
    ran = {configuration: data[str(configuration)] for configuration in chosen(list(data))}
    found = [f"{c} {fault}" for c, facts in ran.items() for fault in faults(facts, c)]
    report.write_page(out, TITLE, circumstances, sections_of(ran, len(ran), found))


def sections_of(
    ran: dict[Configuration, dict[str, Any]], wanted: int, found: Sequence[str]
) -> list[tuple[str, str]]:
    """The page: a line for each GPU, inner learner and dtype; every configuration is in the JSON."""
    parts = [f"{wanted} configurations, {len(found)} faults.", *found]
    groups: dict[tuple[int, str, str], list[Configuration]] = {}
    for configuration in ran:
        inner, *_, dtype = configuration.shape
        groups.setdefault((configuration.capability, inner, dtype), []).append(configuration)
    if groups:
        parts.append(report.table([row(group, ran) for group in groups.values()]))
        parts.append(
            "Head dims 16 to 128, K 16 to 64; every configuration is in the JSON in `data/`."
        )
    return [("Result", "\n\n".join(parts)), ("How", HOW)]


def row(group: list[Configuration], ran: dict[Configuration, dict[str, Any]]) -> dict[str, Any]:
    """The largest errors of some configurations."""
    inner, *_, dtype = group[0].shape
    outputs, gradients, token_idx = [], [], []
    for configuration in group:
        errors = dict(ran[configuration]["errors"])
        token_idx.append(errors.pop("dtoken_idx"))
        outputs += [errors.pop(name) for name in NAMES if name in errors]
        gradients += errors.values()
    return {
        "GPU": f"sm_{group[0].capability}",
        **{"inner": inner, "dtype": dtype, "configurations": len(group)},
        "outputs, states": f"{max(outputs):.1e}",
        "gradients": f"{max(gradients):.1e}",
        "of token_idx": f"{max(token_idx):.1e}",
        "same bits": f"{sum(ran[c]['same_bits'] for c in group)} of {len(group)}",
    }


def faults(facts: dict[str, Any], configuration: Configuration) -> Iterator[str]:
    """What is wrong with one configuration's results."""
    for name, error in facts["errors"].items():
        if not error <= limit_of(name, DTYPES[configuration.shape[3]]):
            yield f"{name}: relative error {error:.1e}"
    if not facts["same_bits"]:
        yield "other bits with neighbours that wait"


def main() -> None:
    parser = command_line("Run every compiled kernel, no GPU needed.")
    parser.add_argument("--out", type=Path, help="report path without suffix")
    parser.add_argument("--render", type=Path, metavar="PATH", help="write PATH.md from its JSON")
    asked = parser.parse_args()
    if asked.render:
        return render(asked.render)
    campaign, wanted = Campaign(), chosen(asked.only)
    found = examine_all(campaign.examine, wanted)
    if asked.out:
        campaign.write(asked.out, wanted, found)
    sys.exit(bool(found))


if __name__ == "__main__":
    main()
