"""Sequences that are only read, split over ranks: states go right, no loss is taken, nothing is kept.

The chunks, their owners and their hand-overs are those of a training step's forward sweep, and so are the
bits. What comes out is the carry after the last chunk.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from tttscale.kernels.ops.cross_entropy import IGNORED
from tttscale.model.chunk import Chunk
from tttscale.model.device import to_device
from tttscale.model.language_model import TTTForCausalLM
from tttscale.model.ports import Carried, Part
from tttscale.observe.timeline import Timeline
from tttscale.scan.carry import CarryLayout
from tttscale.scan.carry_store import CarryStore
from tttscale.scan.chunk_runner import ChunkRunner
from tttscale.scan.layout import Layout
from tttscale.scan.noted_transport import noted
from tttscale.scan.ports import CarryRouter, ChunkPorts
from tttscale.scan.reader import Batch
from tttscale.scan.schedule import CarryKey, Phase, Schedule
from tttscale.scan.transport import RecvQueue, Transport

AHEAD_LAYERS = 2
"""Receives are started for this many layers ahead."""
LayerParts = dict[str, Part]
"""By name: the parts of one layer's carry."""


class ForwardSweep:
    """One pass of a model over one sequence of B rows, without gradients."""

    def __init__(
        self,
        model: TTTForCausalLM,
        layout: Layout,
        transport: Transport | None = None,
        *,
        batch: int = 1,
        begin_tokens: int = 0,
    ) -> None:
        """Prepare; nothing is sent yet.

        Args:
            model: the same on all ranks.
            layout: striped, of one sequence: which rank owns which chunk.
            transport: to the other ranks; None for a single rank.
            batch: rows B that are read side by side.
            begin_tokens: tokens that all rows have read before.
        """
        assert layout.kind == "striped"
        assert layout.sequences == 1
        parameter = next(model.parameters())
        self._layout, self._begin, self._device = layout, begin_tokens, parameter.device
        self._timeline = Timeline(self._device)
        self._transport = noted(transport, self._timeline)
        self._runner = ChunkRunner(model, self._device, None)
        carried = batch, layout.chunk_tokens, parameter.dtype, begin_tokens
        self._carry = CarryLayout(model.carry_layers, *carried)
        self._schedule = Schedule(layout, self._carry.parts)

    @property
    def last_owner(self) -> int:
        """Rank that has the carry after the last chunk."""
        return self._layout.owner(0, self._layout.chunks - 1)

    def after(self) -> list[dict[str, Carried]]:
        """Return shapes and dtypes of the carry after the last chunk, by layer and part."""
        last = self._layout.chunks - 1
        return [self._carry.at(layer, last) for layer in range(len(self._carry.parts))]

    def run(
        self,
        ids: Tensor,
        before: Sequence[LayerParts] = (),
        read: Callable[[int], None] = lambda tokens: None,
    ) -> list[LayerParts] | None:
        """Read all own chunks.

        Args:
            ids: int64 [B, T] on the CPU, all tokens of the layout.
            before: by layer, the carry after `begin_tokens` tokens; needed on the owner of chunk 0.
            read: is told after each own chunk how many tokens the sweep has come to.

        Returns:
            By layer, the carry after the last chunk, on its owner; None on other ranks.
        """
        last = _LastCarry(self._layout.chunks - 1, len(self._carry.parts))
        router = self._router(last, before)
        for task in self._schedule.tasks(self._transport.rank, Phase.FORWARD):
            begin, end = self._layout.bounds(task.chunk)
            ports = ChunkPorts(router, task, replay=False, keep=True)
            self._runner.read(task, self._batch(ids[:, begin:end], begin), ports)
            read(end)
        self._transport.flush()
        return last.layers if self._transport.rank == self.last_owner else None

    def _router(self, last: "_LastCarry", before: Sequence[LayerParts]) -> CarryRouter:
        rank = self._transport.rank
        store = CarryStore(self._carry, (), self._device)
        places = self._transport, store, self._timeline, last
        router = CarryRouter(self._schedule, self._carry, *places)
        for layer, parts in enumerate(before):
            for name, part in parts.items():
                router.before[CarryKey(Phase.FORWARD, 0, -1, layer, name)] = part
        ahead = AHEAD_LAYERS * max(map(len, self._carry.parts))
        expected = self._schedule.incoming(rank, Phase.FORWARD)
        router.queues[Phase.FORWARD] = RecvQueue(self._transport, expected, self._carry, ahead)
        return router

    def _batch(self, ids: Tensor, begin: int) -> Batch:
        on_device = to_device(ids.contiguous(), self._device)
        none = torch.full_like(on_device, IGNORED)
        return Batch(on_device, none, Chunk(begin=self._begin + begin))


class _LastCarry:
    """Keeps what the last chunk hands on; a `CarryWatch`."""

    def __init__(self, chunk: int, layers: int) -> None:
        self._chunk = chunk
        self.layers: list[LayerParts] = [{} for _ in range(layers)]

    def sent(self, key: CarryKey, part: Part) -> None:
        """Keep a part if it leaves the last chunk."""
        if key.boundary == self._chunk:
            self.layers[key.layer][key.part] = part
