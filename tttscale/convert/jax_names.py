"""Names and layouts of ttt-lm-jax in those of the official PyTorch code.

Dense kernels are [in, out] there and [out, in] here; a filter of a convolution is [taps, 1, D] there and
[D, 1, taps] here. Rotary pairs are neighbouring features in both, so no features change places.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import IO

import torch
from torch import Tensor

from tttscale.convert.jax_stream import Leaf, Record, leaf, number, read_leaf, records
from tttscale.convert.source import Source, Stored, dtype_name, widest
from tttscale.errors import CheckpointError
from tttscale.files import open_ordinary
from tttscale.reading import reason
from tttscale.tensors import shown

Layout = Callable[[Tensor], Tensor]
Place = tuple[str, ...]


def _same(tensor: Tensor) -> Tensor:
    return tensor


def _turned(tensor: Tensor) -> Tensor:
    """[in, out] -> [out, in]."""
    return tensor.T


def _filter(tensor: Tensor) -> Tensor:
    """[taps, 1, D] -> [D, 1, taps]."""
    return tensor.permute(2, 1, 0)


def _row(tensor: Tensor) -> Tensor:
    """[H, D, 1] -> [H, 1, D]."""
    return tensor.transpose(1, 2)


_BLOCK = "seq_modeling_block"
_INSIDE: dict[Place, tuple[str, int, Layout]] = {  # below a TTT layer: theirs -> ours, dims there
    **{
        (f"w{name}", "kernel"): (f"{name}_proj.weight", 2, _turned)
        for name in ("q", "k", "v", "o", "g")
    },
    **{(f"conv_{name}", "kernel"): (f"conv_{name}.weight", 3, _filter) for name in ("q", "k")},
    **{(f"conv_{name}", "bias"): (f"conv_{name}.bias", 1, _same) for name in ("q", "k")},
    ("learnable_token_idx",): ("learnable_token_idx", 1, _same),
    ("learnable_ttt_lr/kernel",): ("learnable_ttt_lr_weight", 3, _row),
    ("learnable_ttt_lr/bias",): ("learnable_ttt_lr_bias", 2, _same),
    ("ttt_norm/scale",): ("ttt_norm_weight", 2, _same),
    ("ttt_norm/bias",): ("ttt_norm_bias", 2, _same),
    ("ttt_dense_0",): ("W1", 3, _same),
    ("ttt_bias_0",): ("b1", 3, _same),
    ("ttt_dense_1",): ("W2", 3, _same),
    ("ttt_bias_1",): ("b2", 3, _same),
    ("post_norm", "scale"): ("post_norm.weight", 1, _same),
    ("post_norm", "bias"): ("post_norm.bias", 1, _same),
}
_LAYER: dict[Place, tuple[str, int, Layout]] = {
    ("seq_norm", "kernel"): ("seq_norm.weight", 1, _same),
    ("ffn_norm", "kernel"): ("ffn_norm.weight", 1, _same),
    ("feed_forward", "w1", "kernel"): ("mlp.gate_proj.weight", 2, _turned),
    ("feed_forward", "w2", "kernel"): ("mlp.down_proj.weight", 2, _turned),
    ("feed_forward", "w3", "kernel"): ("mlp.up_proj.weight", 2, _turned),
    ("conv", "conv_norm", "kernel"): ("conv.norm.weight", 1, _same),
    ("conv", "conv1", "kernel"): ("conv.conv.weight", 3, _filter),
    ("conv", "conv1", "bias"): ("conv.conv.bias", 1, _same),
    **{
        (_BLOCK, *path): (f"{_BLOCK}.{name}", dims, layout)
        for path, (name, dims, layout) in _INSIDE.items()
    },
}
_TOP: dict[Place, tuple[str, int, Layout]] = {
    ("model", "wte", "embedding"): ("model.embed_tokens.weight", 2, _same),
    ("model", "ln_f", "kernel"): ("model.norm.weight", 1, _same),
    ("lm_head", "kernel"): ("lm_head.weight", 2, _turned),
}
_STATE = ("step", "opt_state", "params")
"""Where the paths of a train state begin."""


def official_name(path: Place) -> tuple[str, int, Layout] | None:
    """Find what a parameter is called here.

    Args:
        path: below the tree of parameters, such as ("model", "h", "0", "seq_norm", "kernel").

    Returns:
        The official name, the dimensions of the array there, and how to lay it out; None: it is unknown.
    """
    if path in _TOP:
        return _TOP[path]
    inside = _LAYER.get(path[3:]) if path[:2] == ("model", "h") else None
    if inside is None or not path[2].isascii() or not path[2].isdecimal():
        return None
    if str(int(path[2][:9])) != path[2]:
        return None
    return (f"model.layers.{path[2]}.{inside[0]}", *inside[1:])


@contextmanager
def open_stream(path: Path) -> Iterator[Source]:
    """Open a file of ttt-lm-jax, streaming_params or streaming_train_state.

    Raises:
        CheckpointError: a record is damaged, unknown or there twice; the message names it.
    """
    try:
        file = open_ordinary(path)
    except OSError as error:
        raise CheckpointError(f"{path}: {reason(error)}. Give a file that can be read") from None
    with file:
        tensors: dict[str, Stored] = {}
        seen: dict[Place, Record] = {}
        step = None
        for record in records(path, file):
            if (twin := seen.setdefault(record.key, record)) is not record:
                raise CheckpointError(
                    f"{path}: {record.label} is there twice, first as record {twin.number}. Fetch the "
                    "file again"
                )
            if record.key == ("step",):
                step = number(record, file)
            elif record.key[0] != "opt_state":
                name, stored = _stored(record, file)
                tensors[name] = stored
        yield Source(path, _kind(tensors, seen, step), tensors, files=(path,))


def _stored(record: Record, file: IO[bytes]) -> tuple[str, Stored]:
    parameter = record.key
    for _ in range(2):  # of a train state, below params/params
        parameter = parameter[1:] if parameter[:1] == ("params",) else parameter
    official = official_name(parameter)
    if official is None:
        raise CheckpointError(
            f"{record.path}: {record.label} is no parameter of a TTT model of ttt-lm-jax, which has "
            "model/wte, model/h/N with its seq_modeling_block, model/ln_f and lm_head. Give a checkpoint "
            "of one"
        )
    name, dims, layout = official
    found = leaf(record, file)
    if len(found.shape) != dims:
        raise CheckpointError(
            f"{record.path}: {record.label} has the shape {list(found.shape)}; expected {dims} "
            f"dimension(s) for {name}"
        )
    shape = tuple(layout(torch.empty(found.shape, device="meta")).shape)
    return name, Stored(
        record.label, found.dtype, shape, partial(_read, record, found, file, layout)
    )


def _read(record: Record, found: Leaf, file: IO[bytes], layout: Layout) -> Tensor:
    return layout(read_leaf(record, found, file)).contiguous()


def _kind(tensors: dict[str, Stored], seen: dict[Place, Record], step: int | None) -> str:
    if not tensors:
        names = ", ".join(sorted({shown(key[0]) for key in seen})[:4])
        raise CheckpointError(
            f"{next(iter(seen.values())).path}: it has no parameters, only {names}. Give a "
            "streaming_params or streaming_train_state of ttt-lm-jax"
        )
    dtype = dtype_name(widest({stored.dtype for stored in tensors.values()}))
    is_state = any(key[0] in _STATE for key in seen)
    what = "train state" if is_state else "parameters"
    after = "" if step is None else f" after step {step:,}"
    skipped = sum(key[0] == "opt_state" for key in seen)
    rest = f"; {skipped} records of the optimizer are skipped" if skipped else ""
    return f"{what} of ttt-lm-jax{after}, {len(tensors)} arrays in {dtype}{rest}"
