"""Costs of this machine, read off the traces of its own steps, for the simulator."""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from tttscale.observe.overlap import Overlap
from tttscale.observe.spans import Span, Trace
from tttscale.plan.costs import Costs, Line, StepCosts, Wire

_OF_A_LAYER = ("project", "advance", "readout", "finish")
_OF_THE_ENDS = ("embed", "head")
_FAST = 1e12
"""Bytes per second of a wire whose messages take the same time whatever their length."""


class _Part(NamedTuple):
    """All that one activity took in one run of a chunk in one layer."""

    kind: str
    """Kind of the layer; "" for embed and head."""
    what: str
    """RUN.ACTIVITY."""
    tokens: int
    seconds: float


def fit(
    traces: Sequence[tuple[Trace, Overlap]], kinds: tuple[str, ...], part_bytes: dict[str, int]
) -> Costs:
    """Fit costs to what was measured.

    Of one chunk length a cost is in proportion to the tokens. Of two it has a fixed part as well: how large a
    part, the fastest runs say, since other programs only ever make a run slower. All costs are such that the
    first trace's mean comes out.

    Args:
        traces: with their analyses, the run's own first; all of one model, precision and batch on the same
            ranks.
        kinds: the kind of each layer, first to last.
        part_bytes: length of the message of each part of a carry.
    """
    layers: dict[str, dict[str, Line]] = {kind: {} for kind in kinds}
    ends: dict[str, Line] = {}
    samples: dict[tuple[str, str], dict[int, list[float]]] = defaultdict(lambda: defaultdict(list))
    own: dict[tuple[str, str], list[_Part]] = defaultdict(list)
    for number, (trace, _) in enumerate(traces):
        for part in _parts(trace, kinds):
            samples[part.kind, part.what][part.tokens].append(part.seconds)
            if number == 0:
                own[part.kind, part.what].append(part)
    for (kind, what), by_tokens in samples.items():
        shape = Line.through({n: _quick(seconds) for n, seconds in by_tokens.items()})
        parts = own[kind, what]
        if not parts:
            continue
        usual = sum(shape.seconds(part.tokens) for part in parts)
        level = sum(part.seconds for part in parts) / usual if usual > 0 else 1.0
        scaled = Line(shape.fixed * level, shape.per_token * level)
        (layers[kind] if kind else ends)[what] = scaled
    sends = [one for _, found in traces for one in found.total if one.count]
    messages = sum(one.count for one in sends)
    send = Line(sum(one.send_seconds for one in sends) / messages, 0.0) if messages else Line(0, 0)
    for lines in layers.values():
        lines |= {"forward.send": send, "backward.send": send}
    near, far, source = _wires(traces, part_bytes)
    lengths = sorted({n for by_tokens in samples.values() for n in by_tokens}, reverse=True)
    origin = traces[0][0].origin
    return Costs(
        source=f"{origin} here, on chunks of {' and '.join(f'{n:,}' for n in lengths)} tokens{source}",
        kinds=kinds,
        layers=layers,
        ends=ends,
        same_host=near,
        between_hosts=far,
        step_seconds=StepCosts(Wire(0.0, _FAST), Wire(0.0, _FAST), 0.0, _outside(traces[0][1])),
        splits=_splits(traces[0][0]),
    )


def kept_chunks(trace: Trace) -> dict[int, float]:
    """Count, by place among the sequence ranks, the own chunks that were not recomputed in a step.

    A chunk of which some layers were not counts as their share.
    """
    size = int(trace.facts["sequence_ranks"])
    found = {}
    for rank in trace.ranks[:size]:
        ran, again = (
            {(s.sequence, s.chunk, s.layer) for s in rank.spans if s.run == run and s.layer >= 0}
            for run in ("forward", "recompute")
        )
        found[rank.rank % size] = len(ran - again) / int(trace.facts["layers"])
    return found


def _parts(trace: Trace, kinds: tuple[str, ...]) -> Iterator[_Part]:
    facts = trace.facts
    chunk_tokens, all_tokens = int(facts["chunk_tokens"]), int(facts["sequence_tokens"])
    for rank in trace.ranks:
        for (_, run, _, chunk, layer, activity), seconds in _sums(rank.spans, rank.steps).items():
            tokens = min(chunk_tokens, all_tokens - chunk * chunk_tokens)
            yield _Part(kinds[layer] if layer >= 0 else "", f"{run}.{activity}", tokens, seconds)


