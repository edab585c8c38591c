"""One kernel's launch: what a GPU's table of launches is made of."""

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Launch:
    """Warps, pipeline stages, and how much a program takes at a time."""

    num_warps: int
    num_stages: int = 1
    inner_columns: int = 32
    """IB: hidden features that a program takes at a time; rows of a tile of W in TTT-Linear's chains."""
    key_columns: int = 32
    """KEYS_IB: the same in the phase of TTT-MLP's readout_backward that goes through the keys."""
    resident: bool = False
    """Whether the state stays in registers in TTT-MLP's forward chain."""
    merged: bool = False
    """Whether TTT-MLP's reverse chain goes through the state's gradient once a mini-batch, not twice."""
    max_registers: int | None = None
    """Registers per thread, where not all fits: else the compiler goes down to 32 and spills the rest."""
    fused: bool = True
    """Whether a product and a sum may become one operation without the rounding in between."""
    reads_copies: bool = True
    """Whether tensor-core products may read what a loop copies ahead, see `launch_of`."""


Table = Callable[[str, int, int], Launch]
"""(kernel, head dim f, mini-batch size K) -> its launch, for one learner on one GPU."""
LARGEST_DIM = 128
