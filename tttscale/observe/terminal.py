"""Does a person watch? Bars that redraw themselves are for people only."""

import os
from typing import TextIO


def is_watched(stream: TextIO) -> bool:
    """Whether `stream` is a terminal; under Open MPI it only looks like one.

    mpirun gives its processes a pseudo-terminal even if its own output goes to a file.
    """
    return stream.isatty() and "OMPI_COMM_WORLD_RANK" not in os.environ
