"""Bytes that a chunk's graph holds for its backward, and what computing it takes beside them for a while.

The TTT layers' are known in closed form, tensor by tensor; those of other layers are counted on a run without
numbers. Legend: n = B T tokens of B rows, D width, I inner width of the SwiGLU, H heads, f head dim, K tokens
of a mini-batch; c is the size of a number in the compute dtype, w of one in fp32.
"""

from dataclasses import dataclass

import torch

from tttscale.kernels.learners import LEARNERS
from tttscale.kernels.torch_scan.group_scan import CACHE_BYTES
from tttscale.kernels.torch_scan.minibatch import GROUP
from tttscale.kernels.triton_scan.launch_table import mini_batches_per_block
from tttscale.kernels.triton_scan.scan import SCRATCH_BYTES
from tttscale.model.architecture import TTTConfig
from tttscale.model.chunk import WHOLE
from tttscale.model.ports import NULL_PORTS
from tttscale.model.registry import fault, mixer_class, options_of
from tttscale.model.sequence_layer import build_mixer
from tttscale.model.ttt_layer import TTTLayer

WIDE = 4
_COUNTED_TOKENS = 64
_IDS = 8


@dataclass(frozen=True)
class Shape:
    """A chunk, and how it is computed."""

    rows: int
    """Sequences B side by side."""
    tokens: int
    """T of each."""
    compute_bytes: int
    """c: 2 for bf16, 4 for fp32."""
    triton: bool = False
    """The scan runs on Triton's kernels (a GPU)."""
    compiled: bool = False
    """Operators between products are compiled: they hold nothing but what goes in and out."""
    waits: bool = False
    """Another rank has a neighbouring chunk: a scan then runs each phase over all of its tokens."""

    @property
    def n(self) -> int:
        """Tokens of all rows."""
        return self.rows * self.tokens


# ---- what a graph holds --------------------------------------------------------------------------


def block_bytes(config: TTTConfig, name: str, shape: Shape) -> int | str:
    """Count the bytes of one block's graph, or say why they are not known.

    Args:
        config: of the model.
        name: of its sequence layer, as in `model.pattern`.
        shape: of the chunk.
    """
    own = mixer_bytes(config, name, shape)
    return own if isinstance(own, str) else own + _around(config, name, shape)


def _around(config: TTTConfig, name: str, shape: Shape) -> int:
    """The stream, norms, the convolution in front, and the SwiGLU."""
    n, c, width = shape.n, shape.compute_bytes, config.hidden_size
    stream = WIDE * n * width + WIDE * n  # x and 1 / rms(x)
    if config.pre_conv:  # its padded input, what it adds to the stream, and the norm's constant
        stream += c * (_padded(config, shape) + n * width) + WIDE * n
    if not mixer_class(name).feed_forward:
        return stream
    # What the sequence layer adds to the stream, the norm's constant, gate and up.
    return stream + c * n * width + WIDE * n + 2 * c * n * config.intermediate_size


def _padded(config: TTTConfig, shape: Shape) -> int:
    """Numbers in a convolution's input with its past in front."""
    return shape.rows * (shape.tokens + config.conv_kernel - 1) * config.hidden_size


def mixer_bytes(config: TTTConfig, name: str, shape: Shape) -> int | str:
    """Count the bytes of one sequence layer's graph, or say why they are not known."""
    cls = mixer_class(name)
    kind = getattr(cls, "kind", None)
    if issubclass(cls, TTTLayer) and kind in LEARNERS:
        return _ttt_layer(config, kind, shape)
    key = config.model_dump_json(), name
    counted = _known[key] = _known.get(key) or _counted(config, name)
    if isinstance(counted, str):
        return counted
    unit, one, two, three = counted
    return shape.rows * round(_extrapolated((one, two, three), shape.tokens / unit))


def _ttt_layer(config: TTTConfig, kind: str, shape: Shape) -> int:
    n, c, width, heads = (
        shape.n,
        shape.compute_bytes,
        config.hidden_size,
        config.num_attention_heads,
    )
    size, dim = config.mini_batch_size, config.head_dim
    tokens = 4 * c * n * width  # q, k, v; the scan's outputs in front of the norm
    tokens += 2 * WIDE * n * heads  # the rates, and their sigmoid
    tokens += 2 * WIDE * n  # mean and deviation of the norm
    if config.share_qk:
        tokens += c * _padded(config, shape)
    if config.use_gate:
        tokens += c * n * width
    small = 2 * WIDE * size * dim + 2 * WIDE * size  # rotary tables, factors of the readers
    scan = _triton_scan if shape.triton else _torch_scan
    return tokens + small + scan(config, kind, shape)


