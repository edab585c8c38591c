"""Reading tokens after tokens, exactly as one forward over all of them would: for generation and for prompts.

Whole units (mini-batches) go through the blocks as a chunk does, the rest token by token. A row's result
does not depend on how its tokens are cut into calls, but for rounding.
"""

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from tttscale.kernels.precision import widened
from tttscale.model.chunk import Chunk
from tttscale.model.decode_state import DecodeState, HeldPorts
from tttscale.model.language_model import Block, TTTForCausalLM

CHUNK_TOKENS = 2048
"""Tokens that go through the blocks together, at most: the memory that a prompt takes."""


class Decoder:
    """A model, and what it has read of each row of a batch."""

    def __init__(
        self, model: TTTForCausalLM, state: DecodeState | None = None, rows: int = 1
    ) -> None:
        """Begin, or continue from a state, which from now on is this decoder's own.

        Args:
            model: in any dtype; it is not changed.
            state: of a copy of this model.
            rows: of the batch, if nothing has been read.
        """
        self.model = model
        self.blocks: list[Block] = model.carry_layers
        self.state = DecodeState.empty(rows, len(self.blocks)) if state is None else state
        mixers = [block.seq_modeling_block for block in self.blocks]
        self.unit = math.lcm(*(type(m).alignment(m.config, m.options) for m in mixers))
        """Tokens of a unit: places where a chunk may end are multiples of it."""
        self._chunk = max(1, CHUNK_TOKENS // self.unit) * self.unit

    @torch.no_grad()
    def read(self, ids: Tensor) -> Tensor:
        """Read tokens.

        Args:
            ids: int64 [B, T], T > 0; one row for each of the state's.

        Returns:
            fp32 (or wider) logits [B, V] of what follows the last token.
        """
        for x in self._streams(ids):
            last = x[:, -1:]
        return self._logits(last)[:, 0]

    @torch.no_grad()
    def read_all(self, ids: Tensor) -> Tensor:
        """Read tokens, as `read` does, and return the logits after each of them, [B, T, V]."""
        return torch.cat([self._logits(x) for x in self._streams(ids)], dim=1)

    def _streams(self, ids: Tensor) -> Iterator[Tensor]:
        """Yield the residual stream after the last block, piece by piece."""
        assert ids.shape[0] == len(self.state.positions)
        assert ids.shape[1] > 0
        done = 0
        while done < ids.shape[1]:
            count = self._whole(ids.shape[1] - done)
            piece = ids[:, done : done + max(count, 1)]
            yield self._chunk_through(piece) if count else self._token_through(piece)
            done += piece.shape[1]

    def _whole(self, left: int) -> int:
        """How many of the tokens left go through together; 0: one token alone."""
        aligned = len(set(self.state.positions)) == 1 and self.state.positions[0] % self.unit == 0
        return min(left // self.unit * self.unit, self._chunk) if aligned else 0

    def _chunk_through(self, ids: Tensor) -> Tensor:
        x, state = self.model.embed(ids), self.state
        chunk = Chunk(begin=state.positions[0])
        for layer, block in enumerate(self.blocks):
            ports = HeldPorts(state.layers[layer])
            x = block(x, chunk, ports)
            state.layers[layer] = ports.sent()
        self._advance(ids.shape[1])
        return x

    def _token_through(self, ids: Tensor) -> Tensor:
        x, state = self.model.embed(ids), self.state
        for layer, block in enumerate(self.blocks):
            x, state.layers[layer] = block.step(x, state.positions, state.layers[layer])
        self._advance(1)
        return x

    def _advance(self, tokens: int) -> None:
        self.state.positions = [position + tokens for position in self.state.positions]

    def _logits(self, x: Tensor) -> Tensor:
        _, x = self.model.model.norm(x)
        return widened(self.model.operators.linear(x, self.model.lm_head.weight))
