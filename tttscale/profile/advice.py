"""What to change and by how much: the run's own schedule, and its neighbours, in the simulator."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

from tttscale.config.checks import has_enough_chunks
from tttscale.observe.spans import RankTrace, Span, StepMark, Trace
from tttscale.plan.costs import Costs
from tttscale.plan.simulate import Simulation, simulate
from tttscale.scan.layout import Kind, Layout
from tttscale.scan.schedule import CarryKey, Schedule

_ALIKE = 0.01
"""A smaller difference is none: the simulator is not that exact."""
_LARGEST_TASKS = 50_000
"""Layers of chunks of a step; a simulation of more would take too long."""


@dataclass(frozen=True)
class Setting:
    """What may be chosen about the sweeps of a run."""

    chunk_tokens: int
    layout: Kind
    ranks: int
    """Ranks that share a sequence."""
    kept: float | tuple[float, ...]
    """Chunks whose activations are kept: one number for each rank, or one for all."""

    @property
    def most_kept(self) -> float:
        """Kept chunks of the rank that keeps most."""
        return max(self.kept) if isinstance(self.kept, tuple) else self.kept


@dataclass(frozen=True)
class Job:
    """What stays the same while settings change."""

    sequence_tokens: int
    sequences: int
    """Sequences in a step of one replica."""
    parts: tuple[tuple[str, ...], ...]
    carry_bytes: Callable[[int], Callable[[CarryKey], int]]
    """From tokens of a chunk to the bytes of every message."""
    costs: Costs
    ranks_per_host: int
    alignment: int = 1
    """Chunks are multiples of so many tokens."""
    memory: Callable[[Setting], int | None] = lambda _: None
    """Predicted peak of a rank, in bytes; None if that is not known."""
    capacity_bytes: int | None = None
    """Memory that a rank has; None if that is not known."""

    def simulated(self, setting: Setting, *, trace: bool = False) -> Simulation:
        """Run the sweeps of one step."""
        layout = Layout(
            setting.layout,
            self.sequence_tokens,
            setting.chunk_tokens,
            setting.ranks,
            self.sequences,
        )
        kept = setting.kept
        return simulate(
            Schedule(layout, self.parts),
            self.carry_bytes(setting.chunk_tokens),
            self.costs,
            kept=dict(enumerate(kept)) if isinstance(kept, tuple) else kept,
            ranks_per_host=self.ranks_per_host,
            trace=trace,
        )

    def step_seconds(self, setting: Setting) -> float:
        """Predict a whole step."""
        return self.simulated(setting).seconds + self.costs.step_seconds.overhead

    def peak_bytes(self, setting: Setting) -> int | None:
        """Predict the memory of the rank that needs most; None if that is not known."""
        return self.memory(setting)

    def fits(self, setting: Setting) -> bool:
        """Whether the predicted memory is there; what is not known fits."""
        peak = self.peak_bytes(setting)
        return peak is None or self.capacity_bytes is None or peak <= self.capacity_bytes

    def chunks(self, setting: Setting) -> int:
        """Chunks of a sequence."""
        return -(-self.sequence_tokens // setting.chunk_tokens)

    def own_chunks(self, setting: Setting) -> int:
        """Chunks of the rank that has most, of all sequences of a step."""
        return -(-self.chunks(setting) * self.sequences // setting.ranks)


@dataclass(frozen=True)
class Advice:
    """One change, and what it would do to a step."""

    change: str
    """Such as "chunk_length 8Ki -> 4Ki"."""
    key: str
    """KEY=VALUE, as the command takes it."""
    seconds: float
    """Predicted seconds of the step."""
    gain: float
    """The share of the step that it saves; negative if the step becomes longer."""
    note: str = ""
    needs_ranks: bool = False
    """The change is another number of ranks, and so not a better use of the same."""
    fits: bool = True
    """The predicted memory is there, as far as that is known."""
    peak_bytes: int | None = None
    """Predicted memory of the rank that needs most."""

    @property
    def text(self) -> str:
        """Say the gain in words."""
        if abs(self.gain) < _ALIKE:
            return "about the same"
        percent = f"{abs(self.gain) * 100:.0f} %"
        return f"about {percent} less" if self.gain > 0 else f"about {percent} more"

    @property
    def helps(self) -> bool:
        """Whether it can be done and the step becomes shorter."""
        return self.fits and self.gain >= _ALIKE


def advise(job: Job, now: Setting) -> list[Advice]:
    """Try what lies near the run's own setting, one change at a time, and the best two together."""
    before = job.step_seconds(now)
    found = []
    for change, key, setting, note in _neighbours(job, now):
        seconds = job.step_seconds(setting)
        more_ranks = setting.ranks / now.ranks
        if more_ranks != 1:
            ideal = "of twice the ranks" if more_ranks > 1 else "of half the ranks"
            share = before / seconds / more_ranks
            note = f"{share * 100:.0f} % {ideal} is used"
        advice = _advice(job, now, setting, change, key, note, seconds, before)
        found.append((setting, advice))
    helpful = [(s, a) for s, a in found if a.helps and s.ranks == now.ranks]
    both = _best_two(job, now, before, helpful)
    advices = [advice for _, advice in found] + both
    return sorted(advices, key=lambda advice: (advice.needs_ranks, not advice.fits, -advice.gain))


