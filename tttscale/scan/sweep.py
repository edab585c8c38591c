"""The forward sweep and the backward sweep of one optimizer step on one rank.

Forward: own chunks in schedule order, without a graph; incoming carries are stored. Backward: in reverse
order each chunk is recomputed from its stored carry and backpropagated, while the carry's gradient comes
from the chunk after it and goes to the chunk before it. The last own chunks may keep their graphs.
"""

from collections.abc import Generator, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor

from tttscale.kernels.ops.linear import cast_cache
from tttscale.model.language_model import TTTForCausalLM
from tttscale.scan.batch import Batch, Groups, Reader
from tttscale.scan.carry import CarryLayout, CarryStore
from tttscale.scan.edges import ChunkEdges, Post
from tttscale.scan.losses import Losses
from tttscale.scan.memory import KeepPolicy, SavedBytes
from tttscale.scan.schedule import Phase, Schedule, Work
from tttscale.scan.transport import Inbox, NoPeers, TimedTransport, Transport

AHEAD_LAYERS = 2
"""Receives are posted for this many layers ahead."""


@dataclass
class Run:
    """One piece of work with its graph."""

    x: Tensor | None
    """The leaf it began from; None if it began from token ids."""
    out: Tensor
    """Its output, or the sum of the chunk's losses after the last layer."""


