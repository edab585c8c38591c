"""What a model keeps of the tokens it has read, as the cache of transformers."""

from typing import Any

import torch
from torch import Tensor

from tttscale.errors import ConfigError
from tttscale.hf.library import transformers
from tttscale.model.decode_state import DecodeState
from tttscale.model.language_model import TTTForCausalLM
from tttscale.model.padded import read_padded


class TTTCache(transformers.Cache):
    """A state of one size, however much has been read, and how many columns of `input_ids` that were.

    A call of the model that is given a cache puts a new state into it. No tensor is ever written into, so a
    copy stays what it was, and costs nothing.
    """

    is_compileable = False
    is_croppable = False
    is_linear = (False,)  # columns are counted, as in an attention layer

    def __init__(self, state: DecodeState | None = None) -> None:
        """Begin, or continue from a state: then `input_ids` begin with the first token after it.

        Args:
            state: what each row has read, such as `load_state` returns it; it is not changed.
        """
        super().__init__(layers=[])
        self.state = state
        """What each row has read; None: nothing."""
        self.columns = 0
        """Columns of `input_ids` that have been read, padding included."""

    def __bool__(self) -> bool:
        """True, also in front of the first token."""
        return True

    def read(
        self, model: TTTForCausalLM, ids: Tensor, real: Tensor | None, *, last_only: bool
    ) -> Tensor:
        """Read columns; see `read_padded`.

        Raises:
            ConfigError: the cache belongs to another batch or model, or a row has no token.
        """
        if self.state is not None:
            rows, layers = len(self.state.positions), len(self.state.layers)
            if rows != len(ids):
                raise ConfigError(
                    f"the cache has {rows} rows, and input_ids {len(ids)}: give one token or more for each"
                )
            if layers != len(model.blocks):
                raise ConfigError(
                    f"the cache is of a model of {layers} layers, and this has {len(model.blocks)}"
                )
        logits, self.state = read_padded(model, ids, real, self.state, last_only=last_only)
        self.columns += ids.shape[1]
        return logits

    def copy(self) -> "TTTCache":
        """Return a cache with the same content, that another text can continue."""
        made = TTTCache(self.state)
        made.columns = self.columns
        return made

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Columns of `input_ids` that have been read."""
        return self.columns

    def get_max_cache_shape(self, layer_idx: int = 0) -> int:
        """-1: there is no limit."""
        return -1

    def reorder_cache(self, beam_idx: Tensor) -> None:
        """Take these rows, in this order, as beam search does."""
        if self.state is not None:
            self.state = self.state.rows(beam_idx.tolist())

    def batch_select_indices(self, indices: Tensor) -> None:
        """Take these rows, or those that a mask marks."""
        if self.state is not None:
            rows = indices.nonzero().flatten() if indices.dtype == torch.bool else indices
            self.reorder_cache(rows)

    def batch_repeat_interleave(self, repeats: int) -> None:
        """Take each row so many times."""
        if self.state is not None:
            rows = range(len(self.state.positions))
            self.state = self.state.rows([row for row in rows for _ in range(repeats)])

    def reset(self) -> None:
        """Forget all."""
        self.state, self.columns = None, 0

    def crop(self, max_length: int) -> None:
        """Refuse to forget the last tokens: they are in the state's sums.

        Raises:
            ConfigError: always, unless nothing would be forgotten.
        """
        if not 0 <= self.columns <= max_length:
            raise ConfigError(
                "a TTT model's cache cannot forget its last tokens, so crop() and assisted decoding are not "
                "for it. Keep a copy() from before them"
            )

    def update(self, *args: Any, **kwargs: Any) -> Any:
        """Refuse keys and values, which a TTT model has none of.

        Raises:
            ConfigError: always.
        """
        raise ConfigError("a TTTCache holds no keys and values; only a TTT model can use it")
