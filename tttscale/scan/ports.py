"""The ports of a chunk: where its carries come from and go to, on this rank or on another.

One class serves the three ways in which a chunk runs. A first run receives its states from the left and
sends its own to the right; a recomputation takes the stored states and sends none; both receive gradients
from the right and send them to the left in the backward sweep. Every call is checked against what the
layer's `carry` declares. The timeline is told of every hand-over.
"""

from dataclasses import dataclass, field

from tttscale.model.ports import Part
from tttscale.scan.carry import CarryLayout
from tttscale.scan.carry_norms import CarryWatch
from tttscale.scan.carry_store import CarryStore
from tttscale.scan.port_checks import PortChecks
from tttscale.scan.schedule import CarryKey, ChunkTask, Phase, Schedule
from tttscale.scan.timeline import Activity, Run, Timeline
from tttscale.scan.transport import RecvQueue, Transport


@dataclass
class CarryRouter:
    """All of a rank's carries in one step: to itself, to other ranks, and stored for recomputation."""

    schedule: Schedule
    layout: CarryLayout
    transport: Transport
    store: CarryStore
    timeline: Timeline
    watch: CarryWatch | None = None
    """Sees what leaves a chunk."""
    queues: dict[Phase, RecvQueue] = field(default_factory=dict)
    local: dict[CarryKey, Part] = field(default_factory=dict)
    """What this rank has sent itself and not used yet."""
    before: dict[CarryKey, Part] = field(default_factory=dict)
    """States in front of chunk 0, after boundary -1, where a sequence is continued."""

    def recv(self, key: CarryKey, source: int) -> Part:
        """Take what this rank has sent itself, or wait for another's message."""
        if source == self.transport.rank:
            return self.local.pop(key)
        return self.queues[key.phase].recv(key)

    def send(self, key: CarryKey, target: int | None, part: Part) -> None:
        """Keep it for this rank's next task, or start to send it; None: the sequence ends here."""
        if target == self.transport.rank:
            self.local[key] = part
        elif target is not None:
            self.transport.isend(key, target, part)
        if self.watch is not None:
            self.watch.sent(key, part)


@dataclass(frozen=True)
class ChunkPorts:
    """The ports of one chunk at all layers, for one run of it."""

    router: CarryRouter
    task: ChunkTask
    replay: bool
    """A recomputation: states are the stored ones, and none is sent to the right."""
    keep: bool = False
    """This run builds the graph for the backward: its states need not be stored."""

    @property
    def run(self) -> Run:
        """In which run the chunk is; its backward follows a run that had a graph."""
        return Run.RECOMPUTE if self.replay else Run.FORWARD

    def owner(self, offset: int) -> int | None:
        """Owner of the chunk to the left (-1) or right (+1); None beyond the sequence."""
        layout = self.router.schedule.layout
        return layout.neighbour(self.task.sequence, self.task.chunk, offset)


class LayerPorts:
    """The ports of one layer in one run of a chunk."""

    def __init__(self, chunk: ChunkPorts, layer: int) -> None:
        self.chunk, self.layer = chunk, layer
        self.checks = PortChecks(chunk.router.layout, layer, chunk.task.chunk)

    def __getitem__(self, part: str, /) -> "ChunkPort":
        """The port of one part.

        Raises:
            MixerError: the layer does not declare it.
        """
        self.checks.declared(part)
        return ChunkPort(self, part)


@dataclass(frozen=True)
class ChunkPort:
    """`tttscale.model.ports.CarryPort` of one part at one layer."""

    ports: LayerPorts
    part: str

    @property
    def peer_waits_for_state(self) -> bool:
        """Another rank has the next chunk, and this run's state goes there."""
        return not self.ports.chunk.replay and self._elsewhere(+1)

    @property
    def peer_waits_for_grad(self) -> bool:
        """Another rank has the next or the previous chunk."""
        return self._elsewhere(+1) or self._elsewhere(-1)

    def recv_state(self) -> Part | None:
        """The state from the left."""
        self.ports.checks.use("recv_state", self.part)
        chunk, part = self.ports.chunk, None
        source = chunk.owner(-1)
        key = self._key(Phase.FORWARD, chunk.task.chunk - 1)
        if source is None:
            part = chunk.router.before.get(key)
        else:
            part = chunk.router.store.get(key) if chunk.replay else chunk.router.recv(key, source)
        self._begin(Activity.ADVANCE)
        if part is not None and not chunk.replay and not chunk.keep:
            chunk.router.store.put(key, part)
        return part

    def send_state(self, part: Part) -> None:
        """The state to the right."""
        self.ports.checks.use("send_state", self.part)
        chunk = self.ports.chunk
        target = chunk.owner(+1)
        if target is not None:
            self.ports.checks.tensors("send_state", self.part, chunk.task.chunk, part)
        if not chunk.replay:
            key = self._key(Phase.FORWARD, chunk.task.chunk)
            chunk.router.send(key, target, tuple(t.detach() for t in part))
        self._begin(Activity.READOUT)

    def recv_grad(self) -> Part | None:
        """The gradient of what was sent, from the right."""
        self.ports.checks.use("recv_grad", self.part)
        chunk, grad = self.ports.chunk, None
        source = chunk.owner(+1)
        if source is not None:
            grad = chunk.router.recv(self._key(Phase.BACKWARD, chunk.task.chunk), source)
        self._begin(Activity.ADVANCE, Run.BACKWARD)
        return grad

    def send_grad(self, grad: Part) -> None:
        """The gradient of what was received, to the left."""
        self.ports.checks.use("send_grad", self.part)
        chunk = self.ports.chunk
        target, boundary = chunk.owner(-1), chunk.task.chunk - 1
        assert target is not None
        self.ports.checks.tensors("send_grad", self.part, boundary, grad)
        chunk.router.send(self._key(Phase.BACKWARD, boundary), target, grad)
        self._begin(Activity.PROJECT, Run.BACKWARD)

    def _begin(self, activity: Activity, run: Run | None = None) -> None:
        """What follows a call of this port; all parts but the last belong to the projections."""
        chunk, layer = self.ports.chunk, self.ports.layer
        last = self.part == chunk.router.schedule.parts[layer][-1]
        now = activity if last else Activity.PROJECT
        chunk.router.timeline.begin(now, run or chunk.run, chunk.task, layer)

    def _key(self, phase: Phase, boundary: int) -> CarryKey:
        sequence = self.ports.chunk.task.sequence
        return CarryKey(phase, sequence, boundary, self.ports.layer, self.part)

    def _elsewhere(self, offset: int) -> bool:
        owner = self.ports.chunk.owner(offset)
        return owner is not None and owner != self.ports.chunk.router.transport.rank
