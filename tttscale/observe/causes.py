"""Why a step takes longer than its work: causes, what each costs, and what to do about it."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from tttscale.observe.hand_overs import lower_median
from tttscale.observe.overlap import Overlap, analyse
from tttscale.observe.slow_edges import ExpectedWire, slow_edges, typical_seconds
from tttscale.observe.spans import Trace
from tttscale.observe.wave import Wave

Kind = Literal[
    "slow edge",
    "slow network",
    "slow rank",
    "slow data",
    "slow records",
    "slow checkpoint",
    "long chunk",
    "layout",
    "chain",
    "none",
]

_FAULT_SHARE = 0.03
"""A fault that costs a smaller share of a step is not named."""
_ADVICE_SHARE = 0.05
"""A better choice that saves a smaller share is not named, nor are shorter waits for data."""
_NETWORK_SHARE = 0.1
"""Exposed messages of all ranks alike that are more than one has to put up with."""


@dataclass(frozen=True)
class Cause:
    """Why a step takes longer than its work."""

    kind: Kind
    seconds: float
    """About how much shorter a step would be without it; for "none", all that is not compute."""
    share: float
    """`seconds` over the step, with what lies between two steps."""
    evidence: str
    """One sentence, with numbers."""
    next_step: str
    """What to do, in one sentence."""
    key: str = ""
    """The configuration key to change; "" if it is not the configuration."""
    rank: int = -1
    """The rank that causes it, in the world; -1 if none does."""
    sender: int = -1
    """The rank in the world at the begin of a slow edge; -1 if it is no edge."""
    receiver: int = -1
    factor: float = 1.0
    """How many times slower than the others; 1 where that has no meaning."""


def diagnose(
    trace: Trace, found: Overlap | None = None, expected: ExpectedWire | None = None
) -> list[Cause]:
    """Name what makes steps longer, most costly first; one cause of kind "none" if nothing does.

    A trace without a step, or in which no time passes, has no cause at all.

    Args:
        trace: measured, rehearsed or simulated.
        found: its analysis, if that was done before.
        expected: what messages should take, for edges that no other can be compared with.
    """
    found = found or analyse(trace)
    if not found.mean("seconds"):
        return []
    case = _Case(trace, found, expected)
    causes = [*case.edges(), *case.rank(), *case.data(), *case.between(), *case.choices()]
    return sorted(causes, key=lambda cause: -cause.seconds) or [case.nothing()]


class _Case:
    """A trace under examination; all seconds are those of one step."""

    def __init__(self, trace: Trace, found: Overlap, expected: ExpectedWire | None) -> None:
        self.trace, self.found, self.expected = trace, found, expected
        self.step = found.mean("seconds")
        between = [sum(rank.values()) for rank in found.between_seconds]
        self.period = self.step + max(between, default=0.0)

    def cause(
        self, kind: Kind, seconds: float, evidence: str, next_step: str, **more: Any
    ) -> Cause:
        """Make a cause, with its share of a step."""
        return Cause(kind, seconds, seconds / self.period, evidence, next_step, **more)

    def name(self, index: int) -> int:
        """The rank in the world."""
        return self.trace.ranks[index].rank

    # ---- faults --------------------------------------------------------------------------------

    def edges(self) -> Iterator[Cause]:
        """Edges that are slower than the others; or a network that is slow everywhere."""
        messages, error = self.found.hand_overs, self.found.clock_error_seconds
        rest = np.ones(len(messages), bool)
        for edge in slow_edges(self.trace, messages, error, self.expected):
            if edge.seconds < _FAULT_SHARE * self.period:
                continue
            rest &= (messages.sender != edge.sender) | (messages.receiver != edge.receiver)
            a, b = self.name(edge.sender), self.name(edge.receiver)
            against = "on other edges" if edge.compared else "expected"
            yield self.cause(
                "slow edge",
                edge.seconds,
                f"from rank {a} to rank {b} the {edge.part} takes {_time(edge.wire_seconds)}, "
                f"{_times(edge.factor)} as long as {against} ({_time(edge.usual_seconds)}), and rank {b} "
                f"waits {_time(edge.seconds)} in a step for that",
                f"look at the link between rank {a} and rank {b} (`tttscale doctor` measures links)",
                sender=a,
                receiver=b,
                factor=edge.factor,
            )
        seconds = typical_seconds(messages.take(rest), len(self.trace.ranks))
        if seconds >= _NETWORK_SHARE * self.period:
            median = float(np.median(messages.wire_seconds[rest]))
            yield self.cause(
                "slow network",
                seconds,
                f"messages on all edges take {_time(median)} (median), and a rank is held up by them "
                f"for {_time(seconds)} of a step",
                "check that the fast network is used (`tttscale doctor`), or use longer chunks: there are "
                "fewer hand-overs then",
                key="parallel.chunk_length",
            )

    def rank(self) -> Iterator[Cause]:
        """A rank that computes more slowly."""
        slow = self.found.straggler
        if slow is None or slow.seconds < _FAULT_SHARE * self.period:
            return
        rank = self.name(slow.rank)
        where = self.trace.ranks[slow.rank].host
        yield self.cause(
            "slow rank",
            slow.seconds,
            f"rank {rank} takes {slow.factor:.2f} times as long as the others for the same layer of a "
            f"chunk, {_time(slow.seconds)} in a step",
            f"look at rank {rank}{f' on {where}' if where else ''}: clocks, temperature, other programs",
            rank=rank,
            factor=slow.factor,
        )

    def data(self) -> Iterator[Cause]:
        """Waits for tokens, on the rank that waits longest."""
        waits = [
            lower_median([step.ranks[rank].data_seconds for step in self.found.steps])
            for rank in range(len(self.trace.ranks))
        ]  # so that a single hiccup is no cause
        worst = int(np.argmax(waits))
        if waits[worst] < _ADVICE_SHARE * self.period:
            return
        others = np.delete(waits, worst)
        beside = f"; the others {_time(float(np.median(others)))}" if len(others) else ""
        rank = self.name(worst)
        yield self.cause(
            "slow data",
            waits[worst],
            f"rank {rank} waits {_time(waits[worst])} in a step for tokens{beside}",
            f"look at what rank {rank} reads `data.store` from (`tttscale bench data` measures it)",
            key="data.store",
            rank=rank,
        )

    def between(self) -> Iterator[Cause]:
        """Records and checkpoints, on the rank that takes longest for them."""
        advice: list[tuple[Kind, str, str, str]] = [
            ("slow records", "record", "writing records", "logging.every"),
            ("slow checkpoint", "checkpoint", "saving", "checkpoint.every"),
        ]
        for kind, activity, what, key in advice:
            seconds = [
                self.found.between_seconds[rank].get(activity, 0.0)
                + sum(s.ranks[rank].activities.get(activity, 0.0) for s in self.found.steps)
                / len(self.found.steps)
                for rank in range(len(self.trace.ranks))
            ]
            worst = int(np.argmax(seconds))
            if seconds[worst] < _FAULT_SHARE * self.period:
                continue
            rank = self.name(worst)
            yield self.cause(
                kind,
                seconds[worst],
                f"rank {rank} spends {_time(seconds[worst])} per step with {what}, and all ranks wait",
                f"look at the disk that rank {rank} writes `run.dir` to, or do it less often (`{key}`)",
                key=key,
                rank=rank,
            )

    # ---- choices -------------------------------------------------------------------------------

    def choices(self) -> Iterator[Cause]:
        """Chunk length, layout and number of ranks, by the formulas of `observe.wave`."""
        wave = Wave.of(self.trace, self.found)
        if wave is None:
            return
        idle = self.found.mean("ramp_seconds") + self.found.mean("starved_seconds")
        share, least = idle / self.step, _ADVICE_SHARE * self.period
        if wave.contiguous and wave.chunks > wave.ranks:
            gain = min(idle, wave.seconds() - wave.striped().seconds())
            if gain >= least:
                yield self.cause(
                    "layout",
                    gain,
                    f"contiguous ranks wait for all chunks of their neighbour in a layer: {share:.0%} of a "
                    f"step; striped would take about {gain / self.step:.0%} less",
                    "set `parallel.layout` to striped",
                    key="parallel.layout",
                )
        else:
            cut, gain = wave.best_cut()
            gain = min(idle, gain)
            if gain >= least:
                layout = " and `parallel.layout` to striped" if wave.contiguous else ""
                yield self.cause(
                    "long chunk",
                    gain,
                    f"{wave.chunks * wave.sequences / wave.ranks:.3g} chunks per rank: ranks wait for the "
                    f"wave or have no chunk for {share:.0%} of a step; chunks {cut} times shorter would "
                    f"take about {gain / self.step:.0%} less",
                    f"divide `parallel.chunk_length` by {cut}{layout}",
                    key="parallel.chunk_length",
                    factor=float(cut),
                )
        lost = min(idle, wave.chain_seconds - wave.work_seconds / wave.ranks)
        if lost >= least:
            useful = wave.work_seconds / wave.chain_seconds
            yield self.cause(
                "chain",
                lost,
                f"the serial chain of one layer through a sequence takes {_time(wave.chain_seconds)}, a "
                f"rank's share of the work only {_time(wave.work_seconds / wave.ranks)}: no more than "
                f"{useful:.3g} ranks are of use",
                f"use {math.ceil(useful)} ranks per sequence, and the others for more sequences at a time",
                key="parallel.sequence",
                factor=wave.ranks * wave.chain_seconds / wave.work_seconds,
            )

    def nothing(self) -> Cause:
        """Where the time went that is not compute."""
        names = ("compute", "ramp", "starved", "exposed", "data", "rest")
        shares = {name: self.found.mean(f"{name}_seconds") / self.step for name in names}
        words = {"starved": "starvation", "exposed": "exposed communication", "rest": "the rest"}
        parts = [f"{words.get(name, name)} {share:.1%}" for name, share in shares.items()]
        if shares["starved"] < _ADVICE_SHARE:
            next_step = (
                "no rank, link or disk is at fault; what is left to try is another setting, such as kept or "
                "longer chunks, or faster kernels"
            )
        else:
            next_step = "ranks are slow in turns: look for what else keeps their hosts busy, and trace again"
        return self.cause(
            "none",
            self.step - self.found.mean("compute_seconds"),
            f"no fault stands out: {', '.join(parts)} of a step of {_time(self.step)}",
            next_step,
        )


def _times(factor: float) -> str:
    return f"{factor:,.0f} times" if factor >= 10 else f"{factor:.2g} times"


def _time(seconds: float) -> str:
    if seconds >= 1:
        return f"{seconds:.2f} s"
    return f"{seconds * 1e3:.3g} ms" if seconds >= 1e-3 else f"{seconds * 1e6:.3g} us"
