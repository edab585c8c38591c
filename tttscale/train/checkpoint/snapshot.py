"""What a checkpoint holds of a moment in a run, and a copy of it in the host's memory.

The copy is what lets training continue while a checkpoint is written: steps change weights and moments in
place.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any, Self

import torch
from torch import Tensor

from tttscale.data.windows.mixture import Mixture
from tttscale.model import TTTForCausalLM
from tttscale.model.architecture import TTTConfig
from tttscale.model.pretrained import weights_of
from tttscale.train import cpu_products
from tttscale.train.checkpoint.manifest import versions
from tttscale.train.checkpoint.optimizer_state import described, named_moments
from tttscale.train.engine import Engine
from tttscale.train.memory import available_bytes

_ALIGNED_BYTES = 64
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
        weights, moments = (
            max((end for _, end in _places(part.values())), default=0)
            for part in (snapshot.weights, snapshot.moments)
        )
        size_bytes = weights + moments + _ALIGNED_BYTES
        if self._buffer is not None and len(self._buffer) >= size_bytes:
            return self._buffer
        # The other ranks of this host copy moments at the same time.
        if _ROOM * (weights + moments * self._local_ranks) > available_bytes():
            return None
        self._buffer = None
        buffer = torch.empty(size_bytes, dtype=torch.uint8)
        on_gpu = any(t.is_cuda for t in (*snapshot.weights.values(), *snapshot.moments.values()))
        if on_gpu:
            # torch's own pinned memory would take the next power of two. Unregistered it is only slower.
            cudart: Any = torch.cuda.cudart()
            cudart.cudaHostRegister(buffer.data_ptr(), size_bytes, 0)
        self._buffer = buffer
        return buffer


def _places(tensors: Iterable[Tensor]) -> Iterator[tuple[int, int]]:
    """Yield where each tensor begins and ends in the buffer, in bytes."""
    at = 0
    for tensor in tensors:
        size_bytes = tensor.numel() * tensor.element_size()
        yield at, at + size_bytes
        at += -(-size_bytes // _ALIGNED_BYTES) * _ALIGNED_BYTES


def _is_finite(tensor: Tensor) -> bool:
    return tensor.numel() == 0 or all(bool(bound.isfinite()) for bound in tensor.aminmax())
