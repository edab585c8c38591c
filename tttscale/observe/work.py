"""What ranks compute, and how fast: the work of a step, its serial chain, and a rank that is slower."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from tttscale.observe.hand_overs import HandOvers, reference_wires
from tttscale.observe.span_table import (
    BACKWARD,
    COMPUTE,
    FORWARD,
    RECOMPUTE,
    SpanTable,
    key_of,
    medians,
    typical_sum,
)

_LEAST_EXCESS = 0.1
"""A rank that is slower by less is none that anybody should look for."""
_SEVERAL = 3
"""Steps, or chunks if there are fewer steps: a straggler is slower in three quarters of them."""
_SURE = 4.0
"""A difference is real if it is more than so many standard errors."""
_RANKS_SURE = 2.0
"""A rank differs from the others by more than so many of their standard deviations."""
_ERROR_OF_MEDIAN = 1.2533 * 1.4826
"""From a median absolute deviation to the standard error of a median, times the root of the count."""


@dataclass(frozen=True)
class Straggler:
    """The rank that takes longest for the same work."""

    rank: int
    """Index into the trace's ranks."""
    factor: float
    """Its time for a layer of a chunk, over that of the other ranks."""
    seconds: float
    """How much longer its own compute is in a step than it would be at the others' speed."""


def straggler(table: SpanTable, facts: dict[str, Any]) -> Straggler | None:
    """The rank whose compute is slowest for the same work; None if the difference is within the noise.

    The work that is compared is one layer of one chunk in one of its runs, by the median over chunks, so
    that a rank with more chunks is not slower for that. A rank that was slower for a while only is none.

    Args:
        table: of any number of steps.
        facts: of the trace.
    """
    steps = np.unique(table.step[table.step >= 0])
    whole = _Speeds(table, facts)
    if np.isnan(whole.factors).all():
        return None
    rank = int(np.nanargmax(whole.factors))
    factor, noise = float(whole.factors[rank]), whole.noise(rank)
    surely = factor - _SURE * whole.difference_of_kinds(rank)
    if len(steps) >= _SEVERAL:
        several = sorted(
            _Speeds(table.take(table.step == step), facts).factor(rank) for step in steps
        )
        factor = several[(len(several) - 1) // 2]
    else:
        several = whole.factors_of_chunks(rank)
    if len(several) >= _SEVERAL:
        surely, noise = several[len(several) // 4], max(noise, _LEAST_EXCESS)
    if not (surely > 1 + noise and factor > 1 + _LEAST_EXCESS):
        return None
    compute = table.of(*COMPUTE) & (table.rank == rank) & (table.step >= 0)
    total = float(table.seconds[compute].sum()) / len(steps)
    return Straggler(rank, factor, total * (1 - 1 / factor))


class _Speeds:
    """How long each rank takes for each kind of work, compared with the others."""

    def __init__(self, table: SpanTable, facts: dict[str, Any]) -> None:
        ranks, kinds, self._chunks, seconds = _units(table, facts)
        self._ranks, self._kinds, self._seconds = ranks, kinds, seconds
        shape = int(ranks.max(initial=-1)) + 1, int(kinds.max(initial=-1)) + 1
        group = ranks * shape[1] + kinds
        self._typical = medians(group, seconds, shape[0] * shape[1]).reshape(shape)
        self._of_unit = self._typical.ravel()[group]
        self._expected = _of_others(self._typical)
        both = np.isfinite(self._typical) & np.isfinite(self._expected)
        often = np.bincount(kinds, minlength=shape[1])
        own = np.where(both, self._typical * often, 0).sum(1)
        others = np.where(both, self._expected * often, 0).sum(1)
        self.factors = np.divide(own, others, out=np.full(shape[0], np.nan), where=others > 0)
        """Time for a step's work over that of the other ranks; NaN where nothing can be compared."""

    def factor(self, rank: int) -> float:
        """One rank's factor; NaN if it has no work."""
        return float(self.factors[rank]) if rank < len(self.factors) else np.nan

    def factors_of_chunks(self, rank: int) -> list[float]:
        """A rank's factor in each of its chunks, in order of size."""
        expected = self._expected[rank, self._kinds]
        mine = (self._ranks == rank) & (expected > 0)
        _, chunk = np.unique(self._chunks[mine], return_inverse=True)
        own, others = (np.bincount(chunk, x[mine]) for x in (self._seconds, expected))
        return sorted((own / others).tolist())

    def noise(self, rank: int) -> float:
        """How far a factor may be from 1 by chance: as chunks of one rank differ, and as other ranks do."""
        rest = np.delete(self.factors, rank)
        rest = rest[np.isfinite(rest)]
        spread = 1.4826 * float(np.median(np.abs(rest - np.median(rest)))) if len(rest) else 0.0
        return max(_RANKS_SURE * spread, _SURE * self._difference_of_chunks(rank))

    def _difference_of_chunks(self, rank: int) -> float:
        """Standard error of a factor, from how much chunks differ on one and the same rank."""
        some = self._of_unit > 0
        if not some.any():
            return 0.0
        deviation = float(np.median(np.abs(self._seconds[some] / self._of_unit[some] - 1)))
        own = int((self._ranks == rank).sum())
        others = len(self._ranks) - own
        return _ERROR_OF_MEDIAN * deviation * (1 / max(1, own) + 1 / max(1, others)) ** 0.5

    def difference_of_kinds(self, rank: int) -> float:
        """Standard error of a factor, from how much it differs between kinds of work."""
        own, others = self._typical[rank], self._expected[rank]
        some = np.isfinite(own) & (others > 0)
        if not some.any():
            return 0.0
        ratios = own[some] / others[some]
        deviation = float(np.median(np.abs(ratios - np.median(ratios))))
        return _ERROR_OF_MEDIAN * deviation / len(ratios) ** 0.5


def _units(
    table: SpanTable, facts: dict[str, Any]
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Rank, kind of work, chunk and seconds of every layer of every chunk, in each of its runs.

    A layer that is not recomputed builds its graph in the forward, which is work of another kind.
    """
    inside = (table.step >= 0) & (table.layer >= 0) & table.of(*COMPUTE)
    if has_short_chunk(facts):
        inside &= table.chunk < int(facts["chunks"]) - 1
    work = table.take(inside)
    if not len(work.begin):
        return work.rank, work.rank, work.rank, work.begin
    layer = key_of(work.rank, work.step, work.sequence, work.chunk, work.layer)
    again = np.isin(layer, layer[work.run == RECOMPUTE])
    kind = key_of(work.run, again, work.layer)
    _, first, unit = np.unique(key_of(layer, work.run), return_index=True, return_inverse=True)
    _, kinds = np.unique(kind, return_inverse=True)
    chunk = key_of(work.rank, work.step, work.sequence, work.chunk)
    return work.rank[first], kinds[first], chunk[first], np.bincount(unit, work.seconds)


def has_short_chunk(facts: dict[str, Any]) -> bool:
    """Whether a sequence's last chunk is shorter than the others."""
    tokens, chunk = facts.get("sequence_tokens"), facts.get("chunk_tokens")
    return bool(tokens and chunk and "chunks" in facts and tokens % chunk)


def _of_others(typical: np.ndarray) -> np.ndarray:
    """For each rank [R, kinds], the median of the other ranks; NaN where no other has such work."""
    found = np.full_like(typical, np.nan)
    for rank in range(len(typical)):
        others = np.delete(typical, rank, axis=0)
        some = np.isfinite(others).any(0)
        found[rank, some] = np.nanmedian(others[:, some], axis=0)
    return found


@dataclass(frozen=True)
class Chain:
    """The longest serial chain of a step: one layer through a sequence, forward and backward."""

    seconds: float
    """All of it."""
    layer: int
    advance_seconds: float
    """Seconds of the chain in which ranks compute; the rest is the wire."""
    crossings: int
    """Hand-overs to another rank on the way."""
    forward_advance_seconds: float
    """One chunk's advance of one layer: median over chunks and layers."""
    backward_advance_seconds: float
    wire_seconds: float
    """A state's and a gradient's hand-over on an ordinary edge."""
    sequence: int = -1
    """The one that it goes through."""


def chain(table: SpanTable, found: HandOvers) -> Chain:
    """Add up the advances of each layer through each sequence, and the wires that they need.

    Args:
        table: of one step and one replica.
        found: of the same.
    """
    wire_seconds = max(reference_wires(found).values(), default=0.0)
    work = table.take(
        table.of("advance") & (table.step >= 0) & np.isin(table.run, (FORWARD, BACKWARD))
    )
    if not len(work.begin):
        return Chain(0.0, -1, 0.0, 0, 0.0, 0.0, 0.0)
    messages, wires = handed_on(found)
    places, group = np.unique(np.stack([work.sequence, work.layer], 1), axis=0, return_inverse=True)
    advances = np.bincount(group.ravel(), work.seconds)
    crossings, wire = np.zeros(len(places), int), np.zeros(len(places))
    for index, (sequence, layer) in enumerate(places):
        own = (messages.sequence == sequence) & (messages.layer == layer)
        crossings[index], wire[index] = own.sum(), wires[own].sum()
        mine = group.ravel() == index
        if not own.any() and len(np.unique(work.rank[mine])) > 1:
            advances[index] = 0.0  # nothing is handed on: the ranks do not depend on each other
    longest = int((advances + wire).argmax())
    return Chain(
        float(advances[longest] + wire[longest]),
        int(places[longest][1]),
        float(advances[longest]),
        int(crossings[longest]),
        _typical(work, FORWARD),
        _typical(work, BACKWARD),
        2 * wire_seconds,
        int(places[longest][0]),
    )


def handed_on(found: HandOvers) -> tuple[HandOvers, np.ndarray]:
    """The hand-overs that advances wait for: the last part of a layer's carry, its gradient's first.

    Args:
        found: of one step.

    Returns:
        One for each boundary, layer and direction; and seconds of each, no more than on an ordinary edge.
    """
    usual = reference_wires(found)
    rows = np.arange(len(found))
    early = np.where(found.backward, -1, 1)
    groups = key_of(found.step, found.sequence, found.backward, found.boundary, found.layer)
    order = np.lexsort((early * rows, early * found.wait_begin, groups))
    last = np.append(groups[order][1:] != groups[order][:-1], True)[: len(order)]
    chosen = found.take(order[last])
    ordinary = np.array([usual.get(part, 0.0) for part in found.parts])
    if not len(chosen):
        return chosen, chosen.wire_seconds
    return chosen, np.minimum(chosen.wire_seconds, ordinary[chosen.part])


def _typical(advances: SpanTable, run: int) -> float:
    """Seconds of one advance: a chunk's may be in several pieces, so by chunk and layer."""
    chosen = advances.take(advances.run == run)
    units = key_of(chosen.step, chosen.sequence, chosen.chunk, chosen.layer)
    return typical_sum(units, chosen.seconds)
