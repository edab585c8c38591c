"""Keeping a trace small: fewer steps, then short spans joined, and always a word about what was cut."""

from collections.abc import Iterable
from dataclasses import replace

from tttscale.observe.spans import RankTrace, Span, StepMark, Trace

MIXED = "mixed"
"""Activity of spans that were joined although no activity has the larger part of their time."""
_FIRST_SECONDS = 1e-6
_DOUBLINGS = 48


def bounded(trace: Trace, max_spans: int, max_samples: int) -> Trace:
    """Return the trace, or one like it that has no more than so many entries.

    Later steps are left out first, down to one; then neighbouring short spans of a chunk become one, with the
    activity that has most of their time. The times of all other spans stay what they are.

    Args:
        trace: stays as it is.
        max_spans: of all ranks together, and as many reads.
        max_samples: of memory, of all ranks together.
    """
    cut = [trace.cut] if trace.cut else []
    ranks = trace.ranks
    while _count(ranks) > max_spans and (steps := _steps(ranks))[1:]:
        kept = max(1, min(len(steps) - 1, len(steps) * max_spans // _count(ranks)))
        ranks = [_until(rank, steps[kept - 1]) for rank in ranks]
        left_out = _numbers(steps[kept:])
        cut.append(f"{left_out} left out, to stay below {max_spans:,} spans")
    full, whole, doublings = ranks, _count(ranks), 0
    seconds = _shortest_that_must_go(ranks, whole - max_spans) if whole > max_spans else 0.0
    while _count(ranks) > max_spans and doublings < _DOUBLINGS:
        ranks = [
            replace(rank, spans=joined(rank.spans, seconds, across=False), reads=[])
            for rank in full
        ]
        if _count(ranks) > max_spans:
            ranks = [replace(r, spans=joined(r.spans, seconds, across=True)) for r in ranks]
        seconds, doublings = seconds * 2, doublings + 1
    if doublings:
        cut.append(
            f"spans shorter than {seconds / 2 * 1e6:,.0f} us joined with their neighbours: "
            f"{whole:,} became {_count(ranks):,}"
        )
        share = max(1, max_spans // max(1, len(ranks)))
        ranks = [replace(r, reads=full[i].reads[:share]) for i, r in enumerate(ranks)]
    share = max(2, max_samples // max(1, len(ranks)))
    ranks = [replace(rank, memory=peaks(rank.memory, share)) for rank in ranks]
    return replace(trace, ranks=ranks, cut="; ".join(dict.fromkeys(cut)))


def _shortest_that_must_go(ranks: list[RankTrace], count: int) -> float:
    """Return the length of spans below which so many are, at least a microsecond; or that of all of them."""
    lengths = sorted(span.end - span.begin for rank in ranks for span in rank.spans)
    return max(_FIRST_SECONDS, lengths[min(count, len(lengths) - 1)]) if lengths else _FIRST_SECONDS


def joined(spans: Iterable[Span], seconds: float, *, across: bool) -> list[Span]:
    """Return spans of which neighbours shorter than `seconds` are one.

    Args:
        spans: of a rank, in order.
        seconds: what is at least as long stays as it is, and a joined span ends when it is as long.
        across: also join those of different chunks.
    """
    found: list[Span] = []
    short: list[Span] = []
    for span in spans:
        is_short = span.end - span.begin < seconds
        if short and (
            not is_short
            or (not across and _task(span) != _task(short[0]))
            or span.end - short[0].begin > 2 * seconds
        ):
            found.append(_one(short))
            short = []
        if is_short:
            short.append(span)
        else:
            found.append(span)
    return [*found, _one(short)] if short else found


def peaks(samples: list[tuple[float, int]], most: int) -> list[tuple[float, int]]:
    """Return at most so many samples: of each stretch of time the largest."""
    if len(samples) <= most:
        return samples
    begin, end = samples[0][0], samples[-1][0]
    width = (end - begin) / most or 1.0
    best: dict[int, tuple[float, int]] = {}
    for sample in samples:
        place = min(most - 1, int((sample[0] - begin) / width))
        if place not in best or sample[1] > best[place][1]:
            best[place] = sample
    return list(best.values())


def _task(span: Span) -> tuple[str, int, int]:
    return span.run, span.sequence, span.chunk


def _one(spans: list[Span]) -> Span:
    if len(spans) == 1:
        return spans[0]
    times: dict[str, float] = {}
    for span in spans:
        times[span.activity] = times.get(span.activity, 0.0) + span.end - span.begin
    activity = max(times, key=lambda name: times[name])
    if times[activity] * 2 < sum(times.values()):
        activity = MIXED
    first = spans[0]
    same = {
        name: getattr(first, name)
        for name in ("run", "sequence", "chunk", "layer")
        if all(getattr(span, name) == getattr(first, name) for span in spans)
    }
    return Span(first.begin, spans[-1].end, activity, **same)


def _count(ranks: list[RankTrace]) -> int:
    return sum(max(len(rank.spans), len(rank.reads)) for rank in ranks)


def _steps(ranks: list[RankTrace]) -> list[int]:
    return sorted({mark.step for rank in ranks for mark in rank.steps})


def _until(rank: RankTrace, last: int) -> RankTrace:
    """Return what a rank did until the end of a step."""
    marks: list[StepMark] = [mark for mark in rank.steps if mark.step <= last]
    end = max((mark.end for mark in marks), default=0.0)
    return replace(
        rank,
        steps=marks,
        spans=[span for span in rank.spans if span.begin < end],
        reads=[span for span in rank.reads if span.begin < end],
        memory=[sample for sample in rank.memory if sample[0] <= end],
    )


def _numbers(steps: list[int]) -> str:
    return f"step {steps[0]}" if len(steps) == 1 else f"steps {steps[0]} to {steps[-1]}"
