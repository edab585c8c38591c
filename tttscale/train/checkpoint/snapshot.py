"""What a checkpoint holds of a moment in a run, and a copy of it in the host's memory.

The copy is what lets training continue while a checkpoint is written: steps change weights and moments in
place.
"""

from collections.abc import Iterable, Iterator
from concurrent.futures import Future, wait
from dataclasses import dataclass, replace
from typing import Any, Self

import torch
from torch import Tensor

from tttscale.data.windows.mixture import Mixture
from tttscale.model import TTTForCausalLM
from tttscale.model.architecture import TTTConfig
from tttscale.model.pretrained import weights_of
from tttscale.train import cpu_products
from tttscale.train.checkpoint.background import in_background
from tttscale.train.checkpoint.manifest import versions
from tttscale.train.checkpoint.optimizer_state import described, named_moments
from tttscale.train.engine import Engine
from tttscale.train.memory import available_bytes

_ALIGNED_BYTES = 64
_PAGE_BYTES = 4096
"""Or more: a byte in each is enough for it to be there."""
_ROOM = 1.1
"""Times its size has to be free before a copy is made."""


@dataclass(frozen=True)
class TrainingState:
    """All that a checkpoint saves of a run."""

    step: int
    """Steps done."""
    tokens: int
    """Tokens with a loss so far."""
    model: TTTForCausalLM
    """Weights, equal on all ranks."""
    engine: Engine
    """AdamW's moments, each rank its share."""
    stores: Mixture
    """The stores, for data.json."""
    wandb_id: str | None
    """The id by which wandb knows the run; rank 0's counts."""


@dataclass(frozen=True)
class Snapshot:
    """What this rank writes of a checkpoint: tensors of a step, and all that the manifest says of it."""

    step: int
    tokens: int
    updates: int
    """Updates of the optimizer."""
    wandb_id: str | None
    versions: dict[str, str]
    stores: Mixture
    architecture: TTTConfig
    weights: dict[str, Tensor]
    """By their official keys; empty on all ranks but the first, which writes them."""
    moments: dict[str, Tensor]
    """By `named_moments`: this rank's share."""

    @classmethod
    def of(cls, state: TrainingState, rank: int) -> Self:
        """Take down a run as it is now; tensors are the run's own, which its next step changes."""
        return cls(
            step=state.step,
            tokens=state.tokens,
            updates=state.engine.updates(),
            wandb_id=state.wandb_id,
            versions=versions() | cpu_products.as_version(state.model),
            stores=state.stores,
            architecture=state.model.config,
            weights=weights_of(state.model) if rank == 0 else {},
            moments=named_moments(state.engine.fragments()),
        )

    def not_finite(self) -> str | None:
        """Return, for people, the name of the first tensor with a value that is not finite."""
        for name, tensor in self.weights.items():
            if not _is_finite(tensor):
                return name
        for name, tensor in self.moments.items():
            if not _is_finite(tensor):
                return described(name)
        return None


class HostCopy:
    """Copies of snapshots in one buffer, which is allocated once; each copy takes the place of the last."""

    def __init__(self, local_ranks: int) -> None:
        """Allocate nothing yet.

        Args:
            local_ranks: ranks that share this host's memory.
        """
        self._local_ranks = local_ranks
        self._buffer: Tensor | None = None
        self._making: Future[Tensor | None] | None = None
        """The buffer, while a thread allocates it."""

    def make_room(self, snapshot: Snapshot) -> None:
        """Allocate the buffer in the background, so that the first copy does not wait for its pages.

        Args:
            snapshot: as large as those that will be copied.
        """
        if self._buffer is None and self._making is None:
            room = _Room.of(snapshot)
            self._making = in_background(lambda: self._allocated(room), "room for checkpoints")

    def take(self, snapshot: Snapshot) -> Snapshot | None:
        """Return the snapshot with tensors of its own; None if this host lacks the memory for them.

        When it returns, the run may change its tensors. The last copy is no longer one.
        """
        tensors = snapshot.weights | snapshot.moments
        assert len(tensors) == len(snapshot.weights) + len(snapshot.moments)
        buffer = self._room_for(snapshot)
        if buffer is None:
            return None
        copies: dict[str, Tensor] = {}
        for (name, tensor), (begin, end) in zip(
            tensors.items(), _places(tensors.values()), strict=True
        ):
            view = buffer[begin:end].view(tensor.dtype).view(tensor.shape)
            copies[name] = view.copy_(tensor, non_blocking=True)
        if any(tensor.is_cuda for tensor in tensors.values()):
            torch.cuda.synchronize()
        return replace(
            snapshot,
            weights={name: copies[name] for name in snapshot.weights},
            moments={name: copies[name] for name in snapshot.moments},
        )

    def _room_for(self, snapshot: Snapshot) -> Tensor | None:
        """Return the buffer, made again if there is none that is large enough."""
        if self._making is not None:
            wait([self._making])  # whatever became of it, what follows says it again
            self._making = None
        room = _Room.of(snapshot)
        if self._buffer is not None and len(self._buffer) >= room.total_bytes:
            return self._buffer
        self._buffer = None
        return self._allocated(room)

    def _allocated(self, room: "_Room") -> Tensor | None:
        """Allocate the buffer with all its pages; None if this host lacks the memory."""
        # The other ranks of this host copy moments at the same time.
        if _ROOM * (room.weights_bytes + room.moments_bytes * self._local_ranks) > (
            available_bytes()
        ):
            return None
        buffer = torch.empty(room.total_bytes, dtype=torch.uint8)
        if room.from_gpu:
            # torch's own pinned memory would take the next power of two. Unregistered it is only slower.
            cudart: Any = torch.cuda.cudart()
            cudart.cudaHostRegister(buffer.data_ptr(), room.total_bytes, 0)
        else:
            buffer[::_PAGE_BYTES] = 0
        self._buffer = buffer
        return buffer


@dataclass(frozen=True)
class _Room:
    """What a copy of a snapshot needs."""

    weights_bytes: int
    moments_bytes: int
    from_gpu: bool

    @classmethod
    def of(cls, snapshot: Snapshot) -> Self:
        """Measure a snapshot."""
        weights, moments = (
            max((end for _, end in _places(part.values())), default=0)
            for part in (snapshot.weights, snapshot.moments)
        )
        tensors = (*snapshot.weights.values(), *snapshot.moments.values())
        return cls(weights, moments, any(tensor.is_cuda for tensor in tensors))

    @property
    def total_bytes(self) -> int:
        """The buffer's size."""
        return self.weights_bytes + self.moments_bytes + _ALIGNED_BYTES


def _places(tensors: Iterable[Tensor]) -> Iterator[tuple[int, int]]:
    """Yield where each tensor begins and ends in the buffer, in bytes."""
    at = 0
    for tensor in tensors:
        size_bytes = tensor.numel() * tensor.element_size()
        yield at, at + size_bytes
        at += -(-size_bytes // _ALIGNED_BYTES) * _ALIGNED_BYTES


def _is_finite(tensor: Tensor) -> bool:
    return tensor.numel() == 0 or all(bool(bound.isfinite()) for bound in tensor.aminmax())
