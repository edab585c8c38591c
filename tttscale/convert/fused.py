"""The layout of the inference repository (ttt-lm-kernels): fused projections, and features in another order.

Its rotary embedding turns the pairs (i, i + f/2) of a head's f features, the official code (2i, 2i + 1). So
all that has the features of a head on an axis has them in another order there: even ones first, then odd
ones. A file loads without that, too, but as another function.
"""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from tttscale.convert.official import described, read_fields
from tttscale.convert.source import Source, Stored
from tttscale.errors import CheckpointError
from tttscale.model.weights import EMBEDDING, Weights

FUSED = "qkv_learnable_ttt_lr_proj.weight"
"""How the name of a tensor ends that only this layout has."""
_TOP = (EMBEDDING, "model.norm.weight", "lm_head.weight")
_BLOCK = "seq_modeling_block."
_NORM = f"model.layers.0.{_BLOCK}ttt_norm_weight"
Layout = Callable[[Tensor], Tensor]


def interleaved(tensor: Tensor, dim: int, head_dim: int) -> Tensor:
    """Put the features of heads into the official order.

    Args:
        tensor: with H * f or f features on an axis, the even ones of each head first.
        dim: the axis.
        head_dim: f.
    """
    halves = tensor.unflatten(dim, (-1, 2, head_dim // 2))
    return halves.transpose(dim + 1, dim + 2).flatten(dim, dim + 2)


def fused_source(weights: Weights, folder: Path) -> Source:
    """Take tensors that have the fused layout.

    Args:
        weights: opened.
        folder: beside whose files a config.json may be.

    Raises:
        CheckpointError: it is not whole, or of shapes that do not fit each other.
    """
    left = set(weights)
    tensors: dict[str, Stored] = {}

    def take(
        official: str, name: str, layout: Layout, begin: int | None = None, end: int | None = None
    ) -> None:
        """Enter a tensor under its official name, which is a fused one or some rows of it."""
        if name not in weights:
            return  # what is missing is found by its official name
        left.discard(name)
        shape = list(weights.shape(name))
        if begin is not None and end is not None:
            shape[0] = end - begin
        laid_out = _laid_out(weights, name, layout, shape)
        read = partial(_read, weights, name, layout, begin, end)
        tensors[official] = Stored(name, weights.dtype(name), laid_out, read)

    for name in _TOP:
        take(name, name, _same)
    heads, head_dim = _heads(weights)
    number = 0
    while any(key.startswith(f"model.layers.{number}.") for key in left):
        _take_layer(weights, take, f"model.layers.{number}.", heads, head_dim)
        number += 1
    if left:
        raise CheckpointError(
            f"{weights.name}: {min(left)} is no tensor of the layout of ttt-lm-kernels ({len(left)} such "
            "tensors). Give a model that was saved by it"
        )
    fields, config_path = read_fields(folder)
    kind = (
        f"fused layout of ttt-lm-kernels, {described(tensors)}; features of heads are put in order"
    )
    return Source(weights.name, kind, tensors, fields, config_path, files=weights.paths)


def _take_layer(
    weights: Weights, take: Callable[..., None], layer: str, heads: int, head_dim: int
) -> None:
    block, width = layer + _BLOCK, heads * head_dim
    rows = partial(interleaved, dim=0, head_dim=head_dim)
    for name in ("seq_norm.weight", "ffn_norm.weight", "conv.conv.weight", "conv.conv.bias"):
        take(layer + name, layer + name, _same)
    take(f"{layer}conv.norm.weight", f"{layer}conv_norm.weight", _same)
    take(f"{layer}mlp.down_proj.weight", f"{layer}mlp.down_proj.weight", _same)
    both = f"{layer}mlp.up_gate_proj.weight"
    inner = _half(weights, both) if both in weights else 0
    take(f"{layer}mlp.gate_proj.weight", both, _same, 0, inner)
    take(f"{layer}mlp.up_proj.weight", both, _same, inner, 2 * inner)

    fused = block + FUSED
    _check_rows(weights, fused, 3 * width + heads)
    for i, name in enumerate(("q_proj", "g_proj", "v_proj")):
        take(f"{block}{name}.weight", fused, rows, i * width, (i + 1) * width)
    take(f"{block}learnable_ttt_lr_weight", fused, _head_rows, 3 * width, 3 * width + heads)
    take(f"{block}learnable_ttt_lr_bias", f"{block}learnable_ttt_lr_bias", _column)
    take(f"{block}learnable_token_idx", f"{block}learnable_token_idx_bias", _flat)
    take(
        f"{block}o_proj.weight",
        f"{block}o_proj.weight",
        partial(interleaved, dim=1, head_dim=head_dim),
    )
    for name in ("conv_q.weight", "conv_q.bias", "conv_k.weight", "conv_k.bias"):
        take(block + name, block + name, rows)
    for name in ("post_norm.weight", "post_norm.bias"):
        take(block + name, block + name, rows)
    for name in ("ttt_norm_weight", "ttt_norm_bias"):
        take(block + name, block + name, partial(_norm, heads=heads, head_dim=head_dim))
    is_mlp = f"{block}W2" in weights
    axes = {"W1": (1,) if is_mlp else (1, 2), "b1": () if is_mlp else (2,), "W2": (2,), "b2": (2,)}
    for name, dims in axes.items():
        take(block + name, block + name, partial(_inner, dims=dims, head_dim=head_dim))


def _heads(weights: Weights) -> tuple[int, int]:
    """Read H and f from the norm of the inner learner, [1, H, 1, f]."""
    shape = weights.shape(_NORM) if _NORM in weights else ()
    if len(shape) != 4 or shape[0] != 1 or shape[2] != 1 or shape[3] % 2:
        found = f"is {list(shape)}" if shape else "is missing"
        raise CheckpointError(
            f"{weights.name}: {_NORM} {found}; the layout of ttt-lm-kernels has it as [1, heads, 1, head "
            "dim]. Give a model that was saved by it"
        )
    return shape[1], shape[3]


def _check_rows(weights: Weights, name: str, rows: int) -> None:
    shape = weights.shape(name) if name in weights else ()
    if len(shape) != 2 or shape[0] != rows:
        found = f"is {list(shape)}" if shape else "is missing"
        raise CheckpointError(
            f"{weights.name}: {name} {found}; expected {rows:,} rows, which are q, gate and v and a "
            "learning rate for each head. Give a model that was saved by ttt-lm-kernels"
        )


def _half(weights: Weights, name: str) -> int:
    rows = weights.shape(name)[0] if weights.shape(name) else 1
    if rows % 2:
        raise CheckpointError(
            f"{weights.name}: {name} is {list(weights.shape(name))}; expected as many rows of the gate as of "
            "the other half. Give a model that was saved by ttt-lm-kernels"
        )
    return rows // 2


def _laid_out(weights: Weights, name: str, layout: Layout, shape: list[int]) -> tuple[int, ...]:
    try:
        return tuple(layout(torch.empty(shape, device="meta")).shape)
    except (RuntimeError, IndexError):
        raise CheckpointError(
            f"{weights.name}: {name} is {shape}, which the layout of ttt-lm-kernels does not have. Give a "
            "model that was saved by it"
        ) from None


def _read(
    weights: Weights, name: str, layout: Layout, begin: int | None, end: int | None
) -> Tensor:
    return layout(weights.stored(name, begin, end)).contiguous()


def _same(tensor: Tensor) -> Tensor:
    return tensor


def _flat(tensor: Tensor) -> Tensor:
    """[1, 1, K, 1] -> [K]."""
    return tensor.flatten()


def _column(tensor: Tensor) -> Tensor:
    """[1, 1, H] -> [H, 1]."""
    return tensor.flatten().unsqueeze(1)


def _head_rows(tensor: Tensor) -> Tensor:
    """[H, D] -> [H, 1, D]."""
    return tensor.unsqueeze(1)


def _norm(tensor: Tensor, heads: int, head_dim: int) -> Tensor:
    """[1, H, 1, f] -> [H, f]."""
    return interleaved(tensor.reshape(heads, head_dim), 1, head_dim)


def _inner(tensor: Tensor, dims: tuple[int, ...], head_dim: int) -> Tensor:
    for dim in dims:
        tensor = interleaved(tensor, dim, head_dim)
    return tensor
