"""Large results of all ranks, brought to rank 0 one after the other."""

import torch
import torch.distributed as dist

from tttscale.comm.mesh import Mesh

MOST_BYTES = 1 << 30
"""Most bytes that one rank may send."""


def gather_bytes(mesh: Mesh, data: bytes) -> list[bytes]:
    """Bring what every rank has to rank 0, which holds no more than all of it; every rank calls this.

    Args:
        mesh: all ranks.
        data: up to `MOST_BYTES`, another length on every rank.

    Returns:
        On rank 0 one for each rank, in rank order; elsewhere nothing.
    """
    assert len(data) <= MOST_BYTES
    if mesh.world_size == 1:
        return [data]
    lengths = mesh.gather([float(len(data))])[:, 0].tolist()
    found = [data]
    with mesh.noticing("while results were gathered"):
        if mesh.rank > 0:
            if data:
                dist.send(torch.frombuffer(bytearray(data), dtype=torch.uint8), 0)
            return []
        for rank in range(1, mesh.world_size):
            buffer = torch.empty(int(lengths[rank]), dtype=torch.uint8)
            if len(buffer):
                dist.recv(buffer, rank)
            found.append(buffer.numpy().tobytes())
    return found
