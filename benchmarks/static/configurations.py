"""The configurations of the Triton kernels that are shipped: inner learner, head dim, K and dtype."""

import torch

from tttscale.kernels.triton_scan.launch_table import why_no_launch

DTYPES = {"bf16": torch.bfloat16, "fp32": torch.float32}
Shape = tuple[str, int, int, str]
"""Inner learner, head dim, K, dtype of the tokens."""
PAPER = [(64, 16, "bf16"), (64, 16, "fp32")]
"""Head dim, K and dtype of the paper's shape."""
_ALL = [
    (dim, size, dtype)
    for dtype in ("bf16", "fp32")
    for dim in (16, 32, 64, 96, 128)
    for size in (16, 32, 64)
]


def shapes_of(capability: int, everything: bool) -> list[Shape]:
    """List all shipped configurations, or the paper's, that such a GPU takes; long compilations first."""
    return [
        (kind, dim, size, dtype)
        for kind in ("mlp", "linear")
        for dim, size, dtype in (_ALL if everything else PAPER)
        if why_no_launch(capability, dim, size, DTYPES[dtype]) is None
    ]