class Sweeps:
    """Forward and backward sweeps of a model under a schedule."""

    def __init__(
        self,
        model: TTTForCausalLM,
        schedule: Schedule,
        transport: Transport | None = None,
        *,
        batch: int = 1,
        keep: KeepPolicy | None = None,
        autocast: torch.dtype | None = None,
    ) -> None:
        """Prepare; nothing is sent or allocated yet.

        Args:
            model: its parameters accumulate gradients in place.
            schedule: who does what when.
            transport: to the other sequence ranks; None for a single rank.
            batch: sequences B that go side by side as one.
            keep: which chunks keep their activations (default: the last one).
            autocast: compute dtype of matrix products, e.g. torch.bfloat16; None: the parameters'.
        """
        self.model, self.schedule = model, schedule
        self.transport: TimedTransport | NoPeers = NoPeers()
        self.batch, self.keep, self.autocast = batch, keep or KeepPolicy(1), autocast
        parameter = next(model.parameters())
        self.device = parameter.device
        if transport is not None and transport.size > 1:
            self.transport = TimedTransport(transport, self.device)
        self.carry = CarryLayout.of(model.config, batch, parameter.dtype)
        assert schedule.parts == tuple(self.carry.parts)
        self._carries: tuple[tuple[tuple[int, int], ...], CarryStore] | None = None
        self._reader = Reader(self.device)
        self._upcoming: tuple[Groups, bool, Generator[Batch, None, None]] | None = None
        self._anew: list[Work] = []
        self.wait_seconds = 0.0
        """Time that the last step's messages held this rank up: waiting for them, and getting them sent."""
        self.data_seconds = 0.0
        """Time that the last step waited for tokens."""

    # ---- the two sweeps ------------------------------------------------------------------------

    def prepare(self, groups: Groups, *, train: bool = True) -> None:
        """Begin to read the first chunk for the next `forward`, behind whatever is done meanwhile."""
        ranges = self._ranges_of_step(train)
        self._upcoming = groups, train, self._reader.read(groups, ranges)

    @cast_cache()
    def forward(self, groups: Groups, *, train: bool = True) -> Losses:
        """Run all own chunks; groups[m] are the B sequences of the m-th place.

        With train=False the losses are complete afterwards and nothing is kept. With train=True they
        are complete only after `backward`, since recomputed chunks enter theirs there.
        """
        layout = self.schedule.layout
        self._train = train
        self.wait_seconds, self.data_seconds = 0.0, 0.0
        self.losses = Losses.empty(
            layout.sequences, layout.chunks, self.batch, layout.length_tokens
        )
        works = self.schedule.works(self.transport.rank, Phase.FORWARD)
        kept = self._kept(works) if train else set()
        self._anew = [work for work in reversed(works) if work not in kept]
        self._batches = self._open_batches(groups, train)
        self._post = Post(self.schedule, self.transport, {}, self._room(works, kept, train))
        self._open(Phase.FORWARD)
        self._inputs: dict[tuple[int, int, int], Tensor] = {}
        self._graphs: dict[Work, Run] = {}
        for work in works:
            batch = next(self._batches)
            edges = ChunkEdges(self._post, work, replay=False, keep=not train or work in kept)
            if work in kept:
                self._graphs[work] = self._run(work, batch, edges)
            else:
                self._forward_only(work, batch, edges)
        self._close(Phase.FORWARD)
        self.losses.settle()
        return self.losses

    @cast_cache()
    def backward(self) -> Losses:
        """Add the gradient of the summed losses to the parameters' `.grad`.

        Of the sum and not of the mean: a factor that is no power of two would be rounded to the compute
        dtype, and with it all gradients below the head.

        Returns:
            The losses, now complete for this rank's chunks.
        """
        self._open(Phase.BACKWARD)
        self._gradients: dict[tuple[int, int, int], Tensor] = {}
        works = self.schedule.works(self.transport.rank, Phase.BACKWARD)
        forward_of = {w: Work(Phase.FORWARD, w.sequence, w.chunk, w.layers) for w in works}
        for work in works:
            run = self._graphs.pop(forward_of[work], None)
            if run is None:
                run = self._recompute(forward_of[work], next(self._batches))
            self._backpropagate(work, run)
            self._inputs.pop((work.sequence, work.chunk, work.layers.start), None)
        self._close(Phase.BACKWARD)
        assert self._post.empty, "carries or gradients were left over"
        del self._post  # and with it a hold on the stored carries
        self.losses.settle()
        return self.losses

    # ---- one piece of work ---------------------------------------------------------------------

    def _forward_only(self, work: Work, batch: Batch, edges: ChunkEdges) -> None:
        with torch.no_grad():
            # In training the head runs once, at the recomputation.
            out = self._layers(work, batch, edges, self._input(work))
            if work.layers.stop < self.schedule.layers:
                self._inputs[work.sequence, work.chunk, work.layers.stop] = out
            elif not self._train:
                self._head(work, batch, out)
            if not self._train:
                self._inputs.pop((work.sequence, work.chunk, work.layers.start), None)

    def _recompute(self, work: Work, batch: Batch) -> Run:
        edges = ChunkEdges(self._post, work, replay=True)
        layout = self.schedule.layout
        whole = batch.ids.shape[1] == min(layout.chunk_tokens, layout.length_tokens)
        if not (self.keep.wants_measure and whole):
            return self._run(work, batch, edges)
        with SavedBytes(self.model.parameters()) as saved:
            run = self._run(work, batch, edges)
        self.keep.measured(saved.total * self.schedule.layers // len(work.layers))
        return run

    def _run(self, work: Work, batch: Batch, edges: ChunkEdges) -> Run:
        x = self._input(work)
        if x is not None:
            x = x.detach().requires_grad_()
        out = self._layers(work, batch, edges, x)
        if work.layers.stop == self.schedule.layers:
            out = self._head(work, batch, out)
        elif not edges.replay:
            self._inputs[work.sequence, work.chunk, work.layers.stop] = out.detach()
        return Run(x, out)

    def _input(self, work: Work) -> Tensor | None:
        if work.layers.start == 0:
            return None
        return self._inputs[work.sequence, work.chunk, work.layers.start]

    def _layers(self, work: Work, batch: Batch, edges: ChunkEdges, x: Tensor | None) -> Tensor:
        with self.precision():
            out = self.model.embed(batch.ids) if x is None else x
            for layer in work.layers:
                out = self.model.blocks[layer](out, batch.chunk, edges.layer(layer))
        return out

    def _head(self, work: Work, batch: Batch, x: Tensor) -> Tensor:
        with self.precision():
            total, losses = self.model.head(x, batch.labels)
        self.losses.add(work.sequence, work.chunk, batch.begin, losses, batch.labels)
        return total

    def _backpropagate(self, work: Work, run: Run) -> None:
        if work.layers.stop == self.schedule.layers:
            grad = torch.ones_like(run.out)
        else:
            grad = self._gradients.pop((work.sequence, work.chunk, work.layers.stop))
        torch.autograd.backward(run.out, grad)
        if run.x is not None:
            assert run.x.grad is not None
            self._gradients[work.sequence, work.chunk, work.layers.start] = run.x.grad

    # ---- small things --------------------------------------------------------------------------

    def precision(self) -> AbstractContextManager:
        """Autocast as in the sweeps."""
        if self.autocast is None:
            return nullcontext()
        return torch.autocast(self.device.type, dtype=self.autocast)

    def _ranges_of_step(self, train: bool) -> Iterator[tuple[int, int, int]]:
        """What to read: the forward sweep's chunks, then those that the backward one recomputes."""
        layout = self.schedule.layout
        for work in self.schedule.works(self.transport.rank, Phase.FORWARD):
            yield work.sequence, *layout.bounds(work.chunk)
        if train:  # known by now: the last forward chunk is about to be used
            for work in self._anew:
                yield work.sequence, *layout.bounds(work.chunk)

    def _open_batches(self, groups: Groups, train: bool) -> Generator[Batch, None, None]:
        upcoming, self._upcoming = self._upcoming, None
        if upcoming is not None and upcoming[:2] == (groups, train):
            return upcoming[2]
        return self._reader.read(groups, self._ranges_of_step(train))

    def _kept(self, works: list[Work]) -> set[Work]:
        """The last pieces of the forward sweep, as many as the kept chunks have."""
        per_chunk = self.schedule.layers // len(works[0].layers) if works else 1
        count = min(self.keep.chunks * per_chunk, len(works))
        return set(works[len(works) - count :])

    def _room(self, works: list[Work], kept: set[Work], train: bool) -> CarryStore:
        """Where the carries of recomputed chunks go; the same block every step if it fits."""
        stored = [w for w in works if train and w not in kept and w.chunk > 0]
        edges = tuple(dict.fromkeys((w.sequence, w.chunk - 1) for w in stored))
        if self._carries is None or self._carries[0] != edges:
            layers, device = self.schedule.layers, self.device
            self._carries = None  # the old block goes before the new one comes
            self._carries = edges, CarryStore(self.carry, layers, edges, device)
        return self._carries[1]

    def _open(self, phase: Phase) -> None:
        ahead = AHEAD_LAYERS * len(self.carry.parts)
        expected = self.schedule.incoming(self.transport.rank, phase)
        inbox = Inbox(self.transport, expected, self.carry.parts, ahead)
        self._post.inboxes[phase] = inbox

    def _close(self, phase: Phase) -> None:
        self.transport.finish()
        del self._post.inboxes[phase]
        if isinstance(self.transport, TimedTransport):
            self.wait_seconds += self.transport.waits.take_seconds()
        self.data_seconds += self._reader.wait_seconds
        self._reader.wait_seconds = 0.0
