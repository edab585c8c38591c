"""Which tensors a TTT model has, in the official layout, and what their shapes say of its configuration."""

from collections.abc import Iterator, Mapping
from typing import Any

from tttscale.convert.source import Source
from tttscale.errors import CheckpointError
from tttscale.kernels.learners import LEARNERS
from tttscale.model.architecture import TTTConfig
from tttscale.model.pretrained import TIED
from tttscale.model.registry import names_of
from tttscale.model.weights import EMBEDDING
from tttscale.tensors import shown

_LISTED = 4
_LAYER, _BLOCK = "model.layers.", "seq_modeling_block."
_KINDS = {"ttt-linear": "linear", "ttt-mlp": "mlp"}
Shape = tuple[int, ...]


def expected_shapes(config: TTTConfig) -> dict[str, Shape] | None:
    """Shapes of all tensors by their official names, in the order of the model.

    Returns:
        None: a layer is someone's own, and only its class knows.
    """
    kinds = names_of(config)
    if not all(kind in _KINDS for kind in kinds):
        return None
    width, vocab = config.hidden_size, config.vocab_size
    shapes: dict[str, Shape] = {EMBEDDING: (vocab, width)}
    for number, kind in enumerate(kinds):
        for name, shape in _layer_shapes(config, _KINDS[kind]):
            shapes[f"{_LAYER}{number}.{name}"] = shape
    shapes["model.norm.weight"] = (width,)
    if not config.tie_word_embeddings:
        shapes[TIED] = (vocab, width)
    return shapes


def shown_fields(source: Source) -> dict[str, Any]:
    """Read from shapes all fields of a configuration that they show.

    Raises:
        CheckpointError: tensors are missing by which a TTT model is known.
    """
    width = _extents(source, EMBEDDING, 2)[1]
    first = f"{_LAYER}0."
    heads, head_dim = _extents(source, f"{first}{_BLOCK}ttt_norm_weight", 2)
    if heads * head_dim != width:
        raise CheckpointError(
            f"{source.path}: {first}{_BLOCK}ttt_norm_weight has {heads} heads of {head_dim}, but "
            f"{EMBEDDING} has the width {width}. They do not belong together"
        )
    there = source.tensors
    pre_conv, conv_q = f"{first}conv.conv.weight", f"{first}{_BLOCK}conv_q.weight"
    fields = {
        "vocab_size": _extents(source, EMBEDDING, 2)[0],
        "hidden_size": width,
        "intermediate_size": _extents(source, f"{first}mlp.gate_proj.weight", 2)[0],
        "num_hidden_layers": layers_of(source),
        "num_attention_heads": heads,
        "mini_batch_size": _extents(source, f"{first}{_BLOCK}learnable_token_idx", 1)[0],
        "use_gate": f"{first}{_BLOCK}g_proj.weight" in there,
        "share_qk": conv_q in there,
        "pre_conv": pre_conv in there,
        "ttt_layer_type": "mlp" if f"{first}{_BLOCK}W2" in there else "linear",
    }
    convolution = next((name for name in (pre_conv, conv_q) if name in there), None)
    if convolution is not None:
        fields["conv_kernel"] = _extents(source, convolution, 3)[2]
    return fields


def layers_of(source: Source) -> int:
    """Count the layers of a source.

    Raises:
        CheckpointError: there is a gap in their numbers.
    """
    numbers = {key.split(".")[2] for key in source.tensors if key.startswith(_LAYER)}
    count = len(numbers)
    for number in range(count):
        if str(number) not in numbers:
            raise CheckpointError(
                f"{source.path}: it has {count} layers, but none of number {number}. Fetch the file again"
            )
    return count


def check_complete(source: Source, expected: Mapping[str, Shape]) -> None:
    """Compare a source's tensors with those of its model: each there once, none left over.

    Raises:
        CheckpointError: not so; the message names the tensors as their file does.
    """
    there = source.tensors
    problems = [f"missing {key}" for key in expected if key not in there]
    problems += [f"unknown {there[key].label}" for key in there if key not in expected]
    problems += [
        f"{there[key].label} is {list(there[key].shape)} as {key}, expected {list(shape)}"
        for key, shape in expected.items()
        if key in there and there[key].shape != shape
    ]
    if problems:
        more = f" and {len(problems) - _LISTED} more" if len(problems) > _LISTED else ""
        raise CheckpointError(
            f"{source.path}: its tensors do not make up a TTT model: {'; '.join(problems[:_LISTED])}{more}. "
            "Fetch the file again, or give one that is whole"
        )


def _layer_shapes(config: TTTConfig, learner: str) -> Iterator[tuple[str, Shape]]:
    width, inner = config.hidden_size, config.intermediate_size
    heads, head_dim, taps = config.num_attention_heads, config.head_dim, config.conv_kernel
    square, row = (width, width), (width,)
    yield from (("seq_norm.weight", row), ("ffn_norm.weight", row))
    yield "mlp.gate_proj.weight", (inner, width)
    yield "mlp.up_proj.weight", (inner, width)
    yield "mlp.down_proj.weight", (width, inner)
    if config.pre_conv:
        yield "conv.norm.weight", row
        yield "conv.conv.weight", (width, 1, taps)
        yield "conv.conv.bias", row
    projections = ["q", "v", "o", *(["g"] if config.use_gate else [])]
    for name in [*projections, *([] if config.share_qk else ["k"])]:
        yield f"{_BLOCK}{name}_proj.weight", square
    for name in ("conv_q", "conv_k") if config.share_qk else ():
        yield f"{_BLOCK}{name}.weight", (width, 1, taps)
        yield f"{_BLOCK}{name}.bias", row
    yield f"{_BLOCK}learnable_token_idx", (config.mini_batch_size,)
    yield f"{_BLOCK}learnable_ttt_lr_weight", (heads, 1, width)
    yield f"{_BLOCK}learnable_ttt_lr_bias", (heads, 1)
    for name in ("ttt_norm_weight", "ttt_norm_bias"):
        yield _BLOCK + name, (heads, head_dim)
    for name, (rows, columns) in LEARNERS[learner].shapes(head_dim).items():
        yield _BLOCK + name, (heads, rows, columns)
    for name in ("post_norm.weight", "post_norm.bias"):
        yield _BLOCK + name, row


def _extents(source: Source, key: str, dims: int) -> Shape:
    stored = source.tensors.get(key)
    if stored is None:
        found = ", ".join(shown(name) for name in list(source.tensors)[:_LISTED])
        raise CheckpointError(
            f"{source.path}: it has no {key}, which every TTT model has; it holds {found or 'no tensors'}. "
            "Give the weights of a TTT model"
        )
    if len(stored.shape) != dims or not all(stored.shape):
        raise CheckpointError(
            f"{source.path}: {stored.label} is {list(stored.shape)} as {key}; expected {dims} dimension(s). "
            "Fetch the file again"
        )
    return stored.shape