def _advice(
    job: Job,
    now: Setting,
    setting: Setting,
    change: str,
    key: str,
    note: str,
    seconds: float,
    before: float,
) -> Advice:
    """Add what it means for memory."""
    peak, fits = job.peak_bytes(setting), job.fits(setting)
    today, longer = job.peak_bytes(now), setting.chunk_tokens / now.chunk_tokens
    if peak is not None and today is not None and abs(peak - today) > 0.02 * today:
        words = f"{_size(peak)} of memory in place of {_size(today)}, predicted"
        note = f"{note}; {words}" if note else words
    elif peak is None and longer > 1:
        note = f"a chunk's activations take {longer:g} times as much memory"
    if not fits:
        note += f": more than the {_size(job.capacity_bytes or 0)} that are there"
    gain = 1 - seconds / before
    return Advice(change, key, seconds, gain, note, setting.ranks != now.ranks, fits, peak)


def whole_step(simulation: Simulation, measured: Trace, facts: dict[str, Any]) -> Trace:
    """The simulated sweeps as a step, with what comes after them as long as measured, on rank 0's steps."""
    assert simulation.trace is not None
    after = _after_sweeps(measured)
    ranks = []
    for rank in simulation.trace.ranks:
        spans, now = list(rank.spans), simulation.seconds
        for activity, seconds in after.items():
            spans.append(Span(now, now + seconds, activity))
            now += seconds
        like = next((r for r in measured.ranks if r.rank == rank.rank), RankTrace(rank.rank))
        mark = StepMark(measured.ranks[0].steps[0].step if measured.ranks[0].steps else 1, 0.0, now)
        ranks.append(replace(rank, spans=spans, steps=[mark], host=like.host, device=like.device))
    return Trace("simulated", ranks, {**simulation.trace.facts, **facts})


def _after_sweeps(measured: Trace) -> dict[str, float]:
    """Mean seconds of a step by activity, of all that is no part of the sweeps."""
    steps = sum(len(rank.steps) for rank in measured.ranks)
    sums: dict[str, float] = {}
    for rank in measured.ranks:
        for mark in rank.steps:
            for span in rank.spans:
                outside = span.activity in ("reduce", "optimizer", "gather", "other")
                if outside and not span.run and mark.begin <= span.begin < mark.end:
                    sums[span.activity] = sums.get(span.activity, 0.0) + span.end - span.begin
    order = ("reduce", "optimizer", "gather", "other")
    return {name: sums[name] / steps for name in order if name in sums}


