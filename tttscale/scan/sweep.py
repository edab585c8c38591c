"""The forward sweep and the backward sweep of one optimizer step on one rank.

Forward: own chunks in schedule order, without a graph; the states they receive are stored. Backward: in
reverse order each chunk is recomputed from its stored states and backpropagated, while the states' gradients
come from the chunk after it and go to the chunk before it. The last own chunks may keep their graphs.
"""

from collections.abc import Generator, Iterator
from contextlib import contextmanager

import torch

from tttscale.kernels.ops.linear import cast_cache
from tttscale.model.language_model import TTTForCausalLM
from tttscale.observe.timeline import Timeline
from tttscale.scan.carry import CarryLayout
from tttscale.scan.carry_norms import CarryNorms, CarryWatch
from tttscale.scan.carry_store import CarryStore
from tttscale.scan.chunk_runner import ChunkRunner, Head, RecordedChunk, StepState
from tttscale.scan.final_gradients import FinalGradients
from tttscale.scan.keep_policy import ActivationPolicy, SavedBytes, split_kept
from tttscale.scan.layout import Layout
from tttscale.scan.losses import Losses
from tttscale.scan.noted_transport import noted
from tttscale.scan.ports import CarryRouter, ChunkPorts
from tttscale.scan.reader import Batch, Groups, Reader
from tttscale.scan.schedule import ChunkTask, Phase, Schedule
from tttscale.scan.step_plan import StepPlan
from tttscale.scan.timeline import Activity, Run
from tttscale.scan.transport import RecvQueue, Transport

AHEAD_LAYERS = 2
"""Receives are started for this many layers ahead."""


