"""Where a value first stopped being finite: layer, head, chunk, sequence, replica and rank, in scan order.

A healthy step is not slowed down for this. After a fault all ranks compute the same step again, from the same
weights and tokens, by the same sweeps, and look at every layer of every chunk: first a forward without a
graph, then, if all of it is finite, a forward and a backward. What depends on something comes after it in
scan order, so the first value that is found is an origin and no consequence.
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor, nn

from tttscale.comm.collective import on_all_ranks
from tttscale.comm.mesh import Mesh
from tttscale.model.language_model import Block
from tttscale.model.ports import Part
from tttscale.scan.carry_norms import norms
from tttscale.scan.final_gradients import FinalGradients
from tttscale.scan.keep_policy import backward_order
from tttscale.scan.ports import LayerPorts
from tttscale.scan.reader import Groups
from tttscale.scan.schedule import CarryKey, ChunkTask, Phase
from tttscale.scan.step_plan import StepPlan
from tttscale.scan.sweep import Sweeps
from tttscale.scan.timeline import Run
from tttscale.train.engine import LARGEST_NORM

NOT_AGAIN = (
    "The same step, computed again, has no such value: memory or hardware of a rank may be at fault"
)
ONLY_THE_SUM = "Every rank's own gradient is in range: only their sum over chunks and ranks is not"

Order = tuple[int, ...]
"""Phase, replica, sequence, chunk and layer; in the backward the last two count down."""


def origin(sweeps: Sweeps, mesh: Mesh, groups: Groups) -> str:
    """Compute a step again and say where it first had a value that cannot be used. Collective.

    Args:
        sweeps: those of the step; weights are as they were before it.
        mesh: all ranks.
        groups: this replica's sequences of the step.

    Returns:
        A sentence without its full stop, the same on all ranks.
    """
    search = _Search(sweeps, mesh)
    search.look_at_weights()
    with search.watching():
        losses = sweeps.forward(groups, train=False)
        search.look_at_losses(losses.sums)
        if found := search.agreed():
            return found
        search.backward = True
        sweeps.forward(groups)
        sweeps.backward()
    own = float(sum(_norm(p.grad) for p in sweeps.model.parameters() if p.grad is not None))
    sweeps.model.zero_grad()
    found = search.agreed()
    everywhere = float(mesh.gather([own]).sum())
    return found or (ONLY_THE_SUM if not everywhere <= LARGEST_NORM else NOT_AGAIN)


@dataclass
class _Search:
    """One rank's search: the first finding so far, in scan order."""

    sweeps: Sweeps
    mesh: Mesh
    backward: bool = False
    """Look at gradients; otherwise at values of the forward."""
    first: tuple[Order, str] | None = None
    _bad: set[str] = field(default_factory=set)
    """Parameters whose gradients were found."""

    def agreed(self) -> str:
        """Return the first finding of all ranks; empty without any. Collective."""
        found = on_all_ranks(self.mesh, lambda: self.first)
        return min(filter(None, found), default=((), ""))[1]

    # ---- what is looked at ---------------------------------------------------------------------

    def look_at_weights(self) -> None:
        """Look at the parameters, before anything else."""
        for name, parameter in self.sweeps.model.named_parameters():
            if self.first is None and not _is_usable(parameter, math.inf):
                self.first = (-1,), f"The parameter {name} {_value(parameter)} before this step"

    def look_at_losses(self, sums: Tensor) -> None:
        """Look at the losses of own chunks, fp64 [M, n, B]."""
        for m, chunk in (~sums.isfinite()).any(2).nonzero().tolist():
            self._check(sums[m, chunk], m, chunk, self._layers, "the loss of its tokens")

    def sent(self, key: CarryKey, part: Part) -> None:
        """Look at a part of a carry, or its gradient (`CarryWatch`)."""
        if (key.phase is Phase.BACKWARD) != self.backward:
            return
        declared = self.sweeps.carry.at(key.layer, 0)[key.part]
        what, chunk = f"the {key.part} that it hands on", key.boundary
        if self.backward:
            what, chunk = f"the gradient of the {key.part} that it received", key.boundary + 1
        for number, tensor in enumerate(part):
            name = f" ({declared.names[number]})" if declared.names else ""
            name = name or (f" (tensor {number})" if len(part) > 1 else "")
            # As `CarryNorms` measures it, so that whatever it finds is found here.
            bad = ~norms(tensor, 2 if declared.has_heads else 1).isfinite()
            text = f"{what}{name} {_value(tensor)}" if bad.any() else ""
            self._note(bad, key.sequence, chunk, key.layer, text, declared.has_heads)

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Look at every layer and carry of the sweeps inside; nothing is reduced between ranks."""
        sweeps, hooks = self.sweeps, []
        final, sweeps.final_gradients = sweeps.final_gradients, _Tasks(self)
        sweeps.watch = self
        try:
            for block in cast("list[Block]", list(sweeps.model.blocks)):
                mixer = block.seq_modeling_block
                hooks += [
                    block.register_forward_pre_hook(self._block_begins),
                    mixer.register_forward_pre_hook(self._mixer_begins),
                    mixer.register_forward_hook(self._mixer_ends),
                    block.register_forward_hook(self._block_ends),
                ]
            yield
        finally:
            for hook in hooks:
                hook.remove()
            sweeps.final_gradients, sweeps.watch = final, None

    def look_at_gradients(self, task: ChunkTask) -> None:
        """Look at the gradients of the parameters of a task that has just backpropagated."""
        model = self.sweeps.model
        modules: list[tuple[int, nn.Module]] = [(i, model.blocks[i]) for i in task.layers]
        if task.layers.start == 0:
            modules.append((-1, model.model.embed_tokens))
        if task.layers.stop == self._layers:
            modules += [(self._layers, model.model.norm), (self._layers, model.lm_head)]
        names = {parameter: name for name, parameter in model.named_parameters()}
        for layer, module in modules:
            for parameter in module.parameters():
                name, grad = names[parameter], parameter.grad
                if grad is None or name in self._bad or _is_usable(grad, LARGEST_NORM):
                    continue
                self._bad.add(name)
                what = f"the gradient of the parameter {name}"
                self._check(grad[None], task.sequence, task.chunk, layer, what)

    # ---- hooks of a block: all are given (x, chunk, ports) -------------------------------------

    def _block_begins(self, block: nn.Module, given: Any) -> None:
        x, _, ports = given
        if ports.layer == 0 and not self.backward:
            self._look(x, ports, "the embedding of its tokens", layer=-1)
        self._look_later(x, ports, "the gradient of its input")

    def _mixer_begins(self, mixer: nn.Module, given: Any) -> None:
        h, _, ports = given
        self._look(h, ports, "the normed input of its sequence layer")
        self._look_later(h, ports, "the gradient of its sequence layer's input")

    def _mixer_ends(self, mixer: nn.Module, given: Any, out: Any) -> None:
        if isinstance(out, Tensor):
            self._look(out, given[2], "the output of its sequence layer")
            self._look_later(out, given[2], "the gradient of its sequence layer's output")

    def _block_ends(self, block: nn.Module, given: Any, out: Any) -> None:
        self._look(out, given[2], "its output")
        if given[2].layer == self._layers - 1:
            what = "the gradient of the head's input"
            self._look_later(out, given[2], what, layer=self._layers)

    def _look(self, x: Tensor, ports: LayerPorts, what: str, layer: int | None = None) -> None:
        task = ports.chunk.task
        if not self.backward and ports.chunk.run is Run.FORWARD:
            layer = ports.layer if layer is None else layer
            self._check(x, task.sequence, task.chunk, layer, what)

    def _look_later(
        self, x: Tensor, ports: LayerPorts, what: str, layer: int | None = None
    ) -> None:
        """Look at the gradient of an activation, when it comes."""
        task = ports.chunk.task
        if self.backward and x.requires_grad:
            layer = ports.layer if layer is None else layer
            where = {"m": task.sequence, "chunk": task.chunk, "layer": layer, "what": what}
            x.register_hook(partial(self._check, **where))

    # ---- findings ------------------------------------------------------------------------------

    @property
    def _layers(self) -> int:
        return self.sweeps.schedule.layers

    def _check(self, tensor: Tensor, m: int, chunk: int, layer: int, what: str) -> None:
        """Note a tensor [B, ...] if it has a value that cannot be used."""
        limit = LARGEST_NORM if self.backward else math.inf
        if not _is_usable(tensor, limit):
            bad = ~((tensor.detach().abs() <= limit) & tensor.detach().isfinite())
            self._note(bad.reshape(len(bad), -1), m, chunk, layer, f"{what} {_value(tensor)}")

    def _note(
        self, bad: Tensor, m: int, chunk: int, layer: int, what: str, has_heads: bool = False
    ) -> None:
        """Note what is bad of a chunk, bool [B, ...], if that comes first."""
        places = bad.nonzero()
        if not len(places):
            return
        row, *rest = places[0].tolist()
        sequence, down = m * self.sweeps.batch + row, -1 if self.backward else 1
        order = (int(self.backward), self.mesh.replica, sequence, down * chunk, down * layer)
        if self.first is None or order < self.first[0]:
            head = rest[0] if has_heads else None
            self.first = order, self._said(sequence, chunk, layer, head, what)

    def _said(self, sequence: int, chunk: int, layer: int, head: int | None, what: str) -> str:
        places = []
        if 0 <= layer < self._layers:
            places.append(f"layer {layer}")
        if head is not None:
            places.append(f"head {head}")
        where = ", ".join([*places, f"chunk {chunk}"])
        return (
            f"First in {where} of sequence {sequence} (replica {self.mesh.replica}, "
            f"rank {self.mesh.rank}): {what}"
        )


class _Tasks(FinalGradients):
    """The order of the backward sweep, with a look at the parameters' gradients after each task."""

    def __init__(self, search: _Search) -> None:
        super().__init__(search.sweeps.model)
        self._search = search

    def backward(self, plan: StepPlan) -> Iterator[tuple[Run, ChunkTask]]:
        """Yield what the backward sweep of a plan does; nothing is summed early."""
        for run, task in backward_order(plan.tasks, plan.kept):
            yield run, task
            if run is Run.BACKWARD:
                self._search.look_at_gradients(task)


def _is_usable(tensor: Tensor, limit: float) -> bool:
    """Return whether all values are finite and their absolute values at most `limit`."""
    if not (tensor.is_floating_point() and tensor.numel()):
        return True
    largest = float(torch.linalg.vector_norm(tensor.detach(), math.inf))
    return math.isfinite(largest) and largest <= limit


def _value(tensor: Tensor) -> str:
    """Say which value a tensor has that cannot be used."""
    tensor = tensor.detach()
    if tensor.isnan().any():
        return "is not a number"
    largest = float(torch.linalg.vector_norm(tensor, math.inf))
    return f"is too large ({largest:.3g})" if math.isfinite(largest) else "is infinite"


def _norm(grad: Tensor) -> float:
    return float(torch.linalg.vector_norm(grad.detach().double()))
