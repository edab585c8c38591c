"""Carries as bytes: one after the other in a block of memory, or in a message."""

import math
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from tttscale.model.ports import Carried, Part
from tttscale.scan.carry import CarryLayout
from tttscale.scan.schedule import CarryKey

ALIGN_BYTES = 16
"""Every tensor begins at a multiple of it; kernels load so many bytes at once."""


def carried_bytes(carried: Carried) -> int:
    """Room that a part takes, with every tensor aligned."""
    return sum(_room(_tensor_bytes(shape, carried)) for shape in carried.shapes)


def views(flat: Tensor, carried: Carried) -> Part:
    """The tensors of a part that lie one after the other in the bytes `flat`."""
    assert carried.dtype is not None
    tensors, begin = [], 0
    for shape in carried.shapes:
        size = _tensor_bytes(shape, carried)
        tensors.append(flat[begin : begin + size].view(carried.dtype).view(shape))
        begin += _room(size)
    return tuple(tensors)


def packed(part: Part) -> list[Tensor]:
    """A part's tensors as bytes, with the gaps between them: together `carried_bytes` long."""
    spans = []
    for tensor in part:
        raw = tensor.contiguous().view(-1).view(torch.uint8)
        spans += [raw, raw.new_zeros(_room(len(raw)) - len(raw))]
    return [span for span in spans if len(span)]


def _tensor_bytes(shape: Sequence[int], carried: Carried) -> int:
    assert carried.dtype is not None
    return math.prod(shape) * carried.dtype.itemsize


def _room(size: int) -> int:
    return -(-size // ALIGN_BYTES) * ALIGN_BYTES


def boundary_bytes(layout: CarryLayout, boundary: int) -> int:
    """Bytes that all layers hand over a boundary."""
    layers = (layout.at(layer, boundary) for layer in range(len(layout.parts)))
    return sum(carried_bytes(carried) for parts in layers for carried in parts.values())


class CarryStore:
    """Incoming carries of own chunks, in one block of memory that is allocated once.

    Carries live for a whole sweep while a chunk's activations come and go. Allocated one by one they would
    lie scattered between those, and the holes could not be used again.
    """

    def __init__(
        self, layout: CarryLayout, boundaries: Iterable[tuple[int, int]], device: torch.device
    ) -> None:
        """Make room.

        Args:
            layout: what is handed over each boundary.
            boundaries: (sequence, boundary) of every carry to be stored.
            device: where the carries live.
        """
        self._places: dict[tuple[int, int, int, str], tuple[int, Carried]] = {}
        total = 0
        for sequence, boundary in boundaries:
            for layer in range(len(layout.parts)):
                for part, carried in layout.at(layer, boundary).items():
                    self._places[sequence, boundary, layer, part] = total, carried
                    total += carried_bytes(carried)
        self._bytes = torch.empty(total, dtype=torch.uint8, device=device)

    def put(self, key: CarryKey, tensors: Part) -> None:
        """Copy one part in."""
        for place, tensor in zip(self.get(key), tensors, strict=True):
            place.copy_(tensor)

    def get(self, key: CarryKey) -> Part:
        """Views of one part."""
        begin, carried = self._places[key.sequence, key.boundary, key.layer, key.part]
        return views(self._bytes[begin : begin + carried_bytes(carried)], carried)
