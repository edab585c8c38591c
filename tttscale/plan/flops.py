"""FLOPs of a model: those of its mathematics, and those that are computed.

Counted are matrix products, a multiplication and an addition as two, as `torch.utils.flop_counter` does and
as published utilisations mean it: no norms, gates, depthwise convolutions, embedding look-ups, no optimizer.
The inner learner's bias is a row of its weights, as in the scan; so is a column of ones beside q and k.

Model FLOPs are those of one forward and one backward. Hardware FLOPs add what is computed twice: the forward
of chunks whose activations are not kept, and what the scan's backward forms again to save memory.
"""

import math
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Self

import torch
from torch.utils.flop_counter import FlopCounterMode

from tttscale.kernels.torch_scan.minibatch import GROUP
from tttscale.model.architecture import TTTConfig
from tttscale.model.chunk import WHOLE
from tttscale.model.ports import NULL_PORTS
from tttscale.model.registry import fault, kinds_of, mixer_class, names_of, options_of
from tttscale.model.sequence_layer import build_mixer
from tttscale.model.ttt_layer import TTTLayer
from tttscale.scan.keep_policy import split_kept
from tttscale.scan.layout import Layout
from tttscale.scan.schedule import Phase, Schedule

_SMALLEST_COUNT_TOKENS = 64


def new_counter() -> FlopCounterMode:
    """torch's counter, which counts products that are added in place as well: it skips those."""
    in_place = torch.ops.aten.baddbmm_, torch.ops.aten.addmm_
    return FlopCounterMode(display=False, custom_mapping=dict.fromkeys(in_place, _added_product))


def _added_product(_: Any, a: Sequence[int], b: Sequence[int], **__: Any) -> int:
    """FLOPs of x += a b by the factors' shapes."""
    return 2 * math.prod(a) * b[-1]


class Flops(NamedTuple):
    """FLOPs of some tokens of one sequence."""

    forward: int = 0
    backward: int = 0
    """Gradients of activations and parameters; without what is formed again."""
    again: int = 0
    """Formed again inside the backward: states between mini-batches, scores, activations."""

    def plus(self, *others: "Flops") -> "Flops":
        """The sum."""
        return Flops(*map(sum, zip(self, *others, strict=True)))

    def times(self, count: int) -> "Flops":
        """So many of it."""
        return Flops(*(count * part for part in self))


# ---- closed forms ------------------------------------------------------------------------------


def product(tokens: int, inner: int, outer: int) -> Flops:
    """[tokens, inner] times a weight [inner, outer], and its two gradients."""
    forward = 2 * tokens * inner * outer
    return Flops(forward, 2 * forward)


