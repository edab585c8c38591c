"""Edges of a chunk: where its carry comes from and goes to, on this rank or on a neighbour.

Four situations share one class. A chunk's first run takes its carry from the left and passes its own to
the right; a recomputation takes the stored carry and sends nothing. In both, gradients come from the
right and go to the left during the backward sweep.
"""

from dataclasses import dataclass, field

from torch import Tensor

from tttscale.model.chunk import PARTS
from tttscale.scan.carry import CarryStore
from tttscale.scan.schedule import Message, Phase, Schedule, Work
from tttscale.scan.transport import Inbox, Part, Transport


@dataclass
class Post:
    """All of a rank's traffic in one step: messages to itself, to others, and the stored carries."""

    schedule: Schedule
    transport: Transport
    inboxes: dict[Phase, Inbox]
    carries: CarryStore
    _own: dict[Message, Part] = field(default_factory=dict)

    def take(self, message: Message, source: int) -> Part:
        """The message, from this rank or from a neighbour."""
        if source == self.transport.rank:
            return self._own.pop(message)
        return self.inboxes[message.phase].take(message)

    def give(self, message: Message, target: int, part: Part) -> None:
        """Leave the message for this rank's later work, or send it."""
        if target == self.transport.rank:
            self._own[message] = part
        else:
            self.transport.send(message, target, part)

    @property
    def empty(self) -> bool:
        """Whether everything that was left has been used."""
        return not self._own


@dataclass(frozen=True)
class ChunkEdges:
    """The edges of a chunk at all layers, for one run of it."""

    post: Post
    work: Work
    replay: bool
    """A recomputation: the carry is the stored one, and nothing is sent to the right."""
    keep: bool = False
    """The first run already builds the graph: the carry need not be stored."""

    def layer(self, index: int) -> "dict[str, PartEdge]":
        """Edges of one layer by part."""
        return {part: PartEdge(self, index, part) for part in PARTS}

    def owner(self, offset: int) -> int | None:
        """Owner of the chunk to the left (-1) or right (+1); None beyond the sequence."""
        return self.post.schedule.layout.neighbour(self.work.sequence, self.work.chunk, offset)


@dataclass(frozen=True)
class PartEdge:
    """`tttscale.model.chunk.Edge` for one part at one layer."""

    run: ChunkEdges
    layer: int
    part: str

    def _message(self, phase: Phase, edge: int) -> Message:
        return Message(phase, self.run.work.sequence, edge, self.layer, self.part)

    @property
    def state_awaited(self) -> bool:
        """Another rank has the next chunk, and this run's carry goes there."""
        return not self.run.replay and self._elsewhere(+1)

    @property
    def grad_awaited(self) -> bool:
        """Another rank has the next or the previous chunk."""
        return self._elsewhere(+1) or self._elsewhere(-1)

    def _elsewhere(self, offset: int) -> bool:
        owner = self.run.owner(offset)
        return owner is not None and owner != self.run.post.transport.rank

    def receive(self) -> Part | None:
        """The carry from the left."""
        source = self.run.owner(-1)
        if source is None:
            return None
        message = self._message(Phase.FORWARD, self.run.work.chunk - 1)
        place = message.sequence, message.edge, self.layer, self.part
        if self.run.replay:
            return self.run.post.carries.get(*place)
        part = self.run.post.take(message, source)
        if not self.run.keep:
            self.run.post.carries.put(*place, part)
        return part

    def send(self, part: Part) -> None:
        """The carry to the right."""
        target = self.run.owner(+1)
        if target is not None and not self.run.replay:
            detached: tuple[Tensor, ...] = tuple(t.detach() for t in part)
            self.run.post.give(self._message(Phase.FORWARD, self.run.work.chunk), target, detached)

    def receive_grad(self) -> Part | None:
        """The gradient of what was sent, from the right."""
        source = self.run.owner(+1)
        if source is None:
            return None
        return self.run.post.take(self._message(Phase.BACKWARD, self.run.work.chunk), source)

    def send_grad(self, grad: Part) -> None:
        """The gradient of what was received, to the left."""
        target = self.run.owner(-1)
        assert target is not None
        self.run.post.give(self._message(Phase.BACKWARD, self.run.work.chunk - 1), target, grad)
