"""Which of AdamW's moments this rank keeps, by parameter and element, at every ZeRO stage.

A checkpoint names moments by the parameter and its elements, so that ranks and stages may change between
saving and resuming. Where DeepSpeed keeps the moments of an element depends on both, and this file is all
that knows it:

    stage 0      every rank keeps all moments, by parameter
    stages 1, 2  all parameters in a row, cut into one flat partition for each rank
    stage 3      each parameter cut into one piece for each rank, with padding after the last
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

MOMENTS = ("exp_avg", "exp_avg_sq")
"""What AdamW keeps for every element, by torch's names."""


@dataclass(frozen=True)
class Fragment:
    """Consecutive elements of one parameter, and AdamW's moments of them."""

    name: str
    """The parameter's."""
    start: int
    """First element in the flattened parameter."""
    moments: dict[str, Tensor]
    """By the names of `MOMENTS`: fp32 [elements], views of the optimizer's own."""


class _Address(NamedTuple):
    """Where the moments of consecutive elements of a parameter are on this rank."""

    name: str
    """The parameter's."""
    start: int
    """First element in the flattened parameter."""
    length: int
    """In elements."""
    key: Tensor
    """What AdamW steps: a parameter, or a flat partition of many."""
    offset: int
    """First element in the flattened `key`."""


class ZeroFragments:
    """This rank's moments as fragments of the model's parameters."""

    def __init__(
        self,
        names: Sequence[str],
        parameters: Sequence[Any],
        adamw: torch.optim.AdamW,
        zero: Any,
        *,
        stage: int,
        rank: int,
        world_size: int,
    ) -> None:
        """Nothing is looked up yet: DeepSpeed makes its partitions when it is initialized.

        Args:
            names: of the model's parameters.
            parameters: the same, as DeepSpeed has them.
            adamw: the optimizer that DeepSpeed drives.
            zero: DeepSpeed's optimizer around it.
            stage: ZeRO 0 to 3.
            rank: this rank in the partition.
            world_size: ranks that share it.
        """
        self._names, self._parameters = list(names), list(parameters)
        self._adamw, self._zero, self._stage = adamw, zero, stage
        self._rank, self._world_size = rank, world_size

    def updates(self) -> int:
        """Return how many steps AdamW has made; skipped ones do not count."""
        states = iter(self._adamw.state.values())
        return int(next(states, {}).get("step", 0))

    def own(self) -> list[Fragment]:
        """Return this rank's share: over all ranks every element once; [] before the first step."""
        if self.updates() == 0:
            return []
        shares = (self._share(address) for address in self._addresses())
        return [self._fragment(share) for share in shares if share.length]

    def owners(self) -> list[list[tuple[int, int]]]:
        """Return, at stages 1 and 2 and for each parameter, (rank, elements) in order.

        The ranks are those that have the moments, and need the gradient, of so many elements.
        """
        return [self._owners(parameter) for parameter in self._parameters]

    def _owners(self, parameter: Any) -> list[tuple[int, int]]:
        number = self._zero.get_param_id(parameter)
        ranks = self._zero.param_to_partition_ids[0][number]
        starts = sorted((self._zero.grad_start_offset[0][rank][number], rank) for rank in ranks)
        ends = [start for start, _ in starts[1:]] + [parameter.numel()]
        return [(rank, end - start) for (start, rank), end in zip(starts, ends, strict=True)]

    def restore(self, updates: int, fill: Callable[[Fragment], None]) -> None:
        """Make the moments of an AdamW that has made `updates` steps.

        Args:
            updates: as `updates` returned it.
            fill: called for all that this rank keeps, to write into its moments.
        """
        if updates == 0:
            return
        addresses = list(self._addresses())
        for key in {id(address.key): address.key for address in addresses}.values():
            moments = {name: torch.zeros_like(key.detach()) for name in MOMENTS}
            self._adamw.state[key] = {"step": torch.tensor(float(updates)), **moments}
        for address in addresses:
            fill(self._fragment(address))

    def _fragment(self, address: _Address) -> Fragment:
        state, end = self._adamw.state[address.key], address.offset + address.length
        views = {name: state[name].view(-1)[address.offset : end] for name in MOMENTS}
        return Fragment(address.name, address.start, views)

    def _addresses(self) -> Iterator[_Address]:
        """Yield the addresses of all moments on this rank."""
        for name, parameter in zip(self._names, self._parameters, strict=True):
            if self._stage == 0:
                yield _Address(name, 0, parameter.numel(), parameter, 0)
            elif self._stage < 3:
                yield from self._in_partition(name, parameter)
            else:
                yield from self._in_piece(name, parameter)

    def _in_partition(self, name: str, parameter: Any) -> Iterator[_Address]:
        """Yield, at stages 1 and 2, the part of a parameter that is in this rank's partition, if any."""
        mapping = parameter._hp_mapping
        if mapping is not None:
            theirs, ours = mapping.lp_fragment_address, mapping.hp_fragment_address
            key = self._zero.single_partition_of_fp32_groups[mapping.param_group_index]
            yield _Address(name, theirs.start, theirs.numel, key, ours.start)

    def _in_piece(self, name: str, parameter: Any) -> Iterator[_Address]:
        """Yield, at stage 3, this rank's piece of a parameter, without the padding."""
        zero = self._zero
        group, offset, size = zero.grad_position[zero.get_param_id(parameter)]
        start = size * self._rank
        length = min(size, parameter.ds_numel - start)
        if length > 0:
            yield _Address(name, start, length, zero.fp32_partitioned_groups_flat[group], offset)

    def _share(self, address: _Address) -> _Address:
        """Cut what all ranks have (stage 0) into a share for each; leave what only this rank has."""
        if self._stage > 0:
            return address
        start, end = (address.length * r // self._world_size for r in (self._rank, self._rank + 1))
        return address._replace(start=start, length=end - start, offset=start)
