"""torch.profiler's trace of every rank, as trace viewers and HTA take them: the rank in name and metadata."""

import json
import os
from collections.abc import Callable
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity

from tttscale.comm.mesh import Mesh


def trace_with_torch(
    folder: Path, mesh: Mesh, device: torch.device, run_steps: Callable[[int], None]
) -> Path:
    """Run one step under torch.profiler; every rank calls this and writes a file of its own.

    Args:
        folder: made if it is missing; on each host.
        mesh: all ranks.
        device: where the rank computes.
        run_steps: runs so many optimizer steps.

    Returns:
        FOLDER/rank-N.json.gz.

    Raises:
        OSError: the file system refused.
    """
    activities = [ProfilerActivity.CPU]
    if device.type == "cuda":
        activities.append(ProfilerActivity.CUDA)
    with torch.profiler.profile(activities=activities) as profiler:
        place = {"rank": mesh.rank, "world_size": mesh.world_size}
        profiler.add_metadata_json("distributedInfo", json.dumps({"backend": "gloo", **place}))
        run_steps(1)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"rank-{mesh.rank}.json.gz"
    partial = folder / f"rank-{mesh.rank}.partial-{os.getpid()}.json.gz"
    try:
        profiler.export_chrome_trace(str(partial))
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
    return path
