"""What a rank is doing, and since when: the protocol that `tttscale.observe` implements.

A rank is always in exactly one activity, so one call at each change is enough, and the activities' times
add up to the step. Sweeps, reader and transports call it here; trainer, engine and checkpoints above.
"""

from enum import StrEnum
from typing import Protocol

from tttscale.observe.timeline import Held


class Place(Protocol):
    """A chunk, or something of it."""

    @property
    def sequence(self) -> int:
        """Its sequence."""
        ...

    @property
    def chunk(self) -> int:
        """Its number."""
        ...


class Run(StrEnum):
    """In which of its runs a chunk is."""

    FORWARD = "forward"
    RECOMPUTE = "recompute"
    """Again with a graph, from the stored states."""
    BACKWARD = "backward"


class Activity(StrEnum):
    """What a rank does. Activities of a layer have the same names in all three runs of a chunk."""

    DATA = "data"
    """Waiting for tokens."""
    EMBED = "embed"
    """Token embeddings, and their gradients."""
    PROJECT = "project"
    """From a layer's input to its last part of the carry: norm, projections, convolutions."""
    WAIT = "wait"
    """Waiting for a part of a carry, or for its gradient, from another rank."""
    ADVANCE = "advance"
    """From having the last part to handing it on: the chain that other ranks wait for."""
    SEND = "send"
    """Handing a part or its gradient to another rank, as far as that holds up this one."""
    READOUT = "readout"
    """What of the sequence layer is left when the last part has left: outputs, output projection."""
    FINISH = "finish"
    """The rest of the block: the feed-forward layer."""
    HEAD = "head"
    """Last norm, logits and loss."""
    FLUSH = "flush"
    """At the end of a sweep, until everything sent has left."""
    IDLE = "idle"
    """Done with a sweep or a step, and waiting for other ranks."""
    REDUCE = "reduce"
    """Summing the parameters' gradients over the ranks."""
    OPTIMIZER = "optimizer"
    """Updating the parameters."""
    GATHER = "gather"
    """Collecting the new parameters from the ranks that updated them."""
    EVALUATE = "evaluate"
    """A held-out loss."""
    CHECKPOINT = "checkpoint"
    """Saving."""
    RECORD = "record"
    """Writing records and drawing plots."""
    OTHER = "other"
    """Anything else between the calls."""


class Timeline(Protocol):
    """Takes down when activities begin."""

    traces: bool
    """It wants every activity; otherwise only waits, sends and flushes count, and hooks are spared."""

    def begin(
        self,
        activity: Activity,
        run: Run | None = None,
        task: Place | None = None,
        layer: int = -1,
        part: str = "",
    ) -> None:
        """End the activity so far and begin this one, now: on the device's stream if it is a GPU."""
        ...

    def note_read(self, began: float, ended: float, sequence: int, chunk: int) -> None:
        """Note a read of tokens beside the activities, by a thread; `time.perf_counter` seconds."""
        ...

    def take(self) -> Held:
        """Return the seconds for which this rank was held up since this was last called."""
        ...
