"""The carry: what a later chunk needs of the past, one layer's parts and their shapes."""

import math
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from tttscale.model.architecture import TTTConfig

Shapes = tuple[tuple[int, ...], ...]


def views(flat: Tensor, shapes: Shapes) -> tuple[Tensor, ...]:
    """Tensors of these shapes that lie one behind the other in `flat`."""
    sizes = [math.prod(shape) for shape in shapes]
    return tuple(part.view(shape) for part, shape in zip(flat.split(sizes), shapes, strict=True))


@dataclass(frozen=True)
class CarryLayout:
    """Shapes of the parts of one layer's carry, for a batch of B sequences."""

    parts: dict[str, Shapes]
    dtype: torch.dtype
    """fp32, or fp64 for a model in fp64."""

    @classmethod
    def of(cls, config: TTTConfig, batch: int, dtype: torch.dtype) -> "CarryLayout":
        """Parts that a model of this shape has, in the order in which a block meets them."""
        tail = ((batch, config.conv_kernel - 1, config.hidden_size),)
        heads, f = config.num_attention_heads, config.head_dim
        inner = f if config.ttt_layer_type == "linear" else 4 * f
        state: Shapes = ((batch, heads, f, inner), (batch, heads, 1, inner))
        if config.ttt_layer_type == "mlp":
            state += ((batch, heads, inner, f), (batch, heads, 1, f))
        parts: dict[str, Shapes] = {}
        if config.pre_conv:
            parts["pre_conv"] = tail
        if config.share_qk:
            parts["qk_conv"] = tail
        parts["state"] = state
        return cls(parts, torch.promote_types(dtype, torch.float32))

    def floats(self, part: str) -> int:
        """Numbers in one part."""
        return sum(math.prod(shape) for shape in self.parts[part])

    @property
    def layer_bytes(self) -> int:
        """Bytes of one layer's carry."""
        return sum(self.floats(part) for part in self.parts) * self.dtype.itemsize


class CarryStore:
    """Incoming carries of own chunks, in one block of memory per part that is allocated once.

    Carries live for a whole sweep while a chunk's activations come and go. Allocated one by one they would
    lie scattered between those, and the holes could not be used again.
    """

    def __init__(
        self,
        layout: CarryLayout,
        layers: int,
        edges: Iterable[tuple[int, int]],
        device: torch.device,
    ) -> None:
        """Make room.

        Args:
            layout: shapes of the parts.
            layers: layers of the model.
            edges: (sequence, edge) of every carry to be stored.
            device: where the carries live.
        """
        self._layout = layout
        self._places = {edge: i for i, edge in enumerate(edges)}
        self._blocks = {
            part: torch.empty(
                len(self._places), layers, layout.floats(part), dtype=layout.dtype, device=device
            )
            for part in layout.parts
        }

    def put(
        self, sequence: int, edge: int, layer: int, part: str, tensors: tuple[Tensor, ...]
    ) -> None:
        """Copy one part in."""
        for place, tensor in zip(self.get(sequence, edge, layer, part), tensors, strict=True):
            place.copy_(tensor)

    def get(self, sequence: int, edge: int, layer: int, part: str) -> tuple[Tensor, ...]:
        """Views of one part."""
        flat = self._blocks[part][self._places[sequence, edge], layer]
        return views(flat, self._layout.parts[part])
