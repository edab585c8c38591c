"""The C allocator's habits, which decide how much of a CPU step is spent in page faults."""

import ctypes
import sys

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_LARGEST = 2**31 - 1


def tune_allocator() -> bool:
    """Let glibc keep freed memory instead of giving every large tensor back to the kernel.

    By default a tensor above 32 MiB is mapped and unmapped each time, and its pages are faulted in and
    zeroed anew.

    Returns:
        Whether there was a glibc to tell.
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL("libc.so.6").mallopt
    except (OSError, AttributeError):
        return False
    return bool(mallopt(_M_MMAP_THRESHOLD, 2**30) and mallopt(_M_TRIM_THRESHOLD, _LARGEST))
