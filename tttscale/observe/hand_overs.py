"""Every send of a trace matched with its wait, and four times of each such hand-over."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from tttscale.observe.span_table import BACKWARD, FORWARD, SpanTable, key_of, medians

Direction = Literal["states", "gradients"]
_RESOLUTION_SECONDS = 20e-6
"""A shorter wait says nothing about when a message came: looking for it takes that long."""
_SEEN_SHARE = 0.1
"""A message whose wait was a smaller part of the time since it was sent had come before the wait."""
_ENOUGH = 3


@dataclass(frozen=True)
class HandOvers:
    """Hand-overs between ranks: one entry of every array for each. All times are in seconds.

    A wait is either for the sender (`upstream_seconds`) or for the wire (`exposed_seconds`), and the wire
    is either waited for or hidden under the receiver's compute (`hidden_seconds`).
    """

    step: np.ndarray
    """Index into the trace's steps."""
    sender: np.ndarray
    receiver: np.ndarray
    """Indices into the trace's ranks."""
    backward: np.ndarray
    """bool: a gradient, and not a state."""
    sequence: np.ndarray
    boundary: np.ndarray
    layer: np.ndarray
    part: np.ndarray
    """Code: index into `parts`."""
    sent: np.ndarray
    """When the sender had it and began to send."""
    wait_begin: np.ndarray
    wait_end: np.ndarray
    upstream_seconds: np.ndarray
    """The receiver waited, and the sender was not done."""
    wire_seconds: np.ndarray
    """From `sent` until the receiver had it: packing, the network, unpacking.

    When the receiver did not wait (`seen` is False), its arrival is not seen: then this is the median of what
    was seen on the same edge for the same part (or on all edges, if none was seen there), and never more
    than the time between `sent` and the end of the wait.
    """
    hidden_seconds: np.ndarray
    """The part of the wire during which the receiver computed."""
    exposed_seconds: np.ndarray
    """The part of the wire during which the receiver waited."""
    send_seconds: np.ndarray
    """How long sending held up the sender."""
    seen: np.ndarray
    """bool: the receiver was waiting when it arrived, so `wire_seconds` is measured."""
    parts: list[str]
    unmatched: int
    """Waits without a send: what was sent is not in the trace. They count as upstream waits of their rank."""
    inverted: int
    """Messages that were received before they were sent: as far as clocks are wrong."""

    def __len__(self) -> int:
        return len(self.step)

    def take(self, chosen: np.ndarray) -> "HandOvers":
        """Return some of the hand-overs."""
        columns = {
            name: value[chosen]
            for name, value in vars(self).items()
            if isinstance(value, np.ndarray)
        }
        return replace(self, **columns)

    def sums(self, *by: str, steps: int) -> list["HandOverSums"]:
        """Add the times up by any of sender, receiver, backward, layer and part.

        Args:
            by: names of columns.
            steps: how many optimizer steps the trace has.

        Returns:
            One entry for each group, in order; seconds are those of one step.
        """
        if not len(self):
            return []
        columns = [getattr(self, name) for name in by]
        _, first, group = np.unique(
            key_of(*columns) if by else np.zeros(len(self), int),
            return_index=True,
            return_inverse=True,
        )
        counts = np.bincount(group)
        seen = np.bincount(group, self.seen).astype(int)
        wires = medians(group[self.seen], self.wire_seconds[self.seen], len(first))
        names = ("upstream", "wire", "hidden", "exposed", "send")
        times = {
            f"{name}_seconds": np.bincount(group, getattr(self, f"{name}_seconds")) / steps
            for name in names
        }
        found = []
        for index, row in enumerate(first):
            place = {name: int(getattr(self, name)[row]) for name in by}
            found.append(
                HandOverSums(
                    sender=place.get("sender", -1),
                    receiver=place.get("receiver", -1),
                    direction=_direction(place.get("backward")),
                    layer=place.get("layer", -1),
                    part=self.parts[place["part"]] if "part" in place else "",
                    count=int(counts[index]) // steps,
                    seen=int(seen[index]) // steps,
                    wire_median_seconds=None if np.isnan(wires[index]) else float(wires[index]),
                    **{name: float(values[index]) for name, values in times.items()},
                )
            )
        return found


