"""Edges on which messages take longer than on others."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from tttscale.observe.hand_overs import HandOvers, lower_median
from tttscale.observe.spans import Trace

ExpectedWire = Callable[[int, int, str], float]
"""(sender, receiver, part) -> seconds that a message should take; ranks in the world."""

_ENOUGH = 2
"""Arrivals that were seen, on an edge that is called slow."""
_FACTOR = 1.5
_LOW = 0.25
"""Quantile of the time from sent to taken: a wire is never longer, so a slow edge has it large throughout."""
_SPREADS = 4.0
"""A slow edge is slower than the others by so many of their median deviations."""


@dataclass(frozen=True)
class SlowEdge:
    """An edge that is slower than the others."""

    sender: int
    receiver: int
    """Indices into the trace's ranks."""
    part: str
    """The part for which the difference is largest."""
    wire_seconds: float
    """What one message of this part takes: median."""
    usual_seconds: float
    """What it takes on the other edges, or what was expected."""
    compared: bool
    """Whether `usual_seconds` is that of other edges; otherwise it was expected."""
    seconds: float
    """How much longer than an ordinary edge it holds up its receiver, in a step."""

    @property
    def factor(self) -> float:
        """How many times longer a message takes."""
        return self.wire_seconds / self.usual_seconds


@dataclass(frozen=True)
class _Wire:
    """One part on one edge, in both directions."""

    sender: int
    receiver: int
    part: str
    seen: int
    median: float
    """Median seconds of the messages that were seen to arrive; NaN if there is none."""
    low: float
    """No message can usually have taken longer than this."""
    exposed: np.ndarray
    same_host: bool

    @property
    def usual(self) -> float:
        """The best that is known of how long a message takes."""
        return float(np.fmin(self.median, self.low))


def slow_edges(
    trace: Trace, found: HandOvers, clock_error_seconds: float, expected: ExpectedWire | None
) -> list[SlowEdge]:
    """Compare every edge with the others between as many hosts; or with what is expected, if there is none.

    Args:
        trace: names the hosts.
        found: its hand-overs.
        clock_error_seconds: smaller differences are not seen.
        expected: what a message should take.
    """
    steps = max(1, len(np.unique(found.step)))
    wires = _wires(trace, found)
    slow: dict[tuple[int, int], list[SlowEdge]] = {}
    for wire in wires:
        others = [
            other.usual
            for other in wires
            if other.part == wire.part
            and other.same_host == wire.same_host
            and (other.sender, other.receiver) != (wire.sender, wire.receiver)
        ]
        usual, spread = _usual(trace, wire, others, expected)
        least = max(_FACTOR * usual, usual + max(_SPREADS * spread, clock_error_seconds))
        if wire.seen >= _ENOUGH and min(wire.median, wire.low) > least:
            excess = np.minimum(wire.exposed, wire.median - usual)
            edge = SlowEdge(
                wire.sender,
                wire.receiver,
                wire.part,
                wire.median,
                max(usual, 1e-9),
                bool(others),
                float(excess.sum()) / steps,
            )
            slow.setdefault((wire.sender, wire.receiver), []).append(edge)
    return [_joined(parts) for parts in slow.values()]


def typical_seconds(found: HandOvers, ranks: int) -> float:
    """For how long messages hold a rank up in a step, without the few that take far longer than the rest."""
    steps = max(1, len(np.unique(found.step)))
    waits = np.minimum(found.exposed_seconds, np.median(found.wire_seconds)) if len(found) else 0.0
    sends = float(np.median(found.send_seconds)) * len(found) if len(found) else 0.0
    return (float(np.sum(waits)) + sends) / steps / ranks


def _wires(trace: Trace, found: HandOvers) -> list[_Wire]:
    wires = []
    hosts = [rank.host for rank in trace.ranks]
    places = np.stack([found.sender, found.receiver, found.part], 1)
    for sender, receiver, part in np.unique(places, axis=0):
        here = (found.sender == sender) & (found.receiver == receiver) & (found.part == part)
        seen = found.wire_seconds[here & found.seen]
        gaps = np.maximum(found.wait_end[here] - found.sent[here], 0.0)
        wires.append(
            _Wire(
                int(sender),
                int(receiver),
                found.parts[part],
                len(seen),
                float(np.median(seen)) if len(seen) else np.nan,
                float(np.quantile(gaps, _LOW)),
                found.exposed_seconds[here],
                hosts[sender] == hosts[receiver],
            )
        )
    return wires


def _usual(
    trace: Trace, wire: _Wire, others: list[float], expected: ExpectedWire | None
) -> tuple[float, float]:
    """What a message takes elsewhere, and how much that differs there."""
    if others:
        usual = lower_median(others)
        return usual, float(np.median([abs(other - usual) for other in others]))
    if expected is None:
        return np.inf, 0.0
    a, b = trace.ranks[wire.sender].rank, trace.ranks[wire.receiver].rank
    return expected(a, b, wire.part), 0.0


def _joined(parts: list[SlowEdge]) -> SlowEdge:
    """One edge of several parts."""
    worst = max(parts, key=lambda part: part.wire_seconds - part.usual_seconds)
    return SlowEdge(
        worst.sender,
        worst.receiver,
        worst.part,
        worst.wire_seconds,
        worst.usual_seconds,
        worst.compared,
        sum(part.seconds for part in parts),
    )
