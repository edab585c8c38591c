"""What three ranks of one `mpirun` do for test_mpi_transport; the last of them dies at the end.

python -m tests.comm.mpi_ranks FOLDER: each rank writes FOLDER/RANK.json and, of its sweeps, FOLDER/RANK.npz.
"""

import json
import os
import signal
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from tests.comm.sweeps import CASES, own_sums
from tttscale.cluster.ranks import discover
from tttscale.comm import mesh as meshes
from tttscale.comm.mpi_transport import MPITransport
from tttscale.comm.mpi_world import check_mpi_job, join_mpi
from tttscale.errors import TTTScaleError
from tttscale.model.ports import Carried
from tttscale.scan.schedule import CarryKey, Phase

CPU = torch.device("cpu")
SMALL = Carried(((2, 3),), torch.float32)
LONGER = Carried(((9, 9),), torch.float32)
LARGE = Carried(((1 << 20,),), torch.float32)
MESSAGES = 3


def error_of(work):
    try:
        work()
    except TTTScaleError as error:
        return f"{type(error).__name__}: {error}"
    return "accepted"


def key(boundary, phase=Phase.FORWARD):
    return CarryKey(phase, 0, boundary, 1, "state")


def arrived_without_a_call(transport):
    """Rank 0 sends large messages to rank 1; both sleep. How many have ended."""
    if transport.rank == 0:
        for boundary in range(MESSAGES):
            transport.isend(key(boundary), 1, (torch.full((1 << 20,), float(boundary)),))
        started = list(transport._sends)
    else:
        handles = [transport.irecv(key(boundary), 0, LARGE) for boundary in range(MESSAGES)]
        started = [handle._transfer for handle in handles]
    until = time.monotonic() + 20
    while not all(one.done for one in started) and time.monotonic() < until:
        time.sleep(0.05)  # no call of MPI by this thread
    ended = MESSAGES - sum(not one.done for one in started)
    if transport.rank == 0:
        transport.flush()
    else:
        for boundary, handle in enumerate(handles):
            assert (handle.wait()[0] == boundary).all()
    return ended


def other_message(transport, sent, carried):
    """What rank 1 says that expects a small part and receives what rank 0 sends."""
    if transport.rank == 0:
        transport.isend(sent, 1, (torch.ones(carried.shapes[0]),))
        transport.flush()
        return None
    return error_of(transport.irecv(key(2), 0, SMALL).wait)


def main(folder):
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # which mpirun sends when the last rank dies
    torch.set_num_threads(1)
    ranks = discover(os.environ)
    other = replace(ranks, rank=(ranks.rank + 1) % 3)
    said = {"other rank": error_of(lambda: check_mpi_job(other, CPU))}
    said["gpu"] = error_of(lambda: check_mpi_job(ranks, torch.device("cuda")))
    mesh = meshes.start(ranks, 3, CPU, transport="mpi")
    assert isinstance(mesh.transport, MPITransport)
    said["other rank of MPI"] = error_of(lambda: join_mpi(other))
    said["other size"] = error_of(lambda: join_mpi(replace(ranks, world_size=4)))
    arrays = {}
    for case in CASES:
        arrays |= own_sums(mesh.transport, case)
    if ranks.rank < 2:  # two ranks of the three
        two = MPITransport.connect(join_mpi(ranks), 2, farewells=None, timeout_seconds=60)
        for case in CASES:
            arrays |= own_sums(two, case)
        said["arrived"] = arrived_without_a_call(two)
        said["wrong"] = other_message(two, key(3), SMALL)
        said["long"] = other_message(two, key(2), LONGER)
        two.close()
    mesh.sum_on_cpu(torch.zeros(1))
    np.savez(folder / f"{ranks.rank}.npz", **arrays)
    if ranks.rank == 2:
        (folder / "2.json").write_text(json.dumps(said))
        os._exit(3)
    phase = (Phase.FORWARD, Phase.BACKWARD)[ranks.rank]  # both are neighbours of the last
    handle = mesh.transport.irecv(key(2, phase), 2, SMALL)
    began = time.monotonic()
    said["dead"] = error_of(handle.wait)
    said["seconds"] = time.monotonic() - began
    (folder / f"{ranks.rank}.json").write_text(json.dumps(said))
    os._exit(0)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
