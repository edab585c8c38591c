"""Traced steps of the real trainer, which leave nothing behind: no checkpoint, no metrics, no run folder."""

import socket
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import psutil
import torch

from tttscale.cluster.ranks import Ranks
from tttscale.comm.clock import ClockOffset, clock_offsets
from tttscale.comm.gather_bytes import gather_bytes
from tttscale.comm.mesh import Mesh
from tttscale.config import Config
from tttscale.data.windows.mixture import Mixture, open_mixture
from tttscale.model import TTTForCausalLM
from tttscale.observe.rank_trace_bytes import from_bytes, to_bytes
from tttscale.observe.spans import RankTrace, Span, StepMark, Trace
from tttscale.observe.trace_bounds import bounded
from tttscale.scan.keep_policy import ActivationPolicy
from tttscale.scan.sweep import Sweeps
from tttscale.train import build
from tttscale.train.engine import Engine
from tttscale.train.trainer import Trainer

_MOST_SPANS = 3_000_000
"""Spans of all ranks that rank 0 can hold (about 200 bytes each) and analyse in a minute."""
_MOST_SAMPLES = 20_000
"""Samples of a rank's memory that are kept."""
_CLOCK_ROUNDS = 21
_CALIBRATION_STEPS = 2


@dataclass
class TracedRun:
    """A rank's share of a run that is only looked at."""

    config: Config
    mesh: Mesh
    tokens: Mixture
    model: TTTForCausalLM
    sweeps: Sweeps
    engine: Engine
    trainer: Trainer
    notices: tuple[str, ...]
    step: int = 0
    """Steps done."""

    @classmethod
    def build(cls, config: Config, ranks: Ranks, steps: int) -> "TracedRun":
        """Build what `train` builds, from the first step on; every rank calls this.

        Args:
            config: of the run.
            ranks: this process's place.
            steps: how many will be run at the most.

        Raises:
            TTTScaleError: as in `train`.
        """
        config = with_steps(config, steps)
        tokens = open_mixture(config)
        device = build.choose_device(config, ranks)
        build.prepare_host(config, ranks, device)
        mesh = build.connect(config, ranks, device)
        build.check_same_stores(mesh, tokens)
        notices = build.choose_products(mesh, device, None)
        model = build.build_model(config, device)
        keep = build.keep_policy(config, ranks, device)
        sweeps = build.training_sweeps(config, model, mesh, keep)
        engine = build.build_engine(config, model, mesh)
        trainer = Trainer(config, mesh, model, sweeps, engine)
        return cls(config, mesh, tokens, model, sweeps, engine, trainer, notices)

    def warm_up(self) -> int:
        """Run steps until memory and kernels are what they will be; return how many."""
        if build.wants_compile(self.config, self.sweeps.device):
            build.warm_up(self.sweeps)
        # In the first step keep_chunks=auto measures a chunk, in the second one it keeps several.
        steps = 2 if self.config.parallel.keep_chunks == "auto" else 1
        for _ in range(steps):
            self._run(self.trainer)
        return steps

    def trace(self, steps: int) -> Trace | None:
        """Run steps and bring their trace to rank 0; None elsewhere."""
        return self._traced(self.trainer, self.sweeps, steps)

    def trace_shorter(self) -> Trace | None:
        """Trace one step with chunks of half the length, for what does not grow with a chunk.

        Not if chunks cannot be halved; on rank 0 only, as `trace`.
        """
        tokens = self.config.parallel.chunk_length // 2
        if self.config.parallel.chunk_length % (2 * self.config.alignment):
            return None
        parallel = self.config.parallel.model_copy(update={"chunk_length": tokens})
        config = self.config.model_copy(update={"parallel": parallel})
        # The run's own carries are not needed meanwhile; what one kept chunk had takes two now.
        keep = ActivationPolicy(1)
        sweeps = build.training_sweeps(config, self.model, self.mesh, keep)
        trainer = Trainer(config, self.mesh, self.model, sweeps, self.engine)
        self._run(trainer)
        return self._traced(trainer, sweeps, 1)

    def run_steps(self, steps: int) -> None:
        """Run steps without a trace."""
        for _ in range(steps):
            self._run(self.trainer)

    def _run(self, trainer: Trainer) -> None:
        self.step += 1
        trainer.step(self.step, self.tokens.train)

    def _traced(self, trainer: Trainer, sweeps: Sweeps, steps: int) -> Trace | None:
        timeline, mesh = sweeps.timeline, self.mesh
        asked = time.perf_counter()
        before = clock_offsets(mesh, time.perf_counter, _CLOCK_ROUNDS)
        timeline.start_trace(bytes_in_use(sweeps.device))
        for _ in range(steps):
            self._run(trainer)
        was_cut = timeline.cut
        spans, reads, marks, memory = timeline.end_trace()
        if (
            was_cut
        ):  # a step that is not whole would look as if the rank did nothing in the rest of it
            marks = [mark for mark in marks if mark.end <= spans[-1].end] or marks[:1]
        place = mesh.rank, mesh.replica, socket.gethostname(), str(sweeps.device)
        rank, cut = self._bounded(RankTrace(*place, marks, spans, reads, memory))
        again = time.perf_counter()
        after = clock_offsets(mesh, time.perf_counter, _CLOCK_ROUNDS)
        found = [from_bytes(data) for data in gather_bytes(mesh, to_bytes(rank))]
        if mesh.gather([float(was_cut)]).any():
            cut = "; ".join(filter(None, (cut, "a rank's trace became too long")))
        if mesh.rank:
            return None
        clocks = [Clock(*pair, asked, again) for pair in zip(before, after, strict=True)]
        return Trace("measured", on_one_clock(found, clocks), self._facts(sweeps), cut)

    def _bounded(self, rank: RankTrace) -> tuple[RankTrace, str]:
        """What of a rank's trace is sent: the same steps of all ranks."""
        most = max(20_000, _MOST_SPANS // self.mesh.world_size)
        fit = sum(sum(s.begin < mark.end for s in rank.spans) <= most for mark in rank.steps)
        steps = max(1, int(self.mesh.gather([float(fit)]).min()))
        cut = ""
        if steps < len(rank.steps):
            end = rank.steps[steps - 1].end
            cut = f"steps after {rank.steps[steps - 1].step} left out: they have too many spans"
            rank = replace(
                rank,
                steps=rank.steps[:steps],
                spans=[s for s in rank.spans if s.begin < end],
                reads=[s for s in rank.reads if s.begin < end],
            )
        small = bounded(Trace("measured", [rank]), most, _MOST_SAMPLES)
        return small.ranks[0], "; ".join(filter(None, (cut, small.cut)))

    def _facts(self, sweeps: Sweeps) -> dict[str, object]:
        layout, config = sweeps.schedule.layout, self.config
        device = sweeps.device
        on_gpu = device.type == "cuda"
        return {
            "run": config.run.name,
            "sequence_ranks": layout.ranks,
            "replicas": self.mesh.replicas,
            "layout": layout.kind,
            "chunks": layout.chunks,
            "chunk_tokens": layout.chunk_tokens,
            "sequence_tokens": layout.length_tokens,
            "sequences": layout.sequences,
            "batch": sweeps.batch,
            "layers": sweeps.schedule.layers,
            "parts": [list(names) for names in sweeps.schedule.parts],
            "precision": config.train.precision,
            "device": torch.cuda.get_device_name(device) if on_gpu else "CPU",
            "zero_stage": config.zero.stage,
            "mini_batch_tokens": config.alignment,
            "tokens_per_step": layout.length_tokens * config.train.sequences_per_step,
            "keep_chunks": sweeps.keep.chunks,
        }


def with_steps(config: Config, steps: int) -> Config:
    """Return the configuration with room for so many steps; their data and costs stay the same."""
    train = config.train.model_copy(update={"steps": max(config.train.steps, steps)})
    return config.model_copy(update={"train": train})


def bytes_in_use(device: torch.device) -> Callable[[], int]:
    """Return what tells this rank's memory where it computes."""
    if device.type == "cuda":
        return lambda: torch.cuda.memory_allocated(device)
    process = psutil.Process()
    return lambda: process.memory_info().rss


@dataclass(frozen=True)
class Clock:
    """How a rank's clock compares with rank 0's; between two comparisons it drifts evenly."""

    before: ClockOffset
    """Offset that was measured before the trace."""
    after: ClockOffset
    """Offset that was measured after the trace."""
    asked: float
    """Rank 0's clock at the first comparison, in seconds."""
    again: float
    """Rank 0's clock at the second comparison, in seconds."""

    def on_first(self, own: float) -> float:
        """Translate a moment of the own clock to rank 0's clock, in seconds."""
        ahead = self.before.seconds
        drift = (self.after.seconds - ahead) / max(self.again - self.asked, 1e-9)
        return own - ahead - drift * (own - ahead - self.asked)


def on_one_clock(ranks: list[RankTrace], clocks: list[Clock]) -> list[RankTrace]:
    """Move all ranks' times to rank 0's clock, and let the first span begin at 0."""
    pairs = list(zip(ranks, clocks, strict=True))
    zero = min((c.on_first(r.spans[0].begin) for r, c in pairs if r.spans), default=0.0)
    return [_moved(rank, clock, zero) for rank, clock in pairs]


def _moved(rank: RankTrace, clock: Clock, zero: float) -> RankTrace:
    def spans(found: list[Span]) -> list[Span]:
        """Translate spans to rank 0's clock."""
        return [s._replace(begin=moved(s.begin), end=moved(s.end)) for s in found]

    def moved(own: float) -> float:
        """The moment as the trace has it."""
        return clock.on_first(own) - zero

    return replace(
        rank,
        spans=spans(rank.spans),
        reads=spans(rank.reads),
        steps=[StepMark(m.step, moved(m.begin), moved(m.end)) for m in rank.steps],
        memory=[(moved(seconds), size) for seconds, size in rank.memory],
        clock_error_seconds=max(clock.before.error_seconds, clock.after.error_seconds),
    )
