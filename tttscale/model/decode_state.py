"""What a model has to keep of the tokens it has read: the same size after a million of them as after one."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from tttscale.errors import MixerError
from tttscale.model.ports import Part

Parts = dict[str, Part]
"""By name: the parts of a layer's carry, and what it keeps of tokens that its carry does not hold yet."""

SUMS = "sums"
"""What a TTT layer keeps of an open mini-batch: the sums of its gradients, of the shapes of its state."""
OPEN = "open tokens"
"""What any other layer keeps since the last place where a chunk may end: its inputs, [B, n, D]."""


class HeldPort:
    """A port whose neighbours are calls: the call before has left a part, and this one leaves another."""

    peer_waits_for_state = False
    peer_waits_for_grad = False

    def __init__(self, held: Part | None) -> None:
        self._held = held
        self.sent: Part | None = None

    def recv_state(self) -> Part | None:
        """Return what the call before has left; None where a sequence begins."""
        return self._held

    def send_state(self, part: Part) -> None:
        """Leave a part."""
        self.sent = tuple(t.detach() for t in part)

    def recv_grad(self) -> Part | None:
        """No gradient comes."""
        return None

    def send_grad(self, grad: Part) -> None:
        """No gradient goes."""


class HeldPorts:
    """The ports of one layer for one call."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._ports: dict[str, HeldPort] = {}

    def __getitem__(self, part: str) -> HeldPort:
        return self._ports.setdefault(part, HeldPort(self._parts.get(part)))

    def sent(self) -> Parts:
        """Return what the call has left."""
        return {name: port.sent for name, port in self._ports.items() if port.sent is not None}


@dataclass
class DecodeState:
    """A model's memory of the tokens that each row of a batch has read. No call writes into its tensors."""

    positions: list[int]
    """Tokens read, by row."""
    layers: list[Parts] = field(default_factory=list)
    """By layer; tensors have the rows as their first dim. Empty before the first token."""
    logits: Tensor | None = None
    """fp32 (or wider) [B, V]: what follows the last token read, so that a state continues without a prompt;
    None: not known."""

    @classmethod
    def empty(cls, rows: int, layers: int) -> "DecodeState":
        """Nothing has been read."""
        return cls([0] * rows, [{} for _ in range(layers)])

    def rows(self, chosen: Sequence[int]) -> "DecodeState":
        """Return a state of its own whose rows are those chosen, in that order; one may come twice."""
        index = torch.tensor(list(chosen), dtype=torch.int64)

        def select(t: Tensor) -> Tensor:
            """Take the rows of one tensor."""
            return t.index_select(0, index.to(t.device))

        return DecodeState(
            [self.positions[row] for row in chosen],
            [_each(layer, select) for layer in self.layers],
            None if self.logits is None else select(self.logits),
        )

    def copy(self) -> "DecodeState":
        """Return a state of its own with the same content."""
        return DecodeState(
            list(self.positions),
            [_each(p, torch.clone) for p in self.layers],
            None if self.logits is None else self.logits.clone(),
        )

    @classmethod
    def joined(cls, states: Sequence["DecodeState"]) -> "DecodeState":
        """Return one state with the rows of several, in their order; they may stand at different positions.

        Args:
            states: of one model, each after one token or more.

        Raises:
            MixerError: a layer keeps what cannot stand side by side, such as inputs of different lengths.
        """
        layers = zip(*(state.layers for state in states), strict=True)
        logits = [state.logits for state in states if state.logits is not None]
        return cls(
            [position for state in states for position in state.positions],
            [_side_by_side(number, parts) for number, parts in enumerate(layers)],
            torch.cat(logits) if len(logits) == len(states) else None,
        )

    @property
    def nbytes(self) -> int:
        """Bytes of what all layers keep."""
        return sum(t.nbytes for layer in self.layers for part in layer.values() for t in part)


def _each(parts: Parts, function: Callable[[Tensor], Tensor]) -> Parts:
    return {name: tuple(map(function, part)) for name, part in parts.items()}


def _side_by_side(number: int, layers: Sequence[Parts]) -> Parts:
    """The rows of one layer in several states."""
    if any(SUMS in parts for parts in layers):
        layers = [parts if SUMS in parts else parts | {SUMS: _zeros(parts)} for parts in layers]
    shapes = [
        {name: [t.shape[1:] for t in part] for name, part in parts.items()} for parts in layers
    ]
    if any(other != shapes[0] for other in shapes):
        raise MixerError(
            f"layer {number}: rows at different positions keep tensors of different shapes, so they cannot "
            "be decoded together. Give all prompts one length, or generate row by row"
        )
    return {
        name: tuple(torch.cat(same) for same in zip(*(p[name] for p in layers), strict=True))
        for name in layers[0]
    }


def _zeros(parts: Parts) -> Part:
    return tuple(torch.zeros_like(t) for t in parts["state"])