def _neighbours(job: Job, now: Setting) -> Iterator[tuple[str, str, Setting, str]]:
    """Change, key, setting and note of each."""
    for factor in (0.25, 0.5, 2, 4):
        tokens = int(now.chunk_tokens * factor)
        setting = replace(now, chunk_tokens=tokens, kept=_kept(now, factor))
        if tokens % job.alignment or tokens < 1 or tokens > job.sequence_tokens:
            continue
        change = f"chunk_length {_binary(now.chunk_tokens)} -> {_binary(tokens)}"
        if _is_possible(job, setting):
            yield change, f"parallel.chunk_length={_binary(tokens)}", setting, ""
    other: Kind = "contiguous" if now.layout == "striped" else "striped"
    setting = replace(now, layout=other)
    if now.ranks > 1 and _is_possible(job, setting):
        yield f"layout {now.layout} -> {other}", f"parallel.layout={other}", setting, ""
    own = job.own_chunks(now)
    least = min(now.kept) if isinstance(now.kept, tuple) else now.kept
    for kept, words in ((least + 1, "one chunk more"), (own, "all chunks")):
        if least < kept <= own and (kept == own) == (words == "all chunks"):
            note = "no recomputation" if kept == own else ""
            change = f"keep_chunks {least:.4g} -> {kept:.4g} ({words})"
            yield change, _keep(kept), replace(now, kept=kept), note
    for factor, ranks in ((0.5, now.ranks // 2), (2, now.ranks * 2)):
        setting = replace(now, ranks=ranks, kept=least)
        if ranks != now.ranks * factor or ranks < 1 or not _is_possible(job, setting):
            continue
        change = f"ranks of a sequence {now.ranks} -> {ranks}"
        yield change, f"parallel.sequence={ranks}", setting, ""


def _best_two(
    job: Job, now: Setting, before: float, helpful: list[tuple[Setting, Advice]]
) -> list[Advice]:
    """The best chunk length and the best of the other changes together, if that is better than either."""
    lengths = [one for one in helpful if one[0].chunk_tokens != now.chunk_tokens]
    others = [one for one in helpful if one[0].chunk_tokens == now.chunk_tokens]
    if not lengths or not others:
        return []
    (length, first), (other, second) = (
        max(group, key=lambda one: one[1].gain) for group in (lengths, others)
    )
    factor = length.chunk_tokens / now.chunk_tokens
    setting = replace(other, chunk_tokens=length.chunk_tokens, kept=_kept(other, factor))
    change, key = f"{first.change} and {second.change}", f"{first.key} {second.key}"
    if other.kept != now.kept:  # a number of chunks, which have another length now
        kept = min(setting.most_kept, job.own_chunks(setting))
        setting = replace(setting, kept=kept)
        change, key = f"{first.change} and keep_chunks {kept:.4g}", f"{first.key} {_keep(kept)}"
    if not _is_possible(job, setting):
        return []
    seconds = job.step_seconds(setting)
    gain = 1 - seconds / before
    if gain < max(first.gain, second.gain) + _ALIKE:
        return []
    return [_advice(job, now, setting, change, key, "", seconds, before)]


def _is_possible(job: Job, setting: Setting) -> bool:
    """Whether a run can be set so, and its simulation does not take too long."""
    tasks = job.chunks(setting) * job.sequences * len(job.parts)
    shape = job.sequence_tokens, setting.chunk_tokens, setting.ranks
    return tasks <= _LARGEST_TASKS and has_enough_chunks(*shape)


def _keep(chunks: float) -> str:
    return f"parallel.keep_chunks={chunks:.6g}"


def _kept(now: Setting, factor: float) -> float | tuple[float, ...]:
    """Kept chunks, `factor` times as long as now, that have as many tokens as those kept now."""
    if not isinstance(now.kept, tuple):
        return max(min(now.kept, 1), now.kept / factor)
    return tuple(max(min(kept, 1), kept / factor) for kept in now.kept)


def _binary(tokens: int) -> str:
    for unit, size in (("Mi", 1 << 20), ("Ki", 1 << 10)):
        if tokens >= size and tokens * 8 % size == 0:
            return f"{tokens / size:g}{unit}"
    return str(tokens)


def _size(count: float) -> str:
    for unit, size in (("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)):
        if count >= size:
            return f"{count / size:.3g} {unit}"
    return f"{count:.0f} B"
