"""The carry: what a later chunk needs of the past, one layer's parts and their shapes."""

import math
from dataclasses import dataclass

import torch

from tttscale.model.architecture import TTTConfig

Shapes = tuple[tuple[int, ...], ...]


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
