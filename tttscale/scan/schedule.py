"""The order of every rank's tasks: all forward sweeps, then all backward sweeps.

Each rank's order is the restriction of one global order, in which everything that a task needs comes before
it. Hence ranks can never wait for each other in a circle, and the messages over a boundary are sent and
received in the same order.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum

from tttscale.scan.layout import Layout


class Phase(StrEnum):
    """Forward sweep (states go right) or backward sweep (gradients go left)."""

    FORWARD = "forward"
    BACKWARD = "backward"


@dataclass(frozen=True)
class ChunkTask:
    """Some layers of one chunk, in one phase."""

    phase: Phase
    sequence: int
    chunk: int
    layers: range


@dataclass(frozen=True)
class CarryKey:
    """Names one part of a carry, or its gradient, on its way over a boundary."""

    phase: Phase
    sequence: int
    boundary: int
    """Boundary b lies between chunks b and b + 1."""
    layer: int
    part: str

    def __str__(self) -> str:
        """For errors, such as "the state's gradient of sequence 0 after chunk 2, layer 1"."""
        gradient = "'s gradient" if self.phase is Phase.BACKWARD else ""
        place = f"sequence {self.sequence} after chunk {self.boundary}, layer {self.layer}"
        return f"the {self.part}{gradient} of {place}"


@dataclass(frozen=True)
class Schedule:
    """What each rank does, and what it receives.

    Striped ranks run a chunk through all layers (one wavefront through the sequence). Contiguous ranks
    run all their chunks through a layer before the next layer, else rank r + 1 would wait for all of
    rank r.
    """

    layout: Layout
    parts: tuple[tuple[str, ...], ...]
    """For each layer the parts of its carry, in the order in which its forward meets them."""

    @property
    def layers(self) -> int:
        """Layers of the model."""
        return len(self.parts)

    def tasks(self, rank: int, phase: Phase) -> list[ChunkTask]:
        """The rank's tasks of a phase, in order."""
        own = self.layout.own(rank)
        if self.layout.kind == "striped":
            own.sort(key=lambda pair: (pair[1], pair[0]))
            forward = [ChunkTask(phase, m, c, range(self.layers)) for m, c in own]
        else:
            by_layer = sorted((m, layer, c) for m, c in own for layer in range(self.layers))
            forward = [ChunkTask(phase, m, c, range(layer, layer + 1)) for m, layer, c in by_layer]
        return forward if phase is Phase.FORWARD else forward[::-1]

    def incoming(self, rank: int, phase: Phase) -> Iterator[tuple[int, CarryKey]]:
        """(source rank, key) of all that comes from other ranks, in the order of its use."""
        offset = -1 if phase is Phase.FORWARD else +1
        for task in self.tasks(rank, phase):
            source = self.layout.neighbour(task.sequence, task.chunk, offset)
            if source is None or source == rank:
                continue
            for key in self.received(task):
                yield source, key

    def received(self, task: ChunkTask) -> Iterator[CarryKey]:
        """What a task receives: states from the left, or gradients from the right, in order."""
        forward = task.phase is Phase.FORWARD
        boundary = task.chunk - 1 if forward else task.chunk
        for layer in task.layers if forward else reversed(task.layers):
            parts = self.parts[layer]
            for part in parts if forward else reversed(parts):
                yield CarryKey(task.phase, task.sequence, boundary, layer, part)
