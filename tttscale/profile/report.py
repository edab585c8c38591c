"""What a profile found, as plain values: report.json has them, report.md and the page show them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from tttscale.observe.causes import Cause
from tttscale.observe.hand_overs import HandOverSums
from tttscale.observe.overlap import Overlap, RankTimes, StepTimes
from tttscale.observe.spans import Trace
from tttscale.plan.simulate import Simulation
from tttscale.profile.advice import Advice

FORMAT = 1
_PARTS = {
    "compute": "computing",
    "ramp": "the ramp",
    "starved": "starvation (waits for a rank that is not done)",
    "exposed": "exposed communication",
    "data": "waiting for tokens",
    "rest": "optimizer and the rest",
}
_MOST_CELLS = 60_000
"""Edges times layers times directions that are listed one by one."""
_NO_SECONDS = 5e-10
"""Less than this is rounding."""
_STEADY = 0.1
"""Traced steps that differ by more are said to."""
_SEEN_GAIN = 0.02
"""A change that promises less is not in the verdict."""


@dataclass(frozen=True)
class Prediction:
    """What the simulator makes of the run's own setting and its neighbours."""

    simulation: Simulation
    trace: Trace
    """A whole step."""
    advice: Sequence[Advice]
    source: str
    """What its costs rest on."""
    peak_bytes: int | None = None
    """Memory of the rank that needs most; None if that is not known."""


def make_report(
    trace: Trace,
    found: Overlap,
    causes: Sequence[Cause],
    prediction: Prediction | None = None,
    notes: Sequence[str] = (),
) -> dict[str, Any]:
    """Put the report together.

    Args:
        trace: of all ranks, whole; its facts say `run` and, if known, `tokens_per_step` and `part_bytes`.
        found: its analysis.
        causes: most costly first.
        prediction: None if nothing could be simulated.
        notes: how it was measured.

    Returns:
        Values that JSON carries; all seconds are those of one step, a mean over the traced steps.
    """
    size = int(trace.facts.get("part_bytes", {}) != {})
    return {
        "format": FORMAT,
        "run": str(trace.facts.get("run", "a run")),
        "origin": trace.origin,
        "facts": trace.facts,
        "facts_line": facts_line(trace),
        "verdict": _verdict(found, causes, prediction),
        "headline": _headline(trace, found, prediction),
        "steps": [_step(step) for step in found.steps],
        "rank_seconds": _rank_seconds(trace, found),
        "ranks": _ranks(trace, found),
        "edges": _edges(trace, found, known_sizes=bool(size)),
        "layers": [{"layer": one.layer, **_times(one)} for one in found.layers],
        "cells": _cells(trace, found),
        "comparison": [] if prediction is None else _comparison(trace, found, prediction),
        "causes": [
            f"{cause.evidence[:1].upper()}{cause.evidence[1:]}. Next: {cause.next_step}."
            for cause in causes
        ],
        "cause_values": [vars(cause) for cause in causes],
        "advice": [] if prediction is None else [_advice(one) for one in prediction.advice],
        "advice_note": _advice_note(prediction),
        "cautions": _cautions(found),
        "notes": [*notes, *_trust(found, trace)],
    }


def facts_line(trace: Trace) -> str:
    """Say what ran, in a line."""
    facts, ranks = trace.facts, len(trace.ranks)
    hosts = len({rank.host for rank in trace.ranks if rank.host})
    replicas = len({rank.replica for rank in trace.ranks})
    words = [f"{ranks} rank{'s' * (ranks != 1)}{f' on {hosts} hosts' if hosts > 1 else ''}"]
    if replicas > 1:
        words.append(f"{replicas} replicas of {ranks // replicas}")
    for name, text in (
        ("layout", "{}"),
        ("chunks", "{:,} chunks"),
        ("chunk_tokens", "{:,} tokens each"),
    ):
        if name in facts:
            words.append(text.format(facts[name]))
    if facts.get("sequences", 1) > 1:
        words.append(f"{facts['sequences']} sequences")
    for name, text in (("layers", "{} layers"), ("precision", "{}"), ("device", "{}")):
        if facts.get(name):
            words.append(text.format(facts[name]))
    return ", ".join(words)


