"""One chunk through some layers: without a graph, with one, and backwards."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field

import torch
from torch import Tensor

from tttscale.model.language_model import TTTForCausalLM
from tttscale.scan.losses import Losses
from tttscale.scan.noted_layers import NotedLayers
from tttscale.scan.ports import CarryRouter, ChunkPorts, LayerPorts
from tttscale.scan.reader import Batch
from tttscale.scan.schedule import ChunkTask
from tttscale.scan.step_plan import StepPlan
from tttscale.scan.tied_weight import TiedWeight
from tttscale.scan.timeline import Activity, Run

Head = Callable[[ChunkTask, Batch, Tensor], None]
"""Takes a task, its tokens, and the residual stream [B, C, D] after the last block."""


@dataclass
class RecordedChunk:
    """A task that ran with its graph."""

    x: Tensor | None
    """The leaf it began from; None if it began from token ids."""
    out: Tensor
    """Its output, or the sum of the chunk's losses after the last layer."""
    ports: list[LayerPorts]
    """Those of its layers, which the backward uses."""


@dataclass
class StepState:
    """All that one step holds on this rank, from the beginning of its forward sweep."""

    plan: StepPlan
    batches: Iterator[Batch]
    router: CarryRouter
    losses: Losses
    inputs: dict[tuple[int, int, int], Tensor] = field(default_factory=dict)
    """By sequence, chunk and layer: what a task left for the next layers' task of its chunk."""
    recorded: dict[ChunkTask, RecordedChunk] = field(default_factory=dict)
    grads: dict[tuple[int, int, int], Tensor] = field(default_factory=dict)
    """Gradients of `inputs`."""
    head: Head | None = None
    """Sees the last block's output in place of the model's head, in a forward that trains nothing."""


class ChunkRunner:
    """Runs tasks of a model."""

    def __init__(
        self, model: TTTForCausalLM, device: torch.device, autocast: torch.dtype | None
    ) -> None:
        self.model, self.device, self.autocast = model, device, autocast
        self._tied = TiedWeight(model)

    def precision(self) -> AbstractContextManager:
        """Autocast, where the compute dtype is not the parameters'."""
        if self.autocast is None:
            return nullcontext()
        return torch.autocast(self.device.type, dtype=self.autocast)

    @torch.no_grad()
    def read(self, task: ChunkTask, batch: Batch, ports: ChunkPorts) -> None:
        """Run all layers for what they hand on only: without a graph and without the head."""
        self._layers(task, batch, ports, None)

    def run(self, task: ChunkTask, batch: Batch, ports: ChunkPorts, step: StepState) -> None:
        """Run without a graph. In training the head is left to the recomputation."""
        with torch.no_grad():
            out, _ = self._layers(task, batch, ports, self._input(task, step))
            if not self._is_last(task):
                step.inputs[task.sequence, task.chunk, task.layers.stop] = out
            elif not step.plan.train:
                self._measure(task, batch, out, step, ports.run)
        if not step.plan.train:
            self.forget_input(task, step)

    def record(
        self, task: ChunkTask, batch: Batch, ports: ChunkPorts, step: StepState
    ) -> RecordedChunk:
        """Run with a graph: in the forward sweep, or again in the backward sweep from the stored states."""
        x = self._input(task, step)
        if x is not None:
            x = x.detach().requires_grad_()
        out, used = self._layers(task, batch, ports, x)
        if self._is_last(task):
            out = self._head(task, batch, out, step, ports.run)
        elif not ports.replay:
            step.inputs[task.sequence, task.chunk, task.layers.stop] = out.detach()
        return RecordedChunk(x, out, used)

    def backpropagate(self, task: ChunkTask, recorded: RecordedChunk, step: StepState) -> None:
        """Add to the parameters' gradients; states' gradients come and go through the ports."""
        if self._is_last(task):
            grad = torch.ones_like(recorded.out)
            step.router.timeline.begin(Activity.HEAD, Run.BACKWARD, task)
        else:
            grad = step.grads.pop((task.sequence, task.chunk, task.layers.stop))
        self._tied.backward(recorded.out, grad, task, step.router.schedule)
        for ports in recorded.ports:
            ports.checks.complete("recv_grad", *["send_grad"] * (task.chunk > 0))
        if recorded.x is not None:
            assert recorded.x.grad is not None
            step.grads[task.sequence, task.chunk, task.layers.start] = recorded.x.grad
        self.forget_input(task, step)

    def forget_input(self, task: ChunkTask, step: StepState) -> None:
        """A task's input is not needed any more."""
        step.inputs.pop((task.sequence, task.chunk, task.layers.start), None)

    def _input(self, task: ChunkTask, step: StepState) -> Tensor | None:
        if task.layers.start == 0:
            return None
        return step.inputs[task.sequence, task.chunk, task.layers.start]

    def _layers(
        self, task: ChunkTask, batch: Batch, ports: ChunkPorts, x: Tensor | None
    ) -> tuple[Tensor, list[LayerPorts]]:
        used, noted = [], NotedLayers(ports, self.model)
        with self.precision(), noted:
            noted.begin(Activity.EMBED)
            out = noted.out(self.model.embed(batch.ids) if x is None else x, Activity.EMBED)
            for layer in task.layers:
                noted.begin(Activity.PROJECT, layer)
                used.append(LayerPorts(ports, layer))
                out = self.model.blocks[layer](out, batch.chunk, used[-1])
                used[-1].checks.complete("recv_state", "send_state")
                out = noted.out(out, Activity.FINISH, layer)
        return out, used

    def _head(self, task: ChunkTask, batch: Batch, x: Tensor, step: StepState, run: Run) -> Tensor:
        step.router.timeline.begin(Activity.HEAD, run, task)
        with self.precision():
            total, losses = self.model.head(x, batch.labels)
        step.losses.add(task.sequence, task.chunk, batch.chunk.begin, losses, batch.labels)
        return total

    def _measure(self, task: ChunkTask, batch: Batch, x: Tensor, step: StepState, run: Run) -> None:
        if step.head is None:
            self._head(task, batch, x, step, run)
            return
        step.router.timeline.begin(Activity.HEAD, run, task)
        with self.precision():
            step.head(task, batch, x)

    def _is_last(self, task: ChunkTask) -> bool:
        return task.layers.stop == len(self.model.blocks)
