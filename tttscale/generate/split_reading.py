"""Reading a long text on all ranks of a job: its chunks go over the ranks as those of a training step do.

Rank 0 has the text and what was read before, and gets the state afterwards; it reads alone what is short,
and the tokens after the last whole chunk. Its chunks are those that one process would read, and so are the
bits of the state.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from tttscale.comm.mesh import Mesh
from tttscale.model.decode_state import DecodeState, Parts
from tttscale.model.decoder import Decoder
from tttscale.model.language_model import TTTForCausalLM
from tttscale.model.ports import Carried
from tttscale.scan.declarations import declared
from tttscale.scan.forward_sweep import ForwardSweep
from tttscale.scan.layout import Layout

FEWEST_CHUNKS = 2
"""Whole chunks of a text that is worth splitting."""


class _Plan(NamedTuple):
    """What all ranks must know before they read together; numbers, to be sent."""

    chunks: int
    """Whole chunks that are split; 0: rank 0 does without the others."""
    begin_tokens: int
    """Tokens read before them."""


class SplitReader:
    """The ranks of a job that read one text together, once."""

    def __init__(self, model: TTTForCausalLM, mesh: Mesh) -> None:
        """Take a model that is the same on all ranks; nothing is sent yet."""
        self._model, self._mesh = model, mesh
        self._device = model.model.embed_tokens.weight.device
        self._chunk_tokens = Decoder(model).chunk_tokens
        self._is_over = False

    def read(self, decoder: Decoder, ids: Tensor, read: Callable[[int], None]) -> Tensor:
        """Read on rank 0, with the help of all others if the text is long; they call `help`.

        Args:
            decoder: of one row.
            ids: int64 [1, T].
            read: is told how many of them have been read.

        Returns:
            Logits [1, V] of what follows, as `Decoder.read`.
        """
        head = -decoder.state.positions[0] % decoder.unit
        chunks = (ids.shape[1] - head - 1) // self._chunk_tokens
        if self._is_over or chunks < FEWEST_CHUNKS:
            self.cancel()
            return decoder.read(ids, read)
        if head:
            decoder.read(ids[:, :head])
        split = chunks * self._chunk_tokens
        plan = _Plan(chunks, decoder.state.positions[0])
        self._send(plan)
        piece = ids[:, head : head + split].cpu().contiguous()
        self._mesh.broadcast([piece], 0)
        layers = self._together(plan, piece, decoder.state.layers, lambda done: read(head + done))
        decoder.state = DecodeState([plan.begin_tokens + split], layers)
        return decoder.read(ids[:, head + split :], lambda done: read(head + split + done))

    def help(self) -> None:
        """Read along on any other rank than 0, if rank 0 wants that."""
        numbers = torch.zeros(len(_Plan._fields), dtype=torch.int64)
        self._mesh.broadcast([numbers], 0)
        plan = _Plan(*numbers.tolist())
        if not plan.chunks:
            return
        piece = torch.empty(1, plan.chunks * self._chunk_tokens, dtype=torch.int64)
        self._mesh.broadcast([piece], 0)
        self._together(plan, piece, [], lambda done: None)

    def cancel(self) -> None:
        """Tell the others on rank 0 that they are not needed; nothing if they know or have helped."""
        if not self._is_over:
            self._send(_Plan(0, 0))

    def _send(self, plan: _Plan) -> None:
        self._is_over = True
        self._mesh.broadcast([torch.tensor(plan, dtype=torch.int64)], 0)

    def _together(
        self, plan: _Plan, ids: Tensor, before: list[Parts], read: Callable[[int], None]
    ) -> list[Parts]:
        """Sweep over the chunks; every rank gets the state after them."""
        ranks, begin = self._mesh.world_size, plan.begin_tokens
        if begin:
            layers = enumerate(self._model.carry_layers)
            wanted = [declared(layer, number, 1, begin) for number, layer in layers]
            before = self._told(before if self._mesh.rank == 0 else None, wanted, 0)
        else:
            before = []
        layout = Layout("striped", ids.shape[1], self._chunk_tokens, ranks)
        sweep = ForwardSweep(self._model, layout, self._mesh.transport, begin_tokens=begin)
        after = sweep.run(ids, before, read)
        return self._told(after, sweep.after(), sweep.last_owner)

    def _told(
        self, layers: list[Parts] | None, wanted: list[dict[str, Carried]], source: int
    ) -> list[Parts]:
        """Give all ranks the parts that one has.

        Args:
            layers: on the source, else None.
            wanted: their shapes and dtypes.
            source: the rank that has them.
        """
        wide = torch.promote_types(self._model.lm_head.weight.dtype, torch.float32)
        found: list[Parts] = []
        for number, parts in enumerate(wanted):
            own: Parts = {}
            for name, carried in parts.items():
                dtype = carried.dtype or wide
                if layers is None:
                    tensors = [torch.empty(shape, dtype=dtype) for shape in carried.shapes]
                else:
                    tensors = [t.detach().cpu().contiguous() for t in layers[number][name]]
                self._mesh.broadcast(tensors, source)
                own[name] = tuple(t.to(self._device) for t in tensors)
            found.append(own)
        return found