def _torch_scan(config: TTTConfig, kind: str, shape: Shape) -> int:
    """Pre-activations of keys and readers in fp32, and a state before each group of mini-batches."""
    size, dim, scans = (
        config.mini_batch_size,
        config.head_dim,
        shape.rows * config.num_attention_heads,
    )
    batches = -(-shape.tokens // size)
    states = -(-batches // GROUP) * LEARNERS[kind].floats(dim)
    of_token = 2 * dim  # Z, Zq
    if kind == "mlp":
        of_token += 3 * LEARNERS[kind].inner_width(dim)  # Z1, Z1q, E
    return WIDE * scans * (batches * size * of_token + states)


def _triton_scan(config: TTTConfig, kind: str, shape: Shape) -> int:
    """Inner gradients, and a state before each block of mini-batches; weights in the compute dtype."""
    size, dim, scans = (
        config.mini_batch_size,
        config.head_dim,
        shape.rows * config.num_attention_heads,
    )
    c, inner = shape.compute_bytes, LEARNERS[kind].inner_width(dim)
    dtype = torch.bfloat16 if c == 2 else torch.float32
    blocks = -(-shape.tokens // (mini_batches_per_block(90, size, dtype) * size))
    if kind == "linear":
        return scans * (c * shape.tokens * dim + blocks * (c * dim * dim + WIDE * dim))
    tokens = shape.tokens * (c * (inner + dim) + WIDE)
    return scans * (tokens + blocks * (2 * c * dim * inner + WIDE * (inner + dim)))


_known: dict[tuple[str, str], tuple[int, int, int, int] | str] = {}
"""What was counted already, by model and layer."""


def _counted(config: TTTConfig, name: str) -> tuple[int, int, int, int] | str:
    """Run a layer without numbers in fp32, at 1, 2 and 3 units of tokens: the unit, and bytes of each."""
    try:
        alignment = mixer_class(name).alignment(config, options_of(config, name, mixer_class(name)))
        unit = -(-_COUNTED_TOKENS // alignment) * alignment
        with torch.device("meta"):
            layer = build_mixer(name, config)
        one, two, three = (_count(layer, config.hidden_size, unit * times) for times in (1, 2, 3))
    except Exception as error:  # code of someone's own may raise anything
        return f"cannot be measured ({fault(error)})"
    return unit, one, two, three


def _count(layer: torch.nn.Module, width: int, tokens: int) -> int:
    """Bytes of all storages that autograd saves, each once, without the layer's parameters."""
    known = {p.untyped_storage()._cdata for p in layer.parameters()}
    held: dict[int, torch.UntypedStorage] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in known:
            held[storage._cdata] = storage
        return tensor

    h = torch.empty(1, tokens, width, device="meta", requires_grad=True)
    with torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        layer(h, WHOLE, NULL_PORTS)
    return sum(storage.nbytes() for storage in held.values())


def _extrapolated(values: tuple[int, int, int], x: float) -> float:
    """The polynomial of second degree through the values at 1, 2 and 3, at x."""
    one, two, three = values
    return one + (x - 1) * (two - one) + (three - 2 * two + one) / 2 * (x - 1) * (x - 2)


def head_bytes(config: TTTConfig, shape: Shape) -> int:
    """Count the bytes of the last norm, of the loss with its own gradients, and of the token ids."""
    n, width = shape.n, config.hidden_size
    gradients = shape.compute_bytes * n * width + WIDE * config.vocab_size * width
    return (WIDE * n * width + WIDE * n) + gradients + _IDS * n


# ---- what computing takes beside it --------------------------------------------------------------


def transient_bytes(config: TTTConfig, shape: Shape, kinds: tuple[str, ...]) -> int:
    """Beside a whole chunk's graph, at the fullest moment of building it and going back through it.

    That moment is in the head or in the last block: in front of them nothing is freed yet. Intermediate
    results of the torch path are counted operator by operator, where most exist at once.

    Args:
        config: of the model.
        shape: of the chunk.
        kinds: inner learners of the model's TTT layers.
    """
    n, c, width = shape.n, shape.compute_bytes, config.hidden_size
    wide, logits = WIDE * n * width, min(_slice_tokens(shape), n) * config.vocab_size
    weight = WIDE * config.vocab_size * width
    # Logits of two slices, or their roundings; the head's gradient, its transposed copy, and a share of it.
    head = (2 * WIDE if c == WIDE else 10) * logits + 3 * weight
    # The loss' gradient, and what the last norm's backward has beside it.
    norm = 10 * wide if not shape.compiled else 3 * wide
    freed = wide + c * n * width  # the last norm's input, and the loss' gradient
    # Gradients of gate, up and their product, and of the stream; eager, also what these are formed of.
    numbers = 3 * c if shape.compiled else (4 * WIDE if c == WIDE else 26)
    feed_forward = numbers * n * config.intermediate_size + wide - freed
    freed += c * n * (width + 2 * config.intermediate_size)
    scans = [_scan_transients(config, kind, shape) for kind in kinds]
    scan = max(scans, default=0) + (2 * c + WIDE + 3 * c) * n * width - freed
    return max(head, norm, feed_forward, scan)


def _slice_tokens(shape: Shape) -> int:
    """Tokens whose logits exist at once (kernels/ops/cross_entropy.py)."""
    return 2048 if shape.compiled else 512


def _scan_transients(config: TTTConfig, kind: str, shape: Shape) -> int:
    """Scratch of the scan's backward: of one group of mini-batches or segment, or of all if a rank waits."""
    heads, size, dim = config.num_attention_heads, config.mini_batch_size, config.head_dim
    learner, c = LEARNERS[kind], shape.compute_bytes
    if shape.triton:
        # "Scratch of a segment's backward", per token and head (triton_scan/*/segment.py).
        segment = min(shape.n, (8 if kind == "linear" else 2) << 10)
        of_token = heads * (800 if kind == "linear" else 7300) * dim / 64 * c / 2
        more = min((shape.n - segment) * of_token, SCRATCH_BYTES) if shape.waits else 0
        return round(segment * of_token + more)
    batches = -(-shape.tokens // size)
    states, of_feature = (batches, 12) if shape.waits else (min(GROUP, batches), 22)
    scans = shape.rows * heads
    inside = min(WIDE * scans * states * learner.floats(dim), CACHE_BYTES)
    return inside + WIDE * scans * states * of_feature * size * learner.inner_width(dim)
