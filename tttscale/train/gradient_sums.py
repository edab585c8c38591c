"""The gradients' sums over all ranks, begun layer by layer under the last backward of a step.

A group's gradients are packed into one buffer, of which `.grad` become views. With ZeRO 1 and 2 each part is
summed on the rank that has its moments; with ZeRO 0 on all ranks.
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
    ) -> None:
        """Begin nothing yet.

        Args:
            groups: parameters whose sums begin together, in the order of `begin`.
            shares: of each flattened parameter, in order.
            sums: over all ranks.
        """
        self._groups, self._sums, self._begun = groups, sums, 0
        self._shares = [joined(share for p in group for share in shares[p]) for group in groups]

    def begin(self, group: int) -> None:
        """Begin the sums of a group, whose gradients on this rank are final; each group in its turn."""
        assert group == self._begun, "a step or a skip comes before the next backward"
        self._begun += 1
        parts = packed(self._groups[group]).split([length for _, length in self._shares[group]])
        for (owner, _), part in zip(self._shares[group], parts, strict=True):
            self._sums.begin(part, owner)
        if self._begun == len(self._groups):
            self._sums.all_begun()

    def wait(self) -> bool:
        """Wait until the sums are in `.grad`: all, or this rank's share; the others are undefined.

        Returns:
            Whether any had begun.

        Raises:
            PeerError: another rank died.
        """
        begun, self._begun = self._begun, 0
        assert begun in (0, len(self._groups)), "a backward has not ended"
        self._sums.wait()
        return begun > 0


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
