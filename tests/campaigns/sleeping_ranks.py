"""Ranks as threads that sleep instead of computing: real sweeps, schedule, ports and timeline.

Sleeps of many ranks fit on one core, so a rehearsal of eight ranks shows who waits for whom. Something can be
made slow at one place: `Fault`.
"""

import threading
import time
from dataclasses import dataclass
from types import SimpleNamespace

import numpy as np
import torch
from torch import nn

from tttscale.comm.threads import ThreadWorld
from tttscale.model.ports import Carried
from tttscale.observe.spans import RankTrace, Span, StepMark, Trace
from tttscale.scan.keep_policy import ActivationPolicy
from tttscale.scan.layout import Layout
from tttscale.scan.schedule import Phase
from tttscale.scan.sweep import Sweeps
from tttscale.scan.timeline import Activity

CHUNK_TOKENS = 4
BACKWARD = 2.0
"""A backward takes so many times as long as a forward."""
_MESSAGES = 1 << 16


@dataclass(frozen=True)
class Setting:
    """What is rehearsed."""

    ranks: int
    chunks: int
    layers: int
    layout: str
    layer_seconds: float
    """Forward of one layer of a chunk."""
    advance_share: float
    """The advance's share of a layer's seconds."""
    sequences: int = 1
    kept: int = 1
    steps: int = 3

    @property
    def chunk_seconds(self) -> float:
        """Forward of one chunk."""
        return self.layers * self.layer_seconds

    @property
    def all_seconds(self) -> float:
        """Forward, recomputation and backward of one chunk."""
        return (2 + BACKWARD) * self.chunk_seconds

    @property
    def own(self) -> float:
        """Chunks of a rank."""
        return self.chunks * self.sequences / self.ranks


@dataclass(frozen=True)
class Fault:
    """What is slow."""

    kind: str = "none"
    """As `observe.causes.Cause.kind`."""
    rank: int = -1
    sender: int = -1
    receiver: int = -1
    seconds: float = 0.0
    """Seconds of a delay."""
    factor: float = 1.0
    """How many times longer a slow rank takes."""


def rehearse(setting: Setting, fault: Fault) -> tuple[Trace, float]:
    """Run some steps.

    Returns:
        What every rank did, and by which share of its time the machine held up the rank that it held up most:
        how much longer than asked it slept.
    """
    layout = Layout(
        setting.layout,
        setting.chunks * CHUNK_TOKENS,
        CHUNK_TOKENS,
        setting.ranks,
        setting.sequences,
    )
    sent_at = np.zeros((len(Phase), _MESSAGES))
    barrier = threading.Barrier(setting.ranks)
    held_up: list[float] = []

    def rank(transport):
        slow = fault.factor if fault.kind == "slow rank" and fault.rank == transport.rank else 1.0
        reading = (
            fault.seconds if fault.kind == "slow data" and fault.rank == transport.rank else 0.0
        )
        late = LateEdge(transport, fault, sent_at)
        model = SleepingModel(setting, slow)
        sweeps = Sweeps(model, layout, late, keep=ActivationPolicy(setting.kept))
        groups = [[SlowTokens(layout.length_tokens, reading)] for _ in range(setting.sequences)]
        taken = _steps(sweeps, groups, setting, fault, barrier)
        held_up.append(model.spending.overslept_share)
        return taken

    with Metronome() as metronome:
        tracks = ThreadWorld(setting.ranks).run(rank)
    facts = {
        "sequence_ranks": setting.ranks,
        "chunks": setting.chunks,
        "chunk_tokens": CHUNK_TOKENS,
        "sequence_tokens": layout.length_tokens,
        "sequences": setting.sequences,
        "layers": setting.layers,
        "layout": setting.layout,
    }
    return gathered("rehearsed", tracks, facts), max(*held_up, metronome.late_share)


