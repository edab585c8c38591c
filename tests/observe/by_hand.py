"""Spans and traces by hand."""

from tttscale.observe.spans import RankTrace, Span, StepMark, Trace


def send(begin, end, chunk=0, run="forward", layer=0, part="state", sequence=0):
    return Span(begin, end, "send", run, sequence, chunk, layer, part)


def wait(begin, end, chunk=1, run="forward", layer=0, part="state", sequence=0):
    return Span(begin, end, "wait", run, sequence, chunk, layer, part)


def work(begin, end, activity="advance", chunk=0, run="forward", layer=0):
    return Span(begin, end, activity, run, 0, chunk, layer)


def trace(*tracks, end=10.0, begin=0.0, **facts):
    ranks = [
        RankTrace(rank, steps=[StepMark(1, begin, end)], spans=list(spans))
        for rank, spans in enumerate(tracks)
    ]
    return Trace("measured", ranks, facts)
