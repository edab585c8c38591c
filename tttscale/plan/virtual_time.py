"""A rank's clock in virtual time: the timeline of real sweeps whose compute is replaced by its cost.

Sweeps, ports and layers say what they do as they do it, and the clock moves on by what that would cost.
Messages carry the sender's clock, and a receive takes the later of both. So the order of the real code
decides when everything happens, exactly, however fast or slow the machine is that rehearses it.
"""

from itertools import pairwise
from typing import Any

from tttscale.observe.spans import Span
from tttscale.observe.timeline import Held
from tttscale.plan.costs import Costs
from tttscale.scan.layout import Layout
from tttscale.scan.schedule import CarryKey
from tttscale.scan.timeline import Activity, Run


class VirtualTimeline:
    """Implements `scan.timeline.Timeline`: what a rank does takes time on its clock.

    A layer's compute is charged in pieces, in the order of its run; PROJECT in as many as its carry has
    parts. A piece is charged as soon as the real code does anything that comes after it. *advance* and
    *readout* of a scan are charged when the scan is asked for them.
    """

    traces = True

    def __init__(
        self,
        layout: Layout,
        parts: tuple[tuple[str, ...], ...],
        scans: frozenset[int],
        costs: Costs,
    ) -> None:
        """Start at zero.

        Args:
            layout: of the real run, with its real chunk length.
            parts: of each layer's carry.
            scans: layers whose scan says what it does (`advanced`, `read_out`).
            costs: of every activity.
        """
        self._layout, self._parts, self._scans, self._costs = layout, parts, scans, costs
        self.clock = self.busy = self.ramp = self.starved = self.exposed = 0.0
        self.spans: list[Span] = []
        self._pieces: list[tuple[Activity, float]] = []
        """What is left of the layer that runs."""
        self._run, self._sequence, self._chunk, self._layer = Run.FORWARD, -1, -1, -1
        self._first: tuple[int, int] | None = None
        """Sequence and chunk that this sweep began with."""

    # ---- what the sweeps say -------------------------------------------------------------------

    def begin(
        self, activity: str, run: Any = None, task: Any = None, layer: int = -1, part: str = ""
    ) -> None:
        """Charge all that comes before this activity."""
        back = run is Run.BACKWARD
        if activity in (Activity.WAIT, Activity.SEND):
            self._exchange(activity == Activity.WAIT, layer, part)
        elif activity == Activity.READOUT and back:
            self._until(self._parts_of(layer) + 2)
        elif activity == Activity.FINISH and not back:
            self._until(1)
        elif activity in (Activity.ADVANCE, Activity.READOUT):
            pass  # said by the scan, or by the exchange before
        elif (run, layer) != (self._run, self._layer) or layer < 0:
            self._open(run or self._run, task, layer)
            if back and activity == Activity.HEAD:
                self.end_part(Activity.HEAD)
            if back and activity == Activity.EMBED and task.layers.start == 0:
                self.end_part(Activity.EMBED)

    def note_read(self, began: float, ended: float, sequence: int, chunk: int) -> None:
        """Reading tokens takes no time here."""

    def take(self) -> Held:
        """Nothing is counted in real time."""
        return Held()

    # ---- what the model says -------------------------------------------------------------------

    def advanced(self) -> None:
        """A scan's *advance*, or its backward, is done."""
        self._until(self._parts_of(self._layer) if self._run is Run.BACKWARD else 2)

    def read_out(self) -> None:
        """A scan's *readout*, or its backward, is done."""
        self._until(self._parts_of(self._layer) + 1 if self._run is Run.BACKWARD else 1)

    def end_part(self, activity: Activity) -> None:
        """EMBED or HEAD is done."""
        self._charge(activity, self._seconds(activity, -1))

    # ---- what the transport says ---------------------------------------------------------------

    def send(self, key: CarryKey) -> float:
        """Hand a message over; returns when that was done."""
        held = self._costs.seconds(self._run, Activity.SEND, 0, key.layer)
        self.clock += held
        self.exposed += held
        self._span(Activity.SEND, held, key.part)
        return self.clock

    def arrive(self, key: CarryKey, sent: float, arrived: float) -> None:
        """Wait for a message that was sent and arrives at these times."""
        waited = max(arrived - self.clock, 0.0)
        late = min(max(sent - self.clock, 0.0), waited)
        self.exposed += waited - late
        if self._first == (self._sequence, self._chunk):
            self.ramp += late
        else:
            self.starved += late
        self.clock += waited
        self._span(Activity.WAIT, waited, key.part)

    def flush(self, left: float) -> None:
        """End a sweep when everything has left; the next task is the first of its sweep."""
        waited = max(left - self.clock, 0.0)
        self.clock += waited
        self.exposed += waited
        self.spans.append(Span(self.clock - waited, self.clock, str(Activity.FLUSH)))
        self._first = None

    def end(self, seconds: float) -> None:
        """The last rank was done after so many seconds."""
        self._open(self._run, None, -1)
        self.ramp += seconds - self.clock
        self.spans.append(Span(self.clock, seconds, str(Activity.IDLE)))

    # ---- inside --------------------------------------------------------------------------------

    def _parts_of(self, layer: int) -> int:
        return max(len(self._parts[layer]), 1)

    def _open(self, run: Run, task: Any, layer: int) -> None:
        """Finish the layer so far and begin this one; -1: before or after all layers."""
        self._until(0)
        self._run, self._layer = run, layer
        if task is not None:
            self._sequence, self._chunk = task.sequence, task.chunk
            self._first = self._first or (task.sequence, task.chunk)
        if layer >= 0:
            self._pieces = self._all_pieces(run, layer)

    def _all_pieces(self, run: Run, layer: int) -> list[tuple[Activity, float]]:
        parts = self._parts[layer]
        shares = sorted(self._costs.share_before(run, parts, i) for i in range(len(parts) - 1))
        project = self._seconds(Activity.PROJECT, layer)
        before = [
            (Activity.PROJECT, project * (end - begin))
            for begin, end in pairwise([0.0, *shares, 1.0])
        ]
        advance, readout, finish = (
            (activity, self._seconds(activity, layer))
            for activity in (Activity.ADVANCE, Activity.READOUT, Activity.FINISH)
        )
        if run is Run.BACKWARD:
            return [finish, readout, advance, *before]
        return [*before, advance, readout, finish]

    def _exchange(self, waits: bool, layer: int, part: str) -> None:
        """Charge what comes before the exchange of a part."""
        assert layer == self._layer, f"layer {layer} exchanges {part} inside layer {self._layer}"
        count, index = self._parts_of(layer), self._parts[layer].index(part)
        is_last = index == count - 1
        if self._run is not Run.BACKWARD:
            self._until((3 if waits else 2) if is_last else count + 2 - index)
        elif not is_last:
            self._until(index + 1)
        elif waits:
            self._until(count + (2 if layer in self._scans else 1))
        else:
            self._until(count)

    def _until(self, left: int) -> None:
        """Charge pieces until so many are left."""
        while len(self._pieces) > left:
            self._charge(*self._pieces.pop(0))

    def _charge(self, activity: Activity, seconds: float) -> None:
        self.clock += seconds
        self.busy += seconds
        self._span(activity, seconds)

    def _span(self, activity: Activity, seconds: float, part: str = "") -> None:
        place = self._sequence, self._chunk, self._layer, part
        self.spans.append(
            Span(self.clock - seconds, self.clock, str(activity), str(self._run), *place)
        )

    def _seconds(self, activity: Activity, layer: int) -> float:
        begin, end = self._layout.bounds(self._chunk)
        left, right = (self._is_elsewhere(offset) for offset in (-1, +1))
        run = self._run
        alone = run is Run.RECOMPUTE or not (right or (left and run is Run.BACKWARD))
        return self._costs.seconds(run, activity, end - begin, layer, alone)

    def _is_elsewhere(self, offset: int) -> bool:
        """Whether another rank has the chunk to the left (-1) or right (+1)."""
        here = self._layout.owner(self._sequence, self._chunk)
        return self._layout.neighbour(self._sequence, self._chunk, offset) not in (None, here)
