"""How many chunks may keep their activations: `parallel.keep_chunks`.

The last own chunks of the forward sweep are the first of the backward sweep. If their graphs are kept,
they need no recomputation. One is always free, since the backward needs room for one chunk anyway. Of one
more chunk the last layers may be kept, if there is no room for all of them.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any, Literal, Self

import torch
from torch import Tensor

from tttscale.scan.schedule import ChunkTask
from tttscale.scan.timeline import Run


def split_kept(
    tasks: Sequence[ChunkTask], kept_layers: int
) -> tuple[tuple[ChunkTask, ...], frozenset[ChunkTask]]:
    """Choose the tasks whose graphs are kept: the last ones, with so many layers of chunks in all.

    Args:
        tasks: of a forward sweep, in order.
        kept_layers: layers of chunks; more than there are keep everything.

    Returns:
        The tasks, of which one may be cut in two, and those that are kept.
    """
    before, kept, left = list(tasks), [], kept_layers
    while before and left > 0:
        task = before.pop()
        if len(task.layers) > left:
            before.append(replace(task, layers=task.layers[:-left]))
            task = replace(task, layers=task.layers[-left:])
        kept.insert(0, task)
        left -= len(task.layers)
    return (*before, *kept), frozenset(kept)


def backward_order(
    tasks: Sequence[ChunkTask], kept: frozenset[ChunkTask]
) -> Iterator[tuple[Run, ChunkTask]]:
    """Yield what the backward sweep does: recomputations and backwards.

    Of a chunk that is kept in part the other layers are recomputed first, so that the gradients that come
    through the kept ones are not held up.

    Args:
        tasks: of the forward sweep, in order.
        kept: those whose graphs are kept.
    """
    built, backwards = set(kept), tasks[::-1]
    for place, task in enumerate(backwards):
        for each in backwards[place : place + 1 + (task in kept)]:
            same = (each.sequence, each.chunk) == (task.sequence, task.chunk)
            if same and each not in built:
                built.add(each)
                yield Run.RECOMPUTE, each
        yield Run.BACKWARD, task


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
        self, asked: float | Literal["auto"], available_bytes: Callable[[], int] | None = None
    ) -> None:
        """Start with the number asked for, or with one.

        Args:
            asked: a number, such as 1.5, or "auto".
            available_bytes: memory that this rank may still take; None: unknown, keep one.
        """
        self._available = available_bytes if asked == "auto" else None
        self._layer_bytes: dict[int, float] = {}
        self.chunks: float = 1 if asked == "auto" else asked
        """With a fraction, so many of one more chunk's layers."""
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
        more = max(0, self._available() * of_layers // self.chunk_bytes)
        self.chunks = 1 + more / of_layers
