"""Whether all ranks hold the same parameters, bit by bit: `train.check_replicas_every`.

Every rank makes every update from the same sums, so that parameters stay equal over the replicas and over
the sequence ranks. Memory that flips a bit, or a device that computes wrongly, makes them differ without an
error.
"""

from collections import Counter

import torch
from torch import Tensor, nn

from tttscale.comm.collective import on_all_ranks
from tttscale.comm.mesh import Mesh
from tttscale.errors import ReplicaError
from tttscale.files import digest_of

_BLOCK_WORDS = 1 << 20
"""Words that are digested at once: few enough that the copies are small beside a model."""
_FACTORS = 0x9E3779B97F4A7C15 - (1 << 64), 0x6A09E667F3BCC909, 0x3C6EF372FE94F82B
"""Odd, so that each multiplication modulo 2**64 can be undone: different words stay different."""
_WORDS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
_EXACT_DIGITS = 12
"""48 bits, which fp64 holds exactly on its way between ranks."""


class Replicas:
    """Compares the parameters of all ranks; all of them call the same methods."""

    def __init__(self, every: int, mesh: Mesh, model: nn.Module) -> None:
        """Compare nothing yet.

        Args:
            every: steps between comparisons; 0: none.
            mesh: all ranks.
            model: this rank's.
        """
        self._every, self._mesh, self._model = every, mesh, model

    def check(self, step: int, before_save: bool = False) -> None:
        """Compare after a step if it is time, or if a checkpoint is to be made of it.

        Raises:
            ReplicaError: parameters differ; on all ranks.
        """
        if self._every == 0 or self._mesh.world_size == 1:
            return
        if step % self._every and not before_save:
            return
        own = digests(self._model)
        total = int(digest_of(repr(own).encode())[:_EXACT_DIGITS], 16)
        rows = self._mesh.gather([float(total)]).flatten()
        if not bool((rows == rows[0]).all()):
            raise ReplicaError(f"step {step}: {self._difference(own)}")

    def _difference(self, own: list[int]) -> str:
        """Say which ranks differ from the others, and in which parameter first. Collective."""
        found = [tuple(row) for row in on_all_ranks(self._mesh, lambda: own)]
        names = [name for name, _ in self._model.named_parameters()]
        counts = Counter(found).most_common()
        most, others = counts[0], [row for row, _ in counts[1:]]
        first = min(
            i
            for row in others
            for i, pair in enumerate(zip(row, most[0], strict=True))
            if _differ(pair)
        )
        advice = (
            "In a sound run they are equal, so memory or a device is at fault. No checkpoint is made of this "
            "step. Test that host, and start the same command again without it: it resumes from the last "
            "checkpoint"
        )
        if most[1] == counts[1][1]:
            ranks = _listed(range(len(found)))
            return (
                f"{ranks} hold different parameters, first {names[first]}; no value has the majority, so it "
                f"cannot be said which rank is wrong. {advice}."
            )
        ranks = [rank for rank, row in enumerate(found) if row != most[0]]
        return (
            f"{_listed(ranks)} {'holds' if len(ranks) == 1 else 'hold'} other parameters than the "
            f"{most[1]} other ranks, first {names[first]}. {advice}."
        )


def digests(model: nn.Module) -> list[int]:
    """Return 64 bits of every parameter's bits, in order: deterministic, computed where the parameter is."""
    return torch.stack([digest(p.detach()) for p in model.parameters()]).tolist()


def digest(tensor: Tensor) -> Tensor:
    """Return a digest of a tensor's bits and their places, int64 []: any single change changes it."""
    size = tensor.element_size()
    words = tensor.contiguous().view(-1).view(_WORDS[size])
    total = torch.zeros((), dtype=torch.int64, device=tensor.device)
    for begin in range(0, len(words), _BLOCK_WORDS):
        block = words[begin : begin + _BLOCK_WORDS].to(torch.int64, copy=True)
        places = torch.arange(begin, begin + len(block), device=tensor.device)
        block = block.mul_(_FACTORS[0]).bitwise_xor_(places.mul_(_FACTORS[1]))
        block.bitwise_xor_(block >> 32).mul_(_FACTORS[2])
        total += block.bitwise_xor_(block >> 29).sum()
    return total


def _differ(pair: tuple[int, int]) -> bool:
    return pair[0] != pair[1]


def _listed(ranks: "list[int] | range") -> str:
    numbers = [str(rank) for rank in ranks]
    if len(numbers) == 1:
        return f"rank {numbers[0]}"
    return f"ranks {', '.join(numbers[:-1])} and {numbers[-1]}"