def seconds_text(seconds: float, digits: int = 3) -> str:
    """Write a time with a fitting unit."""
    for unit, size in (("s", 1.0), ("ms", 1e-3), ("us", 1e-6)):
        if abs(seconds) >= size:
            return f"{_digits(seconds / size, digits)} {unit}"
    return f"{_digits(seconds * 1e9, digits)} ns" if abs(seconds) >= _NO_SECONDS else "0"


def share_text(share: float) -> str:
    """Write a share in per cent."""
    return f"{share:.0%}".replace("%", " %") if share >= 0.0995 else f"{share * 100:.1f} %"


def size_text(count: float) -> str:
    """Write a number of bytes with a fitting unit."""
    for unit, size in (("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)):
        if count >= size:
            return f"{_digits(count / size, 3)} {unit}"
    return f"{count:.0f} B"


def _digits(value: float, digits: int) -> str:
    text = f"{value:.{digits}g}"
    return f"{float(text):g}" if "e" in text else text


# ---- headline and verdict ----------------------------------------------------------------------


def _headline(trace: Trace, found: Overlap, prediction: Prediction | None) -> list[dict[str, str]]:
    step = found.mean("seconds")
    if not found.steps or not step:
        return []
    times = [one.seconds for one in found.steps]
    spread = f"{len(times)} step{'s' * (len(times) > 1)}"
    if len(times) > 1:
        spread += f", {seconds_text(min(times))} to {seconds_text(max(times))}"
    tokens = trace.facts.get("tokens_per_step")
    if tokens:
        spread = f"{tokens / step:,.0f} tokens/s; {spread}"
    ramp, starved = found.mean("ramp_seconds") / step, found.mean("starved_seconds") / step
    exposed = found.mean("exposed_seconds")
    wire = sum(one.wire_seconds for one in found.total) / len(trace.ranks)
    hidden = sum(one.hidden_seconds for one in found.total) / len(trace.ranks)
    under = f"; {share_text(hidden / wire)} of the wire is hidden" if wire > 0 else ""
    possible = found.mean("possible_step_seconds")
    cards = [
        _card("step", seconds_text(step), spread),
        _card(
            "computing",
            share_text(found.mean("compute_seconds") / step),
            "of all ranks' time, recomputation included",
        ),
        _card(
            "bubble",
            share_text(ramp + starved),
            f"ramp {share_text(ramp)}, starvation {share_text(starved)}",
            ramp + starved > 0.1,
        ),
        _card(
            "exposed communication",
            seconds_text(exposed),
            f"{share_text(exposed / step)} of a step{under}",
            exposed > 0.1 * step,
        ),
        _card(
            "possible",
            seconds_text(possible),
            f"max(W/R, chain) + ramp: {share_text(max(0.0, 1 - possible / step))} less",
        ),
        _straggler(trace, found),
    ]
    if prediction is not None:
        predicted = prediction.trace.ranks[0].steps[0].end
        ratio = f"{predicted / step:.3f} of what was {trace.origin}"
        cards.append(_card("predicted step", seconds_text(predicted), ratio))
    peaks = [(size, r.rank) for r in trace.ranks for _, size in r.memory]
    if peaks:
        size, rank = max(peaks)
        cards.append(_card("largest memory", size_text(size), f"rank {rank}"))
    return cards


def _card(name: str, value: str, note: str = "", attention: bool = False) -> dict[str, str]:
    return {"name": name, "value": value, "note": note, "tone": "attention" if attention else ""}


def _straggler(trace: Trace, found: Overlap) -> dict[str, str]:
    slow = found.straggler
    if slow is None:
        return _card("straggler", "none", "no rank is slower at the same work")
    rank = trace.ranks[slow.rank]
    note = f"{slow.factor:.2f} times as long for the same work"
    if rank.host:
        note += f", on {rank.host}"
    return _card("straggler", f"rank {rank.rank}", note, slow.factor > 1.1)


def _verdict(found: Overlap, causes: Sequence[Cause], prediction: Prediction | None) -> str:
    step = found.mean("seconds")
    if not found.steps or not step:
        return "The trace holds no whole step."
    computing = found.mean("compute_seconds") / step
    losses = {name: found.mean(f"{name}_seconds") / step for name in _PARTS if name != "compute"}
    worst = max(losses, key=lambda name: losses[name])
    text = (
        f"A step takes {seconds_text(step)}; the ranks compute for {share_text(computing)} of it."
    )
    if losses[worst] >= 0.005:
        text += f" Most of the rest is {_PARTS[worst]}: {share_text(losses[worst])}."
    faults = [cause for cause in causes if cause.kind != "none"]
    if faults:
        text += f" {faults[0].evidence[:1].upper()}{faults[0].evidence[1:]}."
    changes = (
        []
        if prediction is None
        else [one for one in prediction.advice if one.helps and not one.needs_ranks]
    )
    best = max(changes, key=lambda one: one.gain, default=None)
    if best is not None and best.gain >= _SEEN_GAIN:
        text += f" Best change: {best.change}, {best.text}."
    return text


# ---- tables ------------------------------------------------------------------------------------


def _step(step: StepTimes) -> dict[str, Any]:
    names = ("step", "seconds", "bubble_fraction", "possible_step_seconds", "work_seconds")
    values = {name: getattr(step, name) for name in names}
    values |= {f"{name}_seconds": getattr(step, f"{name}_seconds") for name in _PARTS}
    return values | {"chain_seconds": step.chain.seconds}


def _rank_seconds(trace: Trace, found: Overlap) -> dict[str, list[list[Any]]]:
    """Every rank's seconds in each activity, by step, and as a mean under "all"."""
    tables = {
        str(step.step): [
            [trace.ranks[place].rank, _nonzero(times.activities)]
            for place, times in enumerate(step.ranks)
        ]
        for step in found.steps
    }
    means = []
    for place, rank in enumerate(trace.ranks):
        names = {name for step in found.steps for name in step.ranks[place].activities}
        sums = {
            name: sum(step.ranks[place].activities.get(name, 0.0) for step in found.steps)
            for name in sorted(names)
        }
        count = max(1, len(found.steps))
        means.append([rank.rank, _nonzero({name: value / count for name, value in sums.items()})])
    return tables | {"all": means}


def _nonzero(values: dict[str, float]) -> dict[str, float]:
    return {name: float(f"{value:.6g}") for name, value in values.items() if value > 1e-9}


def _ranks(trace: Trace, found: Overlap) -> list[dict[str, Any]]:
    count = max(1, len(found.steps))
    rows = []
    for place, rank in enumerate(trace.ranks):
        own: list[RankTimes] = [step.ranks[place] for step in found.steps]
        times = {
            f"{name}_seconds": sum(getattr(one, f"{name}_seconds") for one in own) / count
            for name in _PARTS
        }
        peak = max((size for _, size in rank.memory), default=0)
        rows.append(
            {"rank": rank.rank, "replica": rank.replica, "host": rank.host, **times}
            | {"peak_bytes": peak, "clock_error_seconds": rank.clock_error_seconds}
        )
    return rows


def _edges(trace: Trace, found: Overlap, *, known_sizes: bool) -> list[dict[str, Any]]:
    sizes: dict[tuple[int, int, str], float] = {}
    if known_sizes:
        lengths = trace.facts["part_bytes"]
        by = ("sender", "receiver", "backward", "part")
        for one in found.hand_overs.sums(*by, steps=max(1, len(found.steps))):
            place = one.sender, one.receiver, str(one.direction)
            sizes[place] = sizes.get(place, 0.0) + one.count * lengths.get(one.part, 0)
    return [
        {
            "source": trace.ranks[one.sender].rank,
            "target": trace.ranks[one.receiver].rank,
            "messages": one.count,
            "bytes": sizes.get((one.sender, one.receiver, str(one.direction)), 0),
            "wire_median_seconds": one.wire_median_seconds,
            **_times(one),
        }
        for one in found.edges
    ]


def _cells(trace: Trace, found: Overlap) -> dict[str, list[Any]]:
    """Columns: source, target, layer, direction and the four times of every edge, layer and direction."""
    if len(found.cells) > _MOST_CELLS:
        return {}
    columns: dict[str, list[Any]] = {
        "source": [trace.ranks[one.sender].rank for one in found.cells],
        "target": [trace.ranks[one.receiver].rank for one in found.cells],
        "layer": [one.layer for one in found.cells],
        "direction": [_times(one)["direction"] for one in found.cells],
    }
    for name in ("upstream_seconds", "wire_seconds", "hidden_seconds", "exposed_seconds"):
        columns[name] = [float(f"{getattr(one, name):.4g}") for one in found.cells]
    return columns


def _times(one: HandOverSums) -> dict[str, Any]:
    names = (
        "upstream_seconds",
        "wire_seconds",
        "hidden_seconds",
        "exposed_seconds",
        "send_seconds",
    )
    direction = "backward" if one.direction == "gradients" else "forward"
    return {"direction": direction, **{name: getattr(one, name) for name in names}}


def _comparison(trace: Trace, found: Overlap, prediction: Prediction) -> list[dict[str, Any]]:
    simulation = prediction.simulation
    ranks = len(simulation.busy_seconds)
    outside = found.mean("outside_seconds") + found.mean("data_seconds")
    collective = outside - found.mean("rest_seconds") - found.mean("data_seconds")
    rows = [
        ("step", found.mean("seconds"), simulation.seconds + outside),
        ("both sweeps", found.mean("seconds") - outside, simulation.seconds),
        (
            "computing, of a rank",
            found.mean("compute_seconds"),
            sum(simulation.busy_seconds) / ranks,
        ),
        ("ramp, of a rank", found.mean("ramp_seconds"), sum(simulation.ramp_seconds) / ranks),
        ("starvation", found.mean("starved_seconds"), sum(simulation.starved_seconds) / ranks),
        (
            "exposed hand-overs",
            max(0.0, found.mean("exposed_seconds") - collective),
            sum(simulation.exposed_seconds) / ranks,
        ),
    ]
    table = [
        _compared(name, measured, predicted, seconds_text, 0.01 * found.mean("seconds"))
        for name, measured, predicted in rows
    ]
    peak = max((size for rank in trace.ranks for _, size in rank.memory), default=0)
    if peak and prediction.peak_bytes is not None:
        table.append(
            _compared("memory, of the fullest rank", peak, prediction.peak_bytes, size_text, 0)
        )
    return table


def _compared(
    name: str, measured: float, predicted: float, text: Callable[[float], str], least: float
) -> dict[str, Any]:
    """One row; of what is hardly there a ratio says nothing."""
    return {
        "name": name,
        "measured": measured,
        "predicted": predicted,
        "measured_text": text(measured),
        "predicted_text": text(predicted),
        "ratio": predicted / measured if measured > least else None,
    }


def _advice(one: Advice) -> dict[str, Any]:
    return {**vars(one), "text": one.text, "helps": one.helps}


def _advice_note(prediction: Prediction | None) -> str:
    if prediction is None:
        return "Nothing was simulated: the trace holds no whole step of known chunks."
    return (
        f"Simulated, one change at a time: the run's own schedule with costs {prediction.source}. "
        "Longer or shorter chunks may compute at another speed than these costs say; measure the "
        "best change with this command before a long run."
    )


def _cautions(found: Overlap) -> list[str]:
    """What to know before believing the rest."""
    times = [step.seconds for step in found.steps]
    if len(times) < 2 or max(times) <= (1 + _STEADY) * min(times):
        return []
    share = share_text(max(times) / min(times) - 1)
    return [
        f"The traced steps differ by {share}: something else kept this machine busy, or it "
        "was not warm yet. Smaller gains than that may be noise; trace more steps (--steps) on a "
        "quiet machine."
    ]


def _trust(found: Overlap, trace: Trace) -> list[str]:
    notes = []
    if found.clock_error_seconds > 0:
        notes.append(
            f"Clocks of two ranks agree within {seconds_text(found.clock_error_seconds, 2)}; "
            "shorter times on the wire are not measured."
        )
    if found.inverted:
        notes.append(f"{found.inverted:,} messages appear to arrive before they were sent.")
    if found.unmatched:
        notes.append(f"{found.unmatched:,} waits have no send in the trace.")
    if trace.cut:
        notes.append(f"Of the trace: {trace.cut}.")
    return notes
