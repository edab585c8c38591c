"""The order of work of every rank: all forward sweeps, then all backward sweeps.

The order is the restriction of one global order, in which everything that a piece of work needs comes
before it. Hence no cycle of waiting ranks can arise, and the messages of an edge are produced and
consumed in the same order.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum

from tttscale.scan.layout import Layout


class Phase(StrEnum):
    """Forward sweep or backward sweep."""

    FORWARD = "forward"
    BACKWARD = "backward"


@dataclass(frozen=True)
class Work:
    """Some layers of one chunk, in one phase."""

    phase: Phase
    sequence: int
    chunk: int
    layers: range


@dataclass(frozen=True)
class Message:
    """One part of a carry (or its gradient) on its way over the edge between two chunks."""

    phase: Phase
    sequence: int
    edge: int
    """The chunk left of the edge."""
    layer: int
    part: str

    def __str__(self) -> str:
        """For errors, such as "the state's gradient of sequence 0 behind chunk 2, layer 1"."""
        gradient = "'s gradient" if self.phase is Phase.BACKWARD else ""
        place = f"sequence {self.sequence} behind chunk {self.edge}, layer {self.layer}"
        return f"the {self.part}{gradient} of {place}"


@dataclass(frozen=True)
class Schedule:
    """What each rank does, and which messages it takes in.

    Striped ranks run a chunk through all layers (one wavefront through the sequence). Contiguous ranks
    run all their chunks through a layer before the next layer, else rank r + 1 would wait for all of
    rank r.
    """

    layout: Layout
    layers: int
    parts: tuple[str, ...]
    """Parts of a layer's carry, in the order in which a block meets them."""

    def works(self, rank: int, phase: Phase) -> list[Work]:
        """The rank's work of a phase, in order."""
        own = self.layout.own(rank)
        if self.layout.kind == "striped":
            own.sort(key=lambda pair: (pair[1], pair[0]))
            forward = [Work(phase, m, c, range(self.layers)) for m, c in own]
        else:
            by_layer = sorted((m, layer, c) for m, c in own for layer in range(self.layers))
            forward = [Work(phase, m, c, range(layer, layer + 1)) for m, layer, c in by_layer]
        return forward if phase is Phase.FORWARD else forward[::-1]

    def incoming(self, rank: int, phase: Phase) -> Iterator[tuple[int, Message]]:
        """(source rank, message) of all messages from other ranks, in the order of their use."""
        heard = -1 if phase is Phase.FORWARD else +1
        for work in self.works(rank, phase):
            source = self.layout.neighbour(work.sequence, work.chunk, heard)
            if source is None or source == rank:
                continue
            for message in self.messages(work):
                yield source, message

    def messages(self, work: Work) -> Iterator[Message]:
        """Messages that a piece of work takes in, in order."""
        forward = work.phase is Phase.FORWARD
        edge = work.chunk - 1 if forward else work.chunk
        for layer in work.layers if forward else reversed(work.layers):
            for part in self.parts if forward else reversed(self.parts):
                yield Message(work.phase, work.sequence, edge, layer, part)
