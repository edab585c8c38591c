"""The gradients' sums over all ranks, begun layer by layer under the last backward of a step.

A group's gradients are packed into one buffer, of which `.grad` become views. With ZeRO 1 and 2 each part is
summed on the rank that has its moments; with ZeRO 0 on all ranks. The number of tokens, by which the sums are
to be divided, is not known yet. Gradients are divided by a power of two that is not below the number of ranks
instead, which is exact: a sum of finite gradients is finite.
"""

from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby

import torch
from torch import Tensor, nn

from tttscale.comm.background_sums import BackgroundSums

Share = tuple[int | None, int]
"""(rank that needs the sum, or None if all do; elements)."""


class GradientSums:
    """The sums of one step at a time."""

    def __init__(
        self,
        groups: Sequence[Sequence[nn.Parameter]],
        shares: Mapping[nn.Parameter, Sequence[Share]],
        sums: BackgroundSums,
        ranks: int,
    ) -> None:
        """Begin nothing yet.

        Args:
            groups: parameters whose sums begin together, in the order of `begin`.
            shares: of each flattened parameter, in order.
            sums: over all ranks.
            ranks: in all.
        """
        self._groups, self._sums, self._begun = groups, sums, 0
        self._divisor = 1 << (ranks - 1).bit_length()
        self._shares = [joined(share for p in group for share in shares[p]) for group in groups]

    def begin(self, group: int) -> None:
        """Begin the sums of a group, whose gradients on this rank are final; each group in its turn."""
        assert group == self._begun, "a step or a skip comes before the next backward"
        self._begun += 1
        flat = packed(self._groups[group]).div_(self._divisor)
        parts = flat.split([length for _, length in self._shares[group]])
        for (owner, _), part in zip(self._shares[group], parts, strict=True):
            self._sums.begin(part, owner)
        if self._begun == len(self._groups):
            self._sums.all_begun()

    def wait(self) -> int | None:
        """Wait until the sums are in `.grad`: all, or this rank's share; the others are undefined.

        Returns:
            By what they are divided; None if none had begun.

        Raises:
            PeerError: another rank died.
        """
        begun, self._begun = self._begun, 0
        assert begun in (0, len(self._groups)), "a backward has not ended"
        self._sums.wait()
        return self._divisor if begun else None


def joined(shares: Iterable[Share]) -> list[Share]:
    """Join neighbours of the same rank."""
    runs = groupby(shares, key=lambda share: share[0])
    return [(owner, sum(length for _, length in run)) for owner, run in runs]


def packed(parameters: Sequence[nn.Parameter]) -> Tensor:
    """Copy gradients into one buffer [elements], and let `.grad` be views of it."""
    flat = torch.cat(
        [
            torch.zeros_like(p).flatten() if p.grad is None else p.grad.detach().flatten()
            for p in parameters
        ]
    )
    parts = flat.split([p.numel() for p in parameters])
    for parameter, part in zip(parameters, parts, strict=True):
        parameter.grad = part.view_as(parameter)
    return flat
