"""Every shipped kernel compiled for Hopper and for an A100: does it fit, and is the committed report fresh.

    python -m tests.campaigns.compiled_kernels
    python -m tests.campaigns.compiled_kernels --only linear:64:16:bf16:90 mlp:64:32:bf16:80
    python -m tests.campaigns.compiled_kernels --one-token    the kernels of generation alone, two minutes

Takes no GPU, but two cores for about half an hour. Exits with 1 and says which kernels do not fit into shared
memory, which of the paper's shape (head dim 64, K 16) go to local memory inside a loop, and which of those
need something else than benchmarks/data/kernels_sm90.json and kernels_sm80.json say; and the same of the
kernels of one token, with kernels_one_token.json.
"""

import argparse
import json
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.static import one_token
from benchmarks.static.configurations import Shape, shapes_of
from benchmarks.static.kernels import compile_shape

CAPABILITIES = (90, 80)
REPORTS = Path(__file__).parents[2] / "benchmarks/data"
PAPER = (64, 16)
REPORTED = ("registers", "stack_bytes", "shared_bytes")

Row = dict[str, Any]


class Configuration(NamedTuple):
    shape: Shape
    capability: int

    def __str__(self) -> str:
        return ":".join(map(str, (*self.shape, self.capability)))

    @property
    def of_paper(self) -> bool:
        return self.shape[1:3] == PAPER


def every() -> list[Configuration]:
    return [
        Configuration(shape, capability)
        for capability in CAPABILITIES
        for shape in shapes_of(capability, everything=True)
    ]


def chosen(words: Sequence[str]) -> list[Configuration]:
    """The shipped configurations that are named; all if none is."""
    shipped = {str(configuration): configuration for configuration in every()}
    if unknown := [word for word in words if word not in shipped]:
        raise SystemExit(f"not shipped: {', '.join(unknown)}; expected one of {', '.join(shipped)}")
    return [shipped[word] for word in words] or list(shipped.values())


@cache
def report_of(capability: int) -> Any:
    return json.loads((REPORTS / f"kernels_sm{capability}.json").read_text(encoding="utf-8"))


def comparable(capability: int) -> bool:
    """Another Triton compiles otherwise: its figures say nothing about the report's."""
    return report_of(capability)["circumstances"]["versions"]["triton"] == version("triton")


def reported(configuration: Configuration) -> list[Row]:
    rows = report_of(configuration.capability)["data"]["kernels"]
    return [r for r in rows if (r["inner"], r["dim"], r["K"], r["dtype"]) == configuration.shape]


def stale(fresh: Iterable[Row], old: Iterable[Row]) -> Iterator[str]:
    """Kernels whose figures differ, or that only one side has."""
    now = {row["kernel"]: {key: row[key] for key in REPORTED} for row in fresh}
    then = {row["kernel"]: {key: row[key] for key in REPORTED} for row in old}
    for kernel in dict.fromkeys((*now, *then)):
        ours, theirs = now.get(kernel), then.get(kernel)
        if ours is None or theirs is None:
            yield f"{kernel}: only {'the report' if ours is None else 'the fresh compile'} has it"
        elif ours != theirs:
            changes = [f"{k} {theirs[k]} -> {ours[k]}" for k in REPORTED if ours[k] != theirs[k]]
            yield f"{kernel}: the report is stale, {', '.join(changes)}"


def faults(configuration: Configuration, rows: Sequence[Row]) -> Iterator[str]:
    """What is wrong with one configuration's kernels."""
    for row in rows:
        if not row["fits"]:
            yield f"{row['kernel']}: {row['shared_bytes']} bytes of shared memory do not fit"
        if configuration.of_paper and row["local_accesses_in_loops"]:
            yield f"{row['kernel']}: {row['local_accesses_in_loops']} local accesses in loops"
    if configuration.of_paper and comparable(configuration.capability):
        yield from stale(rows, reported(configuration))


def examine(configuration: Configuration) -> list[str]:
    began = time.monotonic()
    try:
        rows = compile_shape(configuration.capability, configuration.shape)
        found = list(faults(configuration, rows))
    except RuntimeError as error:  # its own words are on stderr; the others may well compile
        rows, found = [], [f"does not compile: {error}"]
    seconds = time.monotonic() - began
    print(f"{configuration}: {len(rows)} kernels, {seconds:.0f} s", *found, sep="\n  ", flush=True)
    return [f"{configuration} {fault}" for fault in found]


def command_line(description: str) -> argparse.ArgumentParser:
    """With the configurations to take as `only`, for `chosen`."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument(
        "--only", nargs="+", default=[], metavar="KIND:DIM:K:DTYPE:CAPABILITY", help="these alone"
    )
    return parser


def examine_all(
    examine: Callable[[Configuration], list[str]], wanted: Sequence[Configuration]
) -> list[str]:
    """Side by side; prints the faults, and returns them."""
    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        found = [fault for faults_ in pool.map(examine, wanted) for fault in faults_]
    for fault in found:
        print("FAILED", fault)
    print(f"{len(wanted)} configurations, {len(found)} faults")
    return found


def examine_one_token() -> list[str]:
    """What is wrong with the kernels of one token, all of them."""
    rows = one_token.compile_all()
    found = list(one_token.faults(rows))
    old = json.loads((REPORTS / "kernels_one_token.json").read_text(encoding="utf-8"))
    if old["circumstances"]["versions"]["triton"] == version("triton"):
        for fresh, then in zip(rows, old["data"], strict=True):
            name = f"{fresh['inner']}:{fresh['dim']}:{fresh['capability']}"
            found += [f"{name} {fault}" for fault in stale([fresh], [then])]
    for fault in found:
        print("FAILED", fault)
    print(f"{len(rows)} kernels of one token, {len(found)} faults")
    return found


def main() -> None:
    parser = command_line("Compile every shipped kernel, no GPU needed.")
    parser.add_argument("--one-token", action="store_true", help="those of generation alone")
    asked = parser.parse_args()
    if asked.one_token:
        sys.exit(bool(examine_one_token()))
    wanted = chosen(asked.only)
    for capability in dict.fromkeys(configuration.capability for configuration in wanted):
        if not comparable(capability):
            print(f"kernels_sm{capability}.json is of another Triton: not compared")
    found = examine_all(examine, wanted)
    if not asked.only:
        found += examine_one_token()
    sys.exit(bool(found))


if __name__ == "__main__":
    main()