@dataclass(frozen=True)
class HandOverSums:
    """Hand-overs of one edge, layer, direction or part, or of all that are not told apart; for one step."""

    sender: int
    receiver: int
    """Ranks' indices in the trace; -1: all."""
    direction: Direction | None
    """None: both."""
    layer: int
    """-1: all."""
    part: str
    """"": all."""
    count: int
    """Messages in a step."""
    seen: int
    """How many of the messages arrived while the receiver was waiting."""
    wire_median_seconds: float | None
    """One message's time from sent to received: median of the seen ones; None if none was."""
    upstream_seconds: float
    """The four times and the sender's own, summed over the messages of a step; see `HandOvers`."""
    wire_seconds: float
    hidden_seconds: float
    exposed_seconds: float
    send_seconds: float


def _direction(backward: int | None) -> Direction | None:
    if backward is None:
        return None
    return "gradients" if backward else "states"


def hand_overs(table: SpanTable) -> HandOvers:
    """Match every send with its wait."""
    moving = (table.step >= 0) & np.isin(table.run, (FORWARD, BACKWARD))
    moved = table.take(moving & table.of("wait", "send"))
    key = key_of(
        *(moved.replica, moved.step, moved.run, moved.sequence),
        *(moved.boundary, moved.layer, moved.part),
    )
    is_wait = moved.of("wait")
    waits, sends = np.flatnonzero(is_wait), np.flatnonzero(~is_wait)
    sent_keys, first = np.unique(key[sends], return_index=True)
    place = np.searchsorted(sent_keys, key[waits])
    place[place == len(sent_keys)] = 0
    there = sent_keys[place] == key[waits] if len(sends) else np.zeros(len(waits), bool)
    wait = waits[there]
    send = sends[first[place[there]]] if len(sends) else wait
    other = moved.rank[wait] != moved.rank[send]
    return _timed(moved, send[other], wait[other], int((~there).sum()))


def _timed(moved: SpanTable, send: np.ndarray, wait: np.ndarray, unmatched: int) -> HandOvers:
    sent, begin, end = moved.begin[send], moved.begin[wait], moved.end[wait]
    upstream = (np.minimum(sent, end) - begin).clip(0)
    exposed = (end - begin) - upstream
    gap = np.maximum(end - sent, exposed)
    backward, part = moved.run[wait] == BACKWARD, moved.part[wait]
    sender, receiver = moved.rank[send], moved.rank[wait]
    edge = np.unique(key_of(sender, receiver, backward, part), return_inverse=True)[1]
    certain = (sent > begin) & (sent < end)
    usual = _usual(certain, gap, edge, part)
    least = np.fmax(_RESOLUTION_SECONDS, usual / 2)
    seen = certain | ((exposed > least) & (exposed > _SEEN_SHARE * gap))
    usual = np.nan_to_num(_usual(seen, gap, edge, part))
    wire = np.where(seen, gap, np.minimum(gap, np.maximum(exposed, usual)))
    return HandOvers(
        step=moved.step[wait],
        sender=sender,
        receiver=receiver,
        backward=backward,
        sequence=moved.sequence[wait],
        boundary=moved.boundary[wait],
        layer=moved.layer[wait],
        part=part,
        sent=sent,
        wait_begin=begin,
        wait_end=end,
        upstream_seconds=upstream,
        wire_seconds=wire,
        hidden_seconds=wire - exposed,
        exposed_seconds=exposed,
        send_seconds=moved.seconds[send],
        seen=seen,
        parts=moved.parts,
        unmatched=unmatched,
        inverted=int((sent > end).sum()),
    )


def _usual(chosen: np.ndarray, gap: np.ndarray, edge: np.ndarray, part: np.ndarray) -> np.ndarray:
    """The median wire of the chosen hand-overs on each one's edge; with few there, of its part on all."""
    edges = int(edge.max(initial=-1)) + 1
    parts = int(part.max(initial=-1)) + 1
    enough = np.bincount(edge[chosen], minlength=edges) >= _ENOUGH
    here = medians(edge[chosen], gap[chosen], edges)
    everywhere = medians(part[chosen], gap[chosen], parts)
    return np.where(enough[edge], here[edge], everywhere[part])


def reference_wires(found: HandOvers) -> dict[str, float]:
    """Seconds of a message on an ordinary edge, by part: the lower median of the edges' medians."""
    wires: dict[str, list[float]] = {}
    for edge in found.sums("sender", "receiver", "part", steps=1):
        if edge.wire_median_seconds is not None:
            wires.setdefault(edge.part, []).append(edge.wire_median_seconds)
    return {part: lower_median(values) for part, values in wires.items()}


def lower_median(values: Sequence[float]) -> float:
    """The middle value, or the lower one of two."""
    return sorted(values)[(len(values) - 1) // 2]
