"""The rehearsal of a run: real schedule, sweeps, ports and in-process transport, compute in virtual time.

Every rank is a thread of this process. Nothing is slept for: each rank has a clock that its compute moves on
(`virtual_time.py`), so the order of the real code decides, and a laptop rehearses 64 ranks exactly.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from tttscale.comm.threads import ThreadTransport, ThreadWorld
from tttscale.model.architecture import TTTConfig
from tttscale.observe.spans import Trace
from tttscale.plan.costs import Costs
from tttscale.plan.message_bytes import MessageBytes
from tttscale.plan.simulate import rank_trace, trace_facts
from tttscale.plan.stand_in import TimedModel, chunk_tokens, timed_layers, timed_learners
from tttscale.plan.virtual_time import VirtualTimeline
from tttscale.plan.virtual_transport import VirtualTransport
from tttscale.scan.keep_policy import ActivationPolicy
from tttscale.scan.layout import Layout
from tttscale.scan.noted_transport import NotedTransport
from tttscale.scan.schedule import CarryKey, Schedule
from tttscale.scan.sweep import Sweeps
from tttscale.scan.transport import Transport

_TIMEOUT_SECONDS = 3600.0
"""How long one message may take in real time: the first gradients come after the whole forward sweep."""


@dataclass(frozen=True)
class Rehearsal:
    """What the sweeps of a step took, in virtual seconds; lists are by rank (see `simulate.Simulation`)."""

    seconds: float
    busy_seconds: list[float]
    ramp_seconds: list[float]
    starved_seconds: list[float]
    exposed_seconds: list[float]
    trace: Trace

    @property
    def busy_fraction(self) -> float:
        """The share of all ranks' time in which they compute."""
        return sum(self.busy_seconds) / (len(self.busy_seconds) * self.seconds)


@dataclass(frozen=True)
class Tokens:
    """A range of tokens in memory (`scan.reader.TokenChunk`)."""

    ids: np.ndarray
    labels: np.ndarray
    starts: tuple[int, ...] = ()
    padded: np.ndarray | None = None


class _Sequence:
    """A sequence of zeros."""

    def chunk(self, begin: int, end: int) -> Tokens:
        """Tokens begin..end."""
        zeros = np.zeros(end - begin, dtype=np.int64)
        return Tokens(zeros, zeros)


def rehearse(
    model: TTTConfig,
    schedule: Schedule,
    carry_bytes: Callable[[CarryKey], int],
    costs: Costs,
    *,
    kept: float = 1,
    ranks_per_host: int = 8,
) -> Rehearsal:
    """Run one step's real sweeps in virtual time.

    Args:
        model: shape of the real model.
        schedule: of the real run.
        carry_bytes: length of the real message that carries a part.
        costs: of every activity.
        kept: chunks whose activations are kept.
        ranks_per_host: neighbouring ranks that share a host; rank 0 is the first of its host.
    """
    layout, tokens = schedule.layout, chunk_tokens(model)
    tiny = Layout(layout.kind, layout.chunks * tokens, tokens, layout.ranks, layout.sequences)
    groups = [[_Sequence()] for _ in range(layout.sequences)]

    def rank(inner: ThreadTransport) -> VirtualTimeline:
        """Run one rank's sweeps in virtual time."""
        torch.set_num_threads(1)
        timeline = VirtualTimeline(layout, schedule.parts, timed_layers(model), costs)
        transport = VirtualTransport(inner, timeline, costs, carry_bytes, ranks_per_host)
        timed = TimedModel(model, schedule.parts, timeline)
        sweeps = _in_virtual_time(
            Sweeps(timed, tiny, keep=ActivationPolicy(kept)), timeline, transport
        )
        sweeps.forward(groups)
        sweeps.backward()
        return timeline

    with timed_learners():
        ranks = ThreadWorld(layout.ranks, _TIMEOUT_SECONDS).run(rank)
    seconds = max(timeline.clock for timeline in ranks)
    for timeline in ranks:
        timeline.end(seconds)
    facts = trace_facts(schedule, MessageBytes(schedule, carry_bytes), costs)
    traces = [rank_trace(i, t.spans, ranks_per_host, seconds) for i, t in enumerate(ranks)]
    return Rehearsal(
        seconds,
        [timeline.busy for timeline in ranks],
        [timeline.ramp for timeline in ranks],
        [timeline.starved for timeline in ranks],
        [timeline.exposed for timeline in ranks],
        Trace("rehearsed", traces, facts),
    )


def _in_virtual_time(sweeps: Any, timeline: VirtualTimeline, transport: Transport) -> Sweeps:
    """Give real sweeps a clock in virtual time, and the transport that knows it."""
    sweeps.timeline = timeline
    if transport.size > 1:
        sweeps.transport = NotedTransport(transport, timeline)
    return sweeps
