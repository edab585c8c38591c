"""How many chunks may keep their activations: `parallel.keep_chunks`.

The last own chunks of the forward sweep are the first of the backward sweep. If their graphs are kept,
they need no recomputation. One is always free, since the backward needs room for one chunk anyway.
"""

from collections.abc import Callable, Iterable
from typing import Any, Literal, Self

import torch
from torch import Tensor


class SavedBytes:
    """Counts what autograd saves for the backward, each storage once, parameters not at all."""

    def __init__(self, parameters: Iterable[Tensor]) -> None:
        self._seen = {p.untyped_storage().data_ptr() for p in parameters}
        self.total = 0
        self._hooks = torch.autograd.graph.saved_tensors_hooks(self._pack, lambda t: t)

    def _pack(self, tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in self._seen:
            self._seen.add(storage.data_ptr())
            self.total += storage.nbytes()
        return tensor

    def __enter__(self) -> Self:
        self._hooks.__enter__()
        return self

    def __exit__(self, *exc: Any) -> None:
        self._hooks.__exit__(*exc)


class ActivationPolicy:
    """Number of own chunks whose activations are kept; "auto" measures one and sees what fits."""

    def __init__(
        self, asked: int | Literal["auto"], available_bytes: Callable[[], int] | None = None
    ) -> None:
        """Start with the number asked for, or with one.

        Args:
            asked: a number, or "auto".
            available_bytes: memory that this rank may still take; None: unknown, keep one.
        """
        self._available = available_bytes if asked == "auto" else None
        self._layer_bytes: dict[int, float] = {}
        self.chunks = 1 if asked == "auto" else asked
        self.chunk_bytes: int | None = None

    def wants_measure(self, layers: range) -> bool:
        """Whether the activations of a whole chunk in these layers should be counted."""
        unknown = self.chunk_bytes is None and layers.start not in self._layer_bytes
        return self._available is not None and unknown

    def measured(self, layers: range, saved_bytes: int, of_layers: int) -> None:
        """Learn the size of one chunk's activations in some layers, counted while they are in memory.

        The number to keep follows once all layers are known: contiguous ranks run them one by one.
        """
        assert self._available is not None
        self._layer_bytes |= dict.fromkeys(layers, saved_bytes / len(layers))
        if len(self._layer_bytes) < of_layers:
            return
        self.chunk_bytes = max(round(sum(self._layer_bytes.values())), 1)
        # What was measured is itself still in memory.
        self.chunks = 1 + max(0, self._available() // self.chunk_bytes)