def scan(kind: str, dim: int, size: int, tokens: int) -> Flops:
    """One head of a TTT scan.

    Args:
        kind: the inner learner, linear or mlp.
        dim: features f of a head.
        size: tokens K of a mini-batch; a last short one costs as much as a whole one.
        tokens: of a chunk. Of each group of mini-batches only the first state is kept for the backward.
    """
    batches = -(-tokens // size)
    replays = batches - -(-batches // GROUP)
    forward, backward, again, replay = _MINI_BATCH[kind](dim, size)
    return Flops(forward * batches, backward * batches, again * batches + replay * replays)


def _linear(f: int, K: int) -> tuple[int, int, int, int]:
    state, scores, attended = 2 * K * (f + 1) * f, 2 * K * K * (f + 1), 2 * K * K * f
    # k W, the update, q W; q k^T; (q k^T) G.
    forward = 3 * state + scores + attended
    # k dW, G dW^T, [k, q]^T dz, dz W^T; pairs k, pairs^T q; what readers ask of G, dz G^T.
    backward = 6 * state + 2 * scores + 2 * attended
    return forward, backward, scores, state


def _mlp(f: int, K: int) -> tuple[int, int, int, int]:
    h = 4 * f
    first, second, plain = 2 * K * (f + 1) * h, 2 * K * (h + 1) * f, 2 * K * f * h
    narrow, wide = 2 * K * K * f, 2 * K * K * h
    scores1, scores2 = 2 * K * K * (f + 1), 2 * K * K * (h + 1)
    # Z1, the update of W1, Z1q; Z2, the update of W2, Z2q; G2 W2^T; both scores, and each times G.
    forward = 3 * first + 3 * second + plain + scores1 + scores2 + wide + narrow
    backward = (
        6 * first  # k dW1, G1 dW1^T, both of dW1, both of dz1 W1^T
        + 4 * second  # X2 dW2, the three of dW2
        + 4 * plain  # dZ2q W2^T, dE W2, G2 dW2^T, dZ2 W2^T
        + 2 * narrow  # dZ2q G2^T, what readers ask of G2
        + 4 * wide  # pairs2 X2, dZ1q G1^T, pairs2^T Xq, what readers ask of G1
        + 2 * scores1  # pairs k, pairs^T q
    )
    return forward, backward, scores1 + scores2 + wide, first + second


_MINI_BATCH: dict[str, Callable[[int, int], tuple[int, int, int, int]]] = {
    "linear": _linear,
    "mlp": _mlp,
}
"""By inner learner: forward, backward, formed again for each mini-batch, and for each replayed state."""


def _ttt_layer(config: TTTConfig, kind: str, tokens: int) -> Flops:
    width, heads = config.hidden_size, config.num_attention_heads
    projections = 4 - int(config.share_qk) + int(config.use_gate)  # q, k, v, o, gate
    return product(tokens, width, projections * width + heads).plus(
        scan(kind, config.head_dim, config.mini_batch_size, tokens).times(heads)
    )


# ---- layers and models -------------------------------------------------------------------------


@dataclass(frozen=True)
class ModelFlops:
    """FLOPs of one chunk through a model, for one sequence."""

    blocks: tuple[Flops, ...]
    """First to last."""
    head: Flops
    """Logits, which are formed once in a step: never for a chunk that will be computed again."""
    unknown: tuple[str, ...] = ()
    """Why the layers of a kind could not be counted, and are missing above."""

    @classmethod
    def of_chunk(cls, config: TTTConfig, tokens: int) -> Self:
        """Count a chunk of `tokens` tokens."""
        found = {name: mixer_flops(config, name, tokens) for name in kinds_of(config)}
        unknown = tuple(f"{name}: {why}" for name, why in found.items() if isinstance(why, str))
        known = {
            name: _around(config, name, tokens).plus(Flops() if isinstance(own, str) else own)
            for name, own in found.items()
        }
        head = product(tokens, config.hidden_size, config.vocab_size)
        return cls(tuple(known[name] for name in names_of(config)), head, unknown)

    @property
    def model(self) -> int:
        """FLOPs of one forward and one backward."""
        return sum(part.forward + part.backward for part in (*self.blocks, self.head))

    @property
    def again(self) -> int:
        """Formed again inside the backward."""
        return sum(block.again for block in self.blocks)

    def forward_of(self, layers: range) -> int:
        """Sum the FLOPs of the forward through some blocks."""
        return sum(self.blocks[layer].forward for layer in layers)


def _around(config: TTTConfig, name: str, tokens: int) -> Flops:
    """What a block has beside its sequence layer: the SwiGLU."""
    if not mixer_class(name).feed_forward:
        return Flops()
    return product(tokens, config.hidden_size, config.intermediate_size).times(3)


def mixer_flops(config: TTTConfig, name: str, tokens: int) -> Flops | str:
    """Count the FLOPs of one sequence layer on a chunk, or say why they are not known.

    Args:
        config: of the model.
        name: of the layer, as in `model.pattern`.
        tokens: of the chunk.
    """
    cls = mixer_class(name)
    kind = getattr(cls, "kind", None)
    if issubclass(cls, TTTLayer) and kind in _MINI_BATCH:
        return _ttt_layer(config, kind, tokens)
    key = config.model_dump_json(), name
    counts = _known[key] = _known.get(key) or _counted(config, name)
    if isinstance(counts, str):
        return counts
    unit, forward, backward = counts
    return Flops(_at(forward, unit, tokens), _at(backward, unit, tokens))


_known: dict[tuple[str, str], tuple[int, tuple[int, ...], tuple[int, ...]] | str] = {}
"""What was counted already, by model and layer."""


def _counted(config: TTTConfig, name: str) -> tuple[int, tuple[int, ...], tuple[int, ...]] | str:
    """Run a layer without numbers at 1, 2 and 3 units of tokens, and count: unit, forwards, backwards.

    From these follows every other length, as products cost as much as a polynomial of second degree: a
    layer's own attention inside a chunk is quadratic.
    """
    try:
        alignment = mixer_class(name).alignment(config, options_of(config, name, mixer_class(name)))
        unit = -(-_SMALLEST_COUNT_TOKENS // alignment) * alignment
        with torch.device("meta"):
            layer = build_mixer(name, config)
        pairs = [_count(layer, config.hidden_size, times * unit) for times in (1, 2, 3)]
    except Exception as error:  # code of someone's own may raise anything
        return f"cannot be counted ({fault(error)})"
    forward, backward = zip(*pairs, strict=True)
    return unit, forward, backward


def _count(layer: torch.nn.Module, width: int, tokens: int) -> tuple[int, int]:
    h = torch.empty(1, tokens, width, device="meta", requires_grad=True)
    counter = new_counter()
    with torch.enable_grad(), counter:
        out = layer(h, WHOLE, NULL_PORTS)
        forward = counter.get_total_flops()
        torch.autograd.backward(out, torch.empty_like(out))
    return forward, counter.get_total_flops() - forward


def _at(counts: Iterable[int], unit: int, tokens: int) -> int:
    """The polynomial of second degree through the counts at 1, 2 and 3 units, at `tokens`."""
    one, two, three = counts
    x = tokens / unit
    bend = (three - 2 * two + one) / 2
    return round(one + (x - 1) * (two - one) + bend * (x - 1) * (x - 2))


@dataclass(frozen=True)
class SweepFlops:
    """FLOPs of all sequences of a layout, over all its ranks."""

    tokens: int
    model: int
    """FLOPs of one forward and one backward."""
    hardware: int
    """With all that is computed twice."""
    unknown: tuple[str, ...] = ()
    """Why the layers of a kind could not be counted, and are missing above."""

    @property
    def model_per_token(self) -> float:
        """Model FLOPs of a token."""
        return self.model / self.tokens

    @property
    def hardware_per_token(self) -> float:
        """Hardware FLOPs of a token."""
        return self.hardware / self.tokens


def sweep_flops(config: TTTConfig, layout: Layout, kept: float = 0) -> SweepFlops:
    """Count the FLOPs of both sweeps over sequences without documents inside and without padding.

    Args:
        config: of the model.
        layout: the sequences, their chunks and ranks.
        kept: chunks of each rank whose activations are kept.
    """
    sizes = [end - begin for begin, end in map(layout.bounds, range(layout.chunks))]
    of_size = {size: ModelFlops.of_chunk(config, size) for size in set(sizes)}
    of_chunk = [of_size[size] for size in sizes]
    model = layout.sequences * sum(chunk.model for chunk in of_chunk)
    again = layout.sequences * sum(chunk.again for chunk in of_chunk)
    tokens = layout.sequences * layout.length_tokens
    if layout.kind == "striped" and len(of_size) == 1 and kept == int(kept):  # tasks are alike
        pairs = ((m, c) for m in range(layout.sequences) for c in range(layout.chunks))
        own = Counter(layout.owner(m, c) for m, c in pairs)
        recorded = sum(min(kept, count) for count in own.values())
        once = of_chunk[0].forward_of(range(config.num_hidden_layers))
        again += (own.total() - int(recorded)) * once
        return SweepFlops(tokens, model, model + again, of_chunk[0].unknown)
    schedule = Schedule(layout, ((),) * config.num_hidden_layers)
    for rank in range(layout.ranks):
        tasks = schedule.tasks(rank, Phase.FORWARD)
        cut, recorded = split_kept(tasks, round(kept * schedule.layers))
        for task in cut[: len(cut) - len(recorded)]:
            again += of_chunk[task.chunk].forward_of(task.layers)
    return SweepFlops(tokens, model, model + again, of_chunk[0].unknown)
