"""How a compiled kernel's products are laid over its warps, from Triton's GPU dialect.

Triton puts all warps along the rows of a product whose result another one reads. If the rows are fewer than
the warps take, several warps do the same rows.
"""

import re
from math import prod

_LAYOUT = re.compile(
    r"^(#mma\d*) = #ttg\.nvidia_mma<\{.*warpsPerCTA = \[(\d+), (\d+)\].*instrShape = \[16, (\d+)",
    re.M,
)
_PRODUCT = re.compile(r"(?:tt\.dot|warp_group_dot) .*-> tensor<(\d+)x(\d+)xf32, (#mma\d*)>")


def products(dialect: str) -> list[int]:
    """Count for each product on tensor cores the warps that compute every element of it."""
    layouts = {name: tuple(map(int, rest)) for name, *rest in _LAYOUT.findall(dialect)}
    counts = []
    for rows, columns, name in _PRODUCT.findall(dialect):
        down, across, width = layouts[name]
        taken = (down * 16 / int(rows), across * width / int(columns))
        counts.append(round(prod(max(1.0, x) for x in taken)))
    return counts