class Sweeps:
    """Forward and backward sweeps of a model whose sequences are split as a layout says."""

    def __init__(
        self,
        model: TTTForCausalLM,
        layout: Layout,
        transport: Transport | None = None,
        *,
        batch: int = 1,
        keep: ActivationPolicy | None = None,
        autocast: torch.dtype | None = None,
    ) -> None:
        """Prepare; nothing is sent or allocated yet.

        Args:
            model: its parameters accumulate gradients in place.
            layout: which rank owns which chunk.
            transport: to the other sequence ranks; None for a single rank.
            batch: sequences B that go side by side as one.
            keep: which chunks keep their activations (default: the last one).
            autocast: compute dtype of matrix products, e.g. torch.bfloat16; None: the parameters'.
        """
        parameter = next(model.parameters())
        self.model, self.batch, self.keep = model, batch, keep or ActivationPolicy(1)
        self.device = parameter.device
        self.carry = CarryLayout(model.carry_layers, batch, layout.chunk_tokens, parameter.dtype)
        self.schedule = Schedule(layout, self.carry.parts)
        self.timeline = Timeline(self.device)
        """What this rank does, and how long messages and tokens have held it up."""
        self.transport = noted(transport, self.timeline)
        self.runner = ChunkRunner(model, self.device, autocast)
        self.final_gradients = FinalGradients(model)
        self.norms = CarryNorms(self.carry, batch)
        """Norms of the step's carries and their gradients so far."""
        self.watch: CarryWatch | None = None
        """Sees them instead, in all sweeps."""
        self._reader = Reader(self.device, self.timeline.note_read, layout.chunk_tokens)
        self._store: tuple[tuple[tuple[int, int], ...], CarryStore] | None = None
        self._prepared: tuple[Groups, StepPlan, Generator[Batch, None, None]] | None = None
        self._step: StepState | None = None

    @cast_cache()
    def forward(self, groups: Groups, *, train: bool = True, head: Head | None = None) -> Losses:
        """Run all own chunks.

        With train=False the losses are complete afterwards and nothing is kept. With train=True they
        are complete only after `backward`, since recomputed chunks add theirs there.

        Args:
            groups: groups[m] are the B sequences of the m-th place.
            train: a backward follows.
            head: sees the output of each own chunk in place of the model's head; the losses stay zero. Only
                without train.
        """
        assert head is None or not train
        step = self._begin(groups, train)
        step.head = head
        with self._receiving(step.router, Phase.FORWARD):
            for task in step.plan.tasks:
                self.timeline.begin(Activity.DATA, Run.FORWARD, task)
                batch, kept = next(step.batches), task in step.plan.kept
                ports = ChunkPorts(step.router, task, replay=False, keep=kept or not train)
                if kept:
                    step.recorded[task] = self.runner.record(task, batch, ports, step)
                else:
                    self.runner.run(task, batch, ports, step)
        step.losses.settle()
        self._step = step if train else None
        return step.losses

    @cast_cache()
    def backward(self) -> Losses:
        """Add the gradient of the summed losses to the parameters' `.grad`.

        The sum's and not the mean's: a factor that is no power of two would be rounded to the compute
        dtype, and with it all gradients below the head.

        Returns:
            The losses, now complete for this rank's chunks.
        """
        step, self._step = self._step, None
        assert step is not None, "backward follows a forward with train=True"
        with self._receiving(step.router, Phase.BACKWARD):
            for run, task in self.final_gradients.backward(step.plan):
                if run is Run.RECOMPUTE:
                    step.recorded[task] = self._recompute(task, step)
                else:
                    self.runner.backpropagate(task, step.recorded.pop(task), step)
        assert not step.router.local, "carries or gradients were left over"
        step.losses.settle()
        return step.losses

    def _recompute(self, task: ChunkTask, step: StepState) -> RecordedChunk:
        self.timeline.begin(Activity.DATA, Run.RECOMPUTE, task)
        batch = next(step.batches)
        ports = ChunkPorts(step.router, task, replay=True)
        layout = self.schedule.layout
        whole = batch.ids.shape[1] == min(layout.chunk_tokens, layout.length_tokens)
        if not (whole and self.keep.wants_measure(task.layers)):
            return self.runner.record(task, batch, ports, step)
        with SavedBytes(self.model.parameters()) as saved:
            recorded = self.runner.record(task, batch, ports, step)
        self.keep.measured(task.layers, saved.total, self.schedule.layers)
        return recorded

    def prepare(self, groups: Groups, *, train: bool = True) -> None:
        """Begin to read the first chunk of the next `forward`, while something else is done."""
        plan = self.plan(train)
        self._prepared = groups, plan, self._read(groups, plan)

    def plan(self, train: bool) -> StepPlan:
        """This rank's tasks; the last of them are kept, as many as the policy says."""
        tasks = self.schedule.tasks(self.transport.rank, Phase.FORWARD)
        layers = round(self.keep.chunks * self.schedule.layers) if train else 0
        return StepPlan(train, *split_kept(tasks, layers))

    def _begin(self, groups: Groups, train: bool) -> StepState:
        plan, layout = self.plan(train), self.schedule.layout
        prepared, self._prepared = self._prepared, None
        reading = prepared is not None and prepared[:2] == (groups, plan)
        batches = prepared[2] if prepared and reading else self._read(groups, plan)
        self.norms = CarryNorms(self.carry, self.batch)
        watch = self.watch or (self.norms if train else None)
        places = self.transport, self._room(plan), self.timeline, watch
        router = CarryRouter(self.schedule, self.carry, *places)
        sizes = layout.sequences, layout.chunks, self.batch, layout.length_tokens
        return StepState(plan, batches, router, Losses.empty(*sizes))

    def _read(self, groups: Groups, plan: StepPlan) -> Generator[Batch, None, None]:
        bounds = self.schedule.layout.bounds
        return self._reader.read(groups, ((t.sequence, *bounds(t.chunk)) for t in plan.reads()))

    def _room(self, plan: StepPlan) -> CarryStore:
        """Where the states of recomputed chunks go; the same block every step if it fits."""
        stored = [t for t in plan.tasks if plan.train and t not in plan.kept and t.chunk > 0]
        boundaries = tuple(dict.fromkeys((t.sequence, t.chunk - 1) for t in stored))
        if self._store is None or self._store[0] != boundaries:
            self._store = None  # the old block goes before the new one comes
            self._store = boundaries, CarryStore(self.carry, boundaries, self.device)
        return self._store[1]

    @contextmanager
    def _receiving(self, router: CarryRouter, phase: Phase) -> Iterator[None]:
        """Receive ahead during a sweep; at its end wait until everything has left."""
        ahead = AHEAD_LAYERS * max(map(len, self.carry.parts))
        expected = self.schedule.incoming(self.transport.rank, phase)
        router.queues[phase] = RecvQueue(self.transport, expected, self.carry, ahead)
        yield
        self.transport.flush()
        del router.queues[phase]