class Metronome:
    """A thread that sleeps for short times, and finds out how late threads get their turn."""

    SECONDS = 0.002

    def __enter__(self) -> "Metronome":
        self.late_share, self._over = 0.0, threading.Event()
        self._thread = threading.Thread(target=self._beat, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _beat(self) -> None:
        began, late = time.perf_counter(), 0.0
        while not self._over.is_set():
            before = time.perf_counter()
            time.sleep(self.SECONDS)
            late += max(0.0, time.perf_counter() - before - 1.5 * self.SECONDS)
        self.late_share = late / (time.perf_counter() - began)


def gathered(origin, tracks, facts) -> Trace:
    """One trace of ranks on one clock, from what their timelines took down."""
    begin = min(marks[0].begin for _, _, marks, _ in tracks)
    ranks = []
    for number, (spans, reads, marks, memory) in enumerate(tracks):
        ranks.append(
            RankTrace(
                number,
                steps=[StepMark(m.step, m.begin - begin, m.end - begin) for m in marks],
                spans=[_earlier(span, begin) for span in spans],
                reads=[_earlier(span, begin) for span in reads],
                memory=[(at - begin, used) for at, used in memory],
            )
        )
    return Trace(origin, ranks, facts)


def _earlier(span: Span, seconds: float) -> Span:
    return span._replace(begin=span.begin - seconds, end=span.end - seconds)


def _steps(sweeps, groups, setting, fault, barrier):
    timeline, rank = sweeps.timeline, sweeps.transport.rank
    sweeps.prepare(groups)
    timeline.start_trace()
    for step in range(1, setting.steps + 1):
        timeline.begin(Activity.IDLE)
        barrier.wait(60)
        timeline.begin(Activity.OTHER)
        began = time.perf_counter()
        sweeps.forward(groups)
        sweeps.backward()
        timeline.begin(Activity.IDLE)
        barrier.wait(60)
        sweeps.prepare(groups)
        timeline.begin(Activity.OPTIMIZER)
        time.sleep(0.1 * setting.layer_seconds)
        timeline.begin(Activity.OTHER)
        timeline.mark_step(step, began, time.perf_counter())
        if fault.kind in ("slow records", "slow checkpoint") and fault.rank == rank:
            timeline.begin(Activity(fault.kind.removeprefix("slow ").removesuffix("s")))
            time.sleep(fault.seconds)
    timeline.begin(Activity.IDLE)
    barrier.wait(60)
    return timeline.end_trace()


class SlowTokens:
    """A sequence of which every read takes some time."""

    def __init__(self, length: int, seconds: float) -> None:
        self._length, self._seconds = length, seconds

    def chunk(self, begin: int, end: int):
        """Token 0 all along."""
        if self._seconds:
            time.sleep(self._seconds)
        zeros = np.zeros(end - begin, np.int64)
        return SimpleNamespace(ids=zeros, labels=zeros, starts=(), padded=None)


class LateEdge:
    """A transport on which the messages of one edge arrive later."""

    def __init__(self, transport, fault: Fault, sent_at: np.ndarray) -> None:
        """Wrap a transport.

        Args:
            transport: carries the messages.
            fault: a "slow edge", or a "slow network" whose edges are all slow.
            sent_at: shared by both ends, [phases, messages]: `time.perf_counter` of every send.
        """
        self._inner, self._fault, self._sent_at = transport, fault, sent_at
        self.rank, self.size = transport.rank, transport.size
        self._counts = dict.fromkeys((way, phase) for way in ("in", "out") for phase in Phase)

    def irecv(self, key, source, carried):
        """As the transport."""
        handle = self._inner.irecv(key, source, carried)
        if not self._is_late(source, self.rank):
            return handle
        return SimpleNamespace(wait=lambda: self._wait(handle, key.phase))

    def _wait(self, handle, phase):
        part = handle.wait()
        arrives = self._sent_at[self._next("in", phase)] + self._fault.seconds
        time.sleep(max(0.0, arrives - time.perf_counter()))
        return part

    def isend(self, key, target, part):
        """As the transport."""
        if self._is_late(self.rank, target):
            self._sent_at[self._next("out", key.phase)] = time.perf_counter()
        self._inner.isend(key, target, part)

    def flush(self):
        """As the transport."""
        self._inner.flush()

    def _is_late(self, sender, receiver):
        fault = self._fault
        return fault.kind == "slow edge" and (sender, receiver) == (fault.sender, fault.receiver)

    def _next(self, way, phase):
        number = self._counts[way, phase] or 0
        self._counts[way, phase] = number + 1
        return list(Phase).index(phase), number


# ---- a model that sleeps -----------------------------------------------------------------------


class Spending:
    """How long each activity of a rank takes."""

    def __init__(self, setting: Setting, slow: float) -> None:
        share = setting.advance_share
        layer = setting.layer_seconds * slow
        rest = layer * (1 - share)
        self._seconds = {
            "project": 0.3 * rest,
            "advance": share * layer,
            "readout": 0.2 * rest,
            "finish": 0.5 * rest,
            "head": 0.3 * layer,
        }
        self._asked = self._taken = 0.0

    @property
    def overslept_share(self) -> float:
        """How much longer it slept than it was asked to."""
        return self._taken / self._asked - 1 if self._asked else 0.0

    def spend(self, activity: str, backward: bool = False) -> None:
        """Sleep, by the clock: what sleeping costs on top is not added up."""
        began, seconds = time.perf_counter(), self._seconds[activity]
        seconds *= BACKWARD if backward else 1
        while (left := began + seconds - time.perf_counter()) > 2e-4:
            time.sleep(left - 1e-4)
        self._asked += seconds
        self._taken += time.perf_counter() - began


class SleepingModel(nn.Module):
    """What `Sweeps` needs of a model."""

    def __init__(self, setting: Setting, slow: float) -> None:
        super().__init__()
        spending = Spending(setting, slow)
        self.spending = spending
        self.blocks = nn.ModuleList(SleepingBlock(spending) for _ in range(setting.layers))
        self.weight = nn.Parameter(torch.zeros(1))
        self.lm_head = SimpleNamespace(weight=None)  # no weight that it shares with the embedding
        self.model = SimpleNamespace(embed_tokens=SimpleNamespace(weight=self.weight))

    @property
    def carry_layers(self):
        """The blocks."""
        return list(self.blocks)

    def embed(self, ids):
        """[B, C] -> [B, C, 1]."""
        return self.weight + torch.zeros(*ids.shape, 1)

    def head(self, x, labels):
        """Sleep; no loss."""
        return _Work.apply(x, self.spending, "head").sum(), torch.zeros(labels.shape)


class SleepingBlock(nn.Module):
    """A block with one part in its carry."""

    name = "sleeping"

    def __init__(self, spending: Spending) -> None:
        super().__init__()
        self.seq_modeling_block = _Mixer(spending)
        self._spending = spending

    def carry(self, batch, tokens):
        """One number."""
        return {"state": Carried(((batch, 1),))}

    def forward(self, x, chunk, ports):
        """Return x."""
        return _Work.apply(self.seq_modeling_block(x, ports), self._spending, "finish")


class _Mixer(nn.Module):
    def __init__(self, spending: Spending) -> None:
        super().__init__()
        self._spending = spending

    def forward(self, x, ports):
        return _Mix.apply(x, self._spending, ports["state"])


class _Work(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, spending, activity):
        ctx.spending, ctx.activity = spending, activity
        spending.spend(activity)
        return x.clone()

    @staticmethod
    def backward(ctx, grad):
        ctx.spending.spend(ctx.activity, backward=True)
        return grad, None, None


class _Mix(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, spending, port):
        ctx.spending, ctx.port, ctx.batch = spending, port, len(x)
        spending.spend("project")
        ctx.has_left = port.recv_state() is not None
        spending.spend("advance")
        port.send_state((torch.zeros(ctx.batch, 1),))
        spending.spend("readout")
        return x.clone()

    @staticmethod
    def backward(ctx, grad):
        ctx.spending.spend("readout", backward=True)
        ctx.port.recv_grad()
        ctx.spending.spend("advance", backward=True)
        if ctx.has_left:
            ctx.port.send_grad((torch.zeros(ctx.batch, 1),))
        ctx.spending.spend("project", backward=True)
        return grad, None, None
