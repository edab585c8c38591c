"""A trace: what every rank did, and when, on one clock. Measured, rehearsed and simulated ones look alike."""

from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

Origin = Literal["measured", "rehearsed", "simulated"]


class Span(NamedTuple):
    """One activity of a rank; names are those of `scan.timeline` (`Activity`, `Run`)."""

    begin: float
    """Seconds from the begin of the trace, on rank 0's clock."""
    end: float
    """Seconds; the next span of the same track begins here or later."""
    activity: str
    run: str = ""
    """forward, recompute, backward, or "" outside the sweeps."""
    sequence: int = -1
    chunk: int = -1
    layer: int = -1
    part: str = ""
    """Part of the carry that a wait or send is about; "" in other activities."""

    @property
    def boundary(self) -> int:
        """Which boundary the part of a wait or send crosses (b lies between chunks b and b + 1)."""
        from_left = (self.run == "backward") != (self.activity == "wait")
        return self.chunk - 1 if from_left else self.chunk


class StepMark(NamedTuple):
    """When an optimizer step began and ended on a rank."""

    step: int
    begin: float
    end: float


@dataclass
class RankTrace:
    """What one rank did."""

    rank: int
    """In the world."""
    replica: int = 0
    host: str = ""
    device: str = "cpu"
    steps: list[StepMark] = field(default_factory=list)
    spans: list[Span] = field(default_factory=list)
    """In order, one after the other."""
    reads: list[Span] = field(default_factory=list)
    """The reader's thread: reading tokens beside the compute."""
    memory: list[tuple[float, int]] = field(default_factory=list)
    """(seconds, bytes in use)."""
    clock_error_seconds: float = 0.0
    """Half of the fastest round trip by which its clock was compared with rank 0's."""


@dataclass
class Trace:
    """A few steps of a job."""

    origin: Origin
    ranks: list[RankTrace]
    """In order of ranks."""
    facts: dict[str, Any] = field(default_factory=dict)
    """sequence_ranks, chunks, chunk_tokens, sequences, layers, layout, parts, carry_bytes, ..."""
    cut: str = ""
    """What was left out to keep the trace bounded; "" if nothing."""