def _sums(spans: list[Span], steps: Sequence[tuple[int, float, float]]) -> dict[tuple, float]:
    """Seconds of a rank by (step, run, sequence, chunk, layer, activity); work only."""
    sums: dict[tuple, float] = defaultdict(float)
    place = 0
    for span in spans:
        while place < len(steps) and span.begin >= steps[place][2]:
            place += 1
        if place == len(steps) or span.begin < steps[place][1] or span.chunk < 0 or not span.run:
            continue
        is_end = span.activity in _OF_THE_ENDS
        if is_end or (span.activity in _OF_A_LAYER and span.layer >= 0):
            layer = -1 if is_end else span.layer
            key = place, span.run, span.sequence, span.chunk, layer, span.activity
            sums[key] += span.end - span.begin
    return sums


def _wires(
    traces: Sequence[tuple[Trace, Overlap]], part_bytes: dict[str, int]
) -> tuple[Wire, Wire, str]:
    """The links inside a host and between hosts; and a word on what they rest on."""
    found: list[list[tuple[int, float]]] = [[], []]
    for trace, overlap in traces:
        edges = overlap.hand_overs.sums("sender", "receiver", "backward", "part", steps=1)
        for edge in edges:
            if edge.wire_median_seconds is not None and edge.part in part_bytes:
                far = trace.ranks[edge.sender].host != trace.ranks[edge.receiver].host
                found[far].append((part_bytes[edge.part], edge.wire_median_seconds))
    near, far = (_wire(samples) for samples in found)
    if near is None and far is None:
        return _NEAR, _FAR, f"; no message was seen on its way, {_ASSUMED}"
    known = near or far
    assert known is not None
    return near or known, far or known, ""


_NEAR, _FAR = Wire(50e-6, 5e9), Wire(100e-6, 1e9)
_ASSUMED = "so a wire is assumed: 5 GB/s after 50 us in a host, 1 GB/s after 100 us between hosts"


def _wire(samples: list[tuple[int, float]]) -> Wire | None:
    """A link from messages of several lengths; medians over edges."""
    if not samples:
        return None
    by_size: dict[int, float] = {
        size: sorted(s for n, s in samples if n == size)[sum(n == size for n, _ in samples) // 2]
        for size, _ in samples
    }
    fitted = Line.through(by_size) if len(by_size) > 1 else Line(next(iter(by_size.values())), 0.0)
    return Wire(fitted.fixed, 1 / fitted.per_token if fitted.per_token > 0 else _FAST)


def _outside(found: Overlap) -> float:
    """Seconds of a step beside its sweeps."""
    return found.mean("outside_seconds") + found.mean("data_seconds")


def _splits(trace: Trace) -> dict[str, dict[str, float]]:
    """What share of PROJECT came before each part that was exchanged inside it: a mean."""
    shares: dict[tuple[str, str], list[float]] = defaultdict(list)
    for rank in trace.ranks:
        place, before, marks = None, 0.0, {}
        for span in rank.spans:
            if (here := (span.run, span.sequence, span.chunk, span.layer)) != place:
                _note(shares, place, before, marks)
                place, before, marks = here, 0.0, {}
            if span.activity == "project":
                before += span.end - span.begin
            elif span.activity in ("wait", "send") and span.part:
                marks.setdefault(span.part, before)
        _note(shares, place, before, marks)
    found: dict[str, dict[str, float]] = {"forward": {}, "backward": {}}
    for (run, part), values in shares.items():
        found[run][part] = _mean(values)
    return found


def _note(
    shares: dict[tuple[str, str], list[float]],
    place: tuple | None,
    total: float,
    marks: dict[str, float],
) -> None:
    """Note where in the PROJECT of one layer parts were exchanged; the last part lies outside of it."""
    if place is None or place[0] not in ("forward", "backward") or total <= 0:
        return
    for part, before in marks.items():
        share = before / total
        if 0 < share < 1:
            shares[place[0], part].append(share)


def _quick(seconds: list[float]) -> float:
    """The time that a tenth of the runs did not need."""
    return sorted(seconds)[len(seconds) // 10]


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
