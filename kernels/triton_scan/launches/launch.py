"""One kernel's launch: what a GPU's file of launches is made of."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Launch:
    """Warps, pipeline stages, and how much a program takes at a time."""

    num_warps: int
    num_stages: int = 1
    inner_columns: int = 32
    """Hidden features that a program takes at a time; rows of a tile of W in TTT-Linear's chains."""
    key_columns: int = 32
    """TTT-MLP's readout_backward: the same where it goes through the keys' hidden layer."""
    resident: bool = False
    """TTT-MLP's forward chain: whether the state stays in registers."""
    merged: bool = False
    """TTT-MLP's reverse chain: whether a mini-batch goes through the state's gradient once, not twice."""
    max_registers: int | None = None
    """Per thread, where not all fits: left alone the compiler goes down to 32 and spills the rest."""
    fused: bool = True
    """Whether a product and a sum may become one operation without the rounding in between."""


CHAINS = ("advance", "advance_backward")
"""The serial kernels; all others are parallel over blocks."""
LARGEST_DIM = 128
