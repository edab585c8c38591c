"""Reading tokens after tokens, exactly as one forward over all of them would: for generation and for prompts.

Whole units (mini-batches) go through the blocks as a chunk does, the rest token by token. A row's result
does not depend on how its tokens are cut into calls, but for rounding.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from tttscale.kernels.precision import widened
from tttscale.model.chunk import Chunk
from tttscale.model.decode_state import DecodeState, HeldPorts, Parts

if TYPE_CHECKING:
    from tttscale.model.language_model import Block, TTTForCausalLM

CHUNK_TOKENS = 2048
"""Tokens that go through the blocks together, at most: the memory that a prompt takes."""


class Decoder:
    """A model, and what it has read of each row of a batch."""

    def __init__(
        self, model: "TTTForCausalLM", state: DecodeState | None = None, rows: int = 1
    ) -> None:
        """Begin, or continue from a state.

        Args:
            model: in any dtype; it is not changed.
            state: of a copy of this model; it is not changed.
            rows: of the batch, if nothing has been read.
        """
        self.model = model
        self.blocks: list[Block] = model.carry_layers
        self.state = DecodeState.empty(rows, len(self.blocks)) if state is None else state
        """What has been read. Whole at any time: a call that fails, or is interrupted, leaves it as it was
        after the tokens that it did read."""
        mixers = [block.seq_modeling_block for block in self.blocks]
        self.unit = math.lcm(*(type(m).alignment(m.config, m.options) for m in mixers))
        """Tokens of a unit: places where a chunk may end are multiples of it."""
        self.chunk_tokens = max(1, CHUNK_TOKENS // self.unit) * self.unit
        """Tokens that go through the blocks together, at most."""

    @torch.no_grad()
    def read(self, ids: Tensor, read: Callable[[int], None] = lambda tokens: None) -> Tensor:
        """Read tokens.

        Args:
            ids: int64 [B, T], T > 0; one row for each of the state's.
            read: is told after each piece how many of them have been read.

        Returns:
            fp32 (or wider) logits [B, V] of what follows the last token.
        """
        last = None
        for x in self._streams(ids, read):
            last = x[:, -1:]
        assert last is not None
        logits = self._logits(last)[:, 0]
        self.state = replace(self.state, logits=logits)
        return logits

    @torch.no_grad()
    def read_all(self, ids: Tensor) -> Tensor:
        """Read tokens, as `read` does, and return the logits after each of them, [B, T, V]."""
        return torch.cat([self._logits(x) for x in self._streams(ids, lambda tokens: None)], dim=1)

    def _streams(self, ids: Tensor, read: Callable[[int], None]) -> Iterator[Tensor]:
        """Yield the residual stream after the last block, piece by piece."""
        assert ids.shape[0] == len(self.state.positions)
        assert ids.shape[1] > 0
        done = 0
        while done < ids.shape[1]:
            count = self._whole(ids.shape[1] - done)
            piece = ids[:, done : done + max(count, 1)]
            x, self.state = self._chunk_through(piece) if count else self._token_through(piece)
            done += piece.shape[1]
            read(done)
            yield x

    def _whole(self, left: int) -> int:
        """How many of the tokens left go through together; 0: one token alone."""
        aligned = len(set(self.state.positions)) == 1 and self.state.positions[0] % self.unit == 0
        return min(left // self.unit * self.unit, self.chunk_tokens) if aligned else 0

    def _chunk_through(self, ids: Tensor) -> tuple[Tensor, DecodeState]:
        x, chunk, layers = (
            self.model.embed(ids),
            Chunk(begin=self.state.positions[0]),
            list[Parts](),
        )
        for block, held in zip(self.blocks, self.state.layers, strict=True):
            ports = HeldPorts(held)
            x = block(x, chunk, ports)
            layers.append(ports.sent())
        return x, self._after(ids, layers)

    def _token_through(self, ids: Tensor) -> tuple[Tensor, DecodeState]:
        x, layers = self.model.embed(ids), list[Parts]()
        for block, held in zip(self.blocks, self.state.layers, strict=True):
            x, kept = block.step(x, self.state.positions, held)
            layers.append(kept)
        return x, self._after(ids, layers)

    def _after(self, ids: Tensor, layers: list[Parts]) -> DecodeState:
        return DecodeState([at + ids.shape[1] for at in self.state.positions], layers)

    def _logits(self, x: Tensor) -> Tensor:
        _, x = self.model.model.norm(x)
        return widened(self.model.operators.linear(x, self.model.lm_head.weight))
