"""The norm of every carry and of every carry's gradient of a step: whether they are finite, and how large.

A part is measured when it has left its chunk, so that no rank waits for it, on the device and without waiting
for that. A carry is small beside a chunk's activations, so one pass over it costs next to nothing.
"""

from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from tttscale.model.ports import Part
from tttscale.scan.carry import CarryLayout
from tttscale.scan.schedule import CarryKey, Phase


class CarryWatch(Protocol):
    """Sees every part of a carry that leaves a chunk, once a step."""

    def sent(self, key: CarryKey, part: Part) -> None:
        """See a state on its way right, or a gradient on its way left, also where a sequence ends."""
        ...


class InnerNorm(NamedTuple):
    """The norm of one inner weight of one head, where a chunk ends. All numbers, to travel between ranks."""

    norm: float
    """Euclidean; 0 if no layer has heads."""
    sequence: int = -1
    """Its number in this replica's share of the step."""
    chunk: int = -1
    layer: int = -1
    head: int = -1
    weight: int = -1
    """Number of the tensor among all that the layer hands on."""


class CarryNorms:
    """The norms of one step on one rank. Those of parts with heads are the inner weights'."""

    def __init__(self, layout: CarryLayout, batch: int) -> None:
        """Nothing is measured yet.

        Args:
            layout: which parts have heads.
            batch: sequences B side by side.
        """
        self._layout, self._batch = layout, batch
        self._first: dict[tuple[int, str], int | None] = {}
        """By layer and part: number of its first tensor in the layer; None without heads."""
        self._keys: list[tuple[CarryKey, int]] = []
        self._inner: list[Tensor] = []
        """For each of `_keys` [B, H]."""
        self._others: list[Tensor] = []

    @torch.no_grad()
    def sent(self, key: CarryKey, part: Part) -> None:
        """Measure a part; nothing waits for the result."""
        where = key.layer, key.part
        if where not in self._first:
            self._first[where] = self._number(*where)
        first = self._first[where] if key.phase is Phase.FORWARD else None
        for number, tensor in enumerate(part):
            if first is None:
                self._others.append(norms(tensor, 1))
            else:
                self._keys.append((key, first + number))
                self._inner.append(norms(tensor, 2))

    def _number(self, layer: int, part: str) -> int | None:
        first = 0
        for name, carried in self._layout.at(layer, 0).items():
            if name == part:
                return first if carried.has_heads else None
            first += len(carried.shapes)
        return None

    def weight(self, norm: InnerNorm) -> str:
        """Return what a weight is called, such as "W1"."""
        names = []
        for part, carried in self._layout.at(norm.layer, 0).items():
            count = len(carried.shapes)
            names += carried.names or [f"{part} {i}" if count > 1 else part for i in range(count)]
        return names[norm.weight]

    def finite(self) -> bool:
        """Return whether all norms are finite. Waits for the device."""
        return all(
            bool(found.isfinite().all()) for found in map(_joined, (self._inner, self._others))
        )

    def largest(self) -> InnerNorm:
        """Return the largest norm of an inner weight; NaN counts as larger than any."""
        found = _joined(self._inner)
        return self._place(int(found.argmax()), found) if len(found) else InnerNorm(0.0)

    def first_above(self, limit: float) -> InnerNorm | None:
        """Return the first norm above a limit in scan order (by sequence, chunk, layer); NaN is above any."""
        found = _joined(self._inner)
        above = (~(found <= limit)).nonzero().flatten().tolist()
        return min((self._place(i, found) for i in above), key=lambda n: n[1:], default=None)

    def _place(self, index: int, found: Tensor) -> InnerNorm:
        sizes = list(accumulate(norm.numel() for norm in self._inner))
        entry = bisect_right(sizes, index)
        key, number = self._keys[entry]
        norm = self._inner[entry]
        row, head = divmod(index - sizes[entry] + norm.numel(), norm.shape[1])
        sequence = key.sequence * self._batch + row
        value = float(found[index])
        return InnerNorm(value, sequence, key.boundary, key.layer, head, number)


def norms(tensor: Tensor, dims: int) -> Tensor:
    """Return Euclidean norms over all but the first dims, in fp32 or wider.

    A norm is finite only if all of its elements are.
    """
    if not tensor.is_floating_point():
        return tensor.new_zeros(1, dtype=torch.float32)
    flat = tensor.detach().flatten(dims) if tensor.dim() > dims else tensor.detach().unsqueeze(-1)
    wide = torch.promote_types(tensor.dtype, torch.float32)
    return torch.linalg.vector_norm(flat, dim=-1, dtype=wide)


def _joined(found: Sequence[Tensor]) -> Tensor:
    """Return all norms in one vector on the CPU."""
    if not found:
        return torch.zeros(0)
    wide = max((norm.dtype for norm in found), key=lambda dtype: dtype.itemsize)
    return torch.cat([norm.flatten().to(wide) for norm in found]).cpu()
