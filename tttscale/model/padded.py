"""Batches whose rows are filled up with padding: each row is what it would be alone and without any.

Padding is not read: it takes no inner gradient step and no place in a mini-batch, wherever it stands in its
row. Rows of equally many tokens go through the model together, others after each other. The logits at a
padded place are those after the row's last token before it, so that the last column always continues a row.
"""

from collections.abc import Hashable, Iterator, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from tttscale.errors import ConfigError
from tttscale.kernels.ops.cross_entropy import IGNORED
from tttscale.model.decode_state import DecodeState
from tttscale.model.decoder import Decoder
from tttscale.model.device import to_device

if TYPE_CHECKING:
    from tttscale.model.language_model import TTTForCausalLM


@torch.no_grad()
def read_padded(
    model: "TTTForCausalLM",
    ids: Tensor,
    real: Tensor | None = None,
    state: DecodeState | None = None,
    *,
    last_only: bool = False,
) -> tuple[Tensor, DecodeState]:
    """Read a batch, without a graph.

    Args:
        model: in any dtype; it is not changed.
        ids: int64 [B, T].
        real: bool [B, T] on the CPU, False at padding; None: there is none.
        state: what each row has read before; it is not changed. None: nothing.
        last_only: return the logits of the last column alone.

    Returns:
        Logits [B, T, V], or [B, 1, V], fp32 or wider; and the state after all of it.

    Raises:
        ConfigError: a row has no token.
        MixerError: rows differ in length or position, and a layer cannot have that.
    """
    first = Decoder(model, state, len(ids))
    counts = [ids.shape[1]] * len(ids) if real is None else _counts(real)
    # A few tokens are read one by one anyway; more of them in chunks, which need a common position.
    positions = [
        p if n >= first.unit else 0 for p, n in zip(first.state.positions, counts, strict=True)
    ]
    groups = list(_groups([*zip(counts, positions, strict=True)]))
    logits, states = [], []
    for rows in groups:
        decoder = first if len(groups) == 1 else Decoder(model, first.state.rows(rows))
        tokens = _taken(ids, real, rows)
        if last_only:
            logits.append(decoder.read(tokens).unsqueeze(1))
        else:
            logits.append(_spread(decoder.read_all(tokens), real, rows))
        states.append(decoder.state)
    if len(groups) == 1:
        return logits[0], states[0]
    back = _inverse(groups)
    return torch.cat(logits)[back], DecodeState.joined(states).rows(back)


def whole_padded(model: "TTTForCausalLM", ids: Tensor, real: Tensor) -> Tensor:
    """Run whole sequences, as `TTTForCausalLM.forward` does, with a graph.

    Args:
        model: the model.
        ids: int64 [B, T].
        real: bool [B, T] on the CPU, False at padding.

    Returns:
        Logits [B, T, V], fp32 or wider.

    Raises:
        ConfigError: a row has no token.
    """
    counts = _counts(real)
    if bool((real[:, 1:] <= real[:, :-1]).all()):  # nothing before the padding sees it
        tokens = ids.masked_fill(~to_device(real, ids.device), 0)  # padding may be no token at all
        return _spread(model(tokens).logits, real, range(len(ids)))
    groups = list(_groups(counts))
    logits = [_spread(model(_taken(ids, real, rows)).logits, real, rows) for rows in groups]
    return torch.cat(logits)[_inverse(groups)]


def labels_of_padded(labels: Tensor, real: Tensor) -> Tensor:
    """Take out of labels [B, T] what a run without padding does not predict: padding, and first tokens.

    Args:
        labels: int64 [B, T], not shifted.
        real: bool [B, T] on the CPU, False at padding.
    """
    predicted = real & (real.cumsum(1) > 1)
    return labels.masked_fill(~to_device(predicted, labels.device), IGNORED)


def _counts(real: Tensor) -> list[int]:
    counts = [int(count) for count in real.sum(1)]
    if 0 in counts:
        raise ConfigError(
            f"row {counts.index(0)} of {len(counts)} has no token: its attention_mask is 0 everywhere in "
            "these columns. Give each row a token or more in each call, such as the tokenizer's bos"
        )
    return counts


def _groups(keys: Sequence[Hashable]) -> Iterator[list[int]]:
    """Yield the rows of each key, in the order in which keys come."""
    for key in dict.fromkeys(keys):
        yield [row for row, own in enumerate(keys) if own == key]


def _inverse(groups: Sequence[Sequence[int]]) -> list[int]:
    """Return where each row stands among the rows of all groups, one after the other."""
    order = [row for rows in groups for row in rows]
    return sorted(range(len(order)), key=order.__getitem__)


def _taken(ids: Tensor, real: Tensor | None, rows: Sequence[int]) -> Tensor:
    """Tokens [b, n] of rows that have equally many."""
    ids = ids if len(rows) == len(ids) else ids[list(rows)]
    if real is None:
        return ids
    return ids[to_device(real[list(rows)], ids.device)].view(len(rows), -1)


def _spread(logits: Tensor, real: Tensor | None, rows: Sequence[int]) -> Tensor:
    """Logits [b, T, V] of rows at all places, from those [b, n or T, V] after each of their tokens."""
    if real is None:
        return logits
    count = real[list(rows)].cumsum(1)
    last, none = (to_device(x, logits.device) for x in (count.clamp(min=1) - 1, count == 0))
    own = torch.arange(len(logits), device=logits.device)[:, None]
    return logits[own, last].masked_fill(none[..., None], 0)
