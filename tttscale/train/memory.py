"""A host's memory: what is free, this process's peak, and the C allocator's settings.

The settings decide how much of a CPU step is spent in page faults.
"""

import ctypes
import re
import resource
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import torch

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_LARGEST = 2**31 - 1
_KIB = 1024
_STATUS = Path("/proc/self/status")
_CGROUP, _CGROUPS = Path("/proc/self/cgroup"), Path("/sys/fs/cgroup")


def available_bytes(cgroup: Path = _CGROUP, cgroups: Path = _CGROUPS) -> int:
    """Return the free memory of the host, or less if Slurm or a container has set a limit (cgroup v2)."""
    return min([psutil.virtual_memory().available, *_left_bytes(cgroup, cgroups)])


def _left_bytes(cgroup: Path, cgroups: Path) -> Iterator[int]:
    """Yield what is left of each limit, from this process's control group up to the root."""
    try:
        own = re.search(r"^0::/(.*)$", cgroup.read_text(), re.MULTILINE)
    except OSError:
        return
    group = cgroups / (own.group(1) if own else "")
    for folder in (group, *group.parents[: len(group.parts) - len(cgroups.parts)]):
        try:
            limit, used = (
                (folder / name).read_text().strip() for name in ("memory.max", "memory.current")
            )
            cached = re.search(r"^inactive_file (\d+)$", (folder / "memory.stat").read_text(), re.M)
        except OSError:
            continue  # the root has no limit
        if limit != "max":
            # The cache of files that were not read lately is freed as soon as room is needed.
            yield max(0, int(limit) - int(used) + int(cached.group(1) if cached else 0))


def peak_bytes(device: torch.device) -> int:
    """Return this process's largest memory so far where it computes: on the GPU, or its resident set."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    try:
        # Not getrusage's: that includes the process before it executed this program.
        found = re.search(r"^VmHWM:\s+(\d+) kB$", _STATUS.read_text(), re.MULTILINE)
    except OSError:
        found = None
    if found is not None:
        return int(found.group(1)) * _KIB
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * _KIB


def tune_allocator() -> bool:
    """Let glibc keep freed memory instead of returning every large tensor to the kernel.

    By default a tensor above 32 MiB is mapped and unmapped each time, and its pages are faulted in and
    zeroed again.

    Returns:
        Whether there is a glibc that takes the settings.
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL("libc.so.6").mallopt
    except (OSError, AttributeError):
        return False
    return bool(mallopt(_M_MMAP_THRESHOLD, 2**30) and mallopt(_M_TRIM_THRESHOLD, _LARGEST))
