"""Forward passes over whole sequences, each split over the ranks of the job as in training."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from tttscale.model import TTTForCausalLM
from tttscale.model.decode_state import DecodeState, Parts
from tttscale.model.ports import Part
from tttscale.scan.layout import Kind, Layout
from tttscale.scan.reader import Batch, TokenSequence
from tttscale.scan.schedule import CarryKey, ChunkTask
from tttscale.scan.sweep import Sweeps
from tttscale.scan.transport import Transport


@dataclass(frozen=True)
class Split:
    """How sequences are cut and shared out."""

    length_tokens: int
    chunk_tokens: int
    kind: Kind = "striped"
    autocast: torch.dtype | None = None
    """Compute dtype of matrix products; None: the parameters'."""


@dataclass(frozen=True)
class Seen:
    """One own chunk of some sequences side by side, after the last block."""

    rows: range
    """Numbers of the sequences."""
    chunk: int
    is_last: bool
    """The sequences end with it."""
    batch: Batch
    x: Tensor
    """The residual stream, [B, C, D]."""


See = Callable[[Seen], None]
Ended = Callable[[range, DecodeState], None]
"""Takes the numbers of sequences and what the model has kept after their last token."""


class Passes:
    """Forward passes of a model; every rank makes the same calls."""

    def __init__(
        self, model: TTTForCausalLM, transport: Transport, split: Split, batch: int = 1
    ) -> None:
        """Prepare; nothing is sent yet.

        Args:
            model: the same on all ranks.
            transport: to the ranks among which a sequence is split.
            split: of each sequence.
            batch: sequences side by side, at most.
        """
        self.model, self.split = model, split
        self.device = next(model.parameters()).device
        self._transport, self._batch = transport, batch
        self._sweeps: dict[tuple[int, int], Sweeps] = {}

    def run(
        self,
        sequences: Sequence[TokenSequence],
        see: See,
        ended: Ended | None = None,
        told: Callable[[int], None] = lambda done: None,
    ) -> None:
        """Read sequences; as many go at once as there are ranks, so that all have work.

        Args:
            sequences: of the split's length.
            see: is shown every own chunk.
            ended: is given the state of the sequences that end on this rank, if asked for.
            told: is told how many sequences are done.
        """
        begin = 0
        for places, batch in self._groups(len(sequences)):
            end = begin + places * batch
            group = [sequences[at : at + batch] for at in range(begin, end, batch)]
            self._pass(begin, group, see, ended)
            begin = end
            told(end)

    def _groups(self, count: int) -> Iterator[tuple[int, int]]:
        """Numbers of places and of sequences side by side, until all have been read."""
        while count:
            batch = min(self._batch, count)
            places = min(self._transport.size, count // batch)
            yield places, batch
            count -= places * batch

    def _pass(
        self, begin: int, group: list[Sequence[TokenSequence]], see: See, ended: Ended | None
    ) -> None:
        sweeps = self._sweeps_for(len(group), len(group[0]))
        layout, batch = sweeps.schedule.layout, sweeps.batch
        ends = _EndStates(layout) if ended is not None else None
        sweeps.watch = ends

        def rows(sequence: int) -> range:
            """Numbers of the sequences at a place."""
            return range(begin + sequence * batch, begin + (sequence + 1) * batch)

        def head(task: ChunkTask, tokens: Batch, x: Tensor) -> None:
            """Show a chunk."""
            last = task.chunk == layout.chunks - 1
            see(Seen(rows(task.sequence), task.chunk, last, tokens, x))

        sweeps.forward(group, train=False, head=head)
        if ended is not None and ends is not None:
            for sequence, layers in sorted(ends.layers.items()):
                parts = [layers[layer] for layer in sorted(layers)]
                ended(rows(sequence), DecodeState([layout.length_tokens] * batch, parts))

    def _sweeps_for(self, places: int, batch: int) -> Sweeps:
        if (places, batch) not in self._sweeps:
            split, ranks = self.split, self._transport.size
            layout = Layout(split.kind, split.length_tokens, split.chunk_tokens, ranks, places)
            self._sweeps[places, batch] = Sweeps(
                self.model, layout, self._transport, batch=batch, autocast=split.autocast
            )
        return self._sweeps[places, batch]


class _EndStates:
    """`CarryWatch` that keeps what leaves the last chunk of a sequence."""

    def __init__(self, layout: Layout) -> None:
        self._last = layout.chunks - 1
        self.layers: dict[int, dict[int, Parts]] = {}
        """By sequence and layer."""

    def sent(self, key: CarryKey, part: Part) -> None:
        """Keep the parts of an end."""
        if key.boundary == self._last:
            self.layers.setdefault(key.sequence, {}).setdefault(key.layer, {})[key.part] = part
