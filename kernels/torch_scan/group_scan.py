"""The order of a scan's phases over groups of mini-batches, shared by all inner learners.

Legend: B sequences, H heads, T tokens, f features of a head; a group is `GROUP` mini-batches of K tokens.

A learner supplies what happens inside one group; this file decides the order. If a peer waits for the state
(or its gradient), each phase runs over all groups before the next phase begins, so that the state can be sent
early. If none waits, all phases of a group run while it is in the processor's cache, and only inputs, outputs
and a few tensors per token are ever held. Both orders do the same products on the same numbers, and add up
the groups' gradients of shared parameters in the same order, last group first: no bit depends on who waits.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from tttscale.kernels.torch_scan.inner_loss import Target
from tttscale.kernels.torch_scan.minibatch import GROUP, Rates, from_minibatches, to_minibatches

State = tuple[Tensor, ...]
Inputs = tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]
Kept = list[Tensor]
"""Tensors that the forward keeps of a group for the backward; the last ones are the states before it."""

CACHE_BYTES = 512 << 20
"""States inside groups that phases may hand to each other; beyond it they are replayed."""


@dataclass
class Tokens:
    """The tokens of one group in mini-batch layout; k and q carry a column of ones."""

    q: Tensor
    k: Tensor
    target: Target
    rates: Rates


@dataclass
class Grads:
    """Gradients of one group's tokens; those of shared parameters are sums over the group."""

    q: Tensor
    k: Tensor
    v: Tensor
    lam: Tensor
    token_idx: Tensor
    gamma: Tensor
    beta: Tensor


class GroupCache:
    """States inside groups, held while they fit."""

    def __init__(self) -> None:
        self._held: dict[int, State] = {}
        self._room_bytes = CACHE_BYTES

    def put(self, group: int, states: State) -> None:
        """Hold a group's states if there is room."""
        size = sum(t.nbytes for t in states)
        if group not in self._held and size <= self._room_bytes:
            self._room_bytes -= size
            self._held[group] = states

    def get(self, group: int) -> State | None:
        """A group's states, or None if they must be replayed."""
        return self._held.get(group)


class GroupScan(ABC):
    """One scan over q, k, v [B, H, T, f]."""

    def __init__(self, inputs: Inputs, size: int, dtype: torch.dtype) -> None:
        self.inputs, self.size, self.dtype = inputs, size, dtype
        self.shape = inputs[0].shape
        self.batch, length = self.shape[0], self.shape[2]
        self.span = GROUP * size
        self.groups = range(-(-length // self.span))
        self._cache = GroupCache()
        self._held_tokens: dict[int, Tokens] = {}

    # ---- what a learner supplies, for one group -------------------------------------------------

    @abstractmethod
    def join(self, state: State) -> State:
        """The state as the matrices that the chain works on, fresh."""

    @abstractmethod
    def split(self, joined: State) -> State:
        """The inverse of `join`."""

    @abstractmethod
    def advance_group(self, tokens: Tokens, state: State) -> tuple[Kept, State]:
        """Run the chain, updating `state` in place; what to keep, and the states inside the group."""

    @abstractmethod
    def readout_group(self, tokens: Tokens, kept: Kept, inside: State) -> Tensor:
        """Outputs [n, N, K, f]; enters the readers' pre-norm output into `kept`."""

    @abstractmethod
    def replay(self, tokens: Tokens, kept: Kept) -> State:
        """The states inside the group, from the kept inner gradients."""

    @staticmethod
    @abstractmethod
    def lean(kept: Kept) -> Kept:
        """Without the inner gradients, which `whole` forms again: what is saved for the backward."""

    @abstractmethod
    def whole(self, tokens: Tokens, lean: Kept) -> Kept:
        """The inverse of `lean`, bit for bit."""

    @abstractmethod
    def readout_backward_group(
        self, tokens: Tokens, kept: Kept, inside: State, d_out: Tensor
    ) -> Any:
        """Compute everything that needs no gradient of the state; return what later phases need of it."""

    @abstractmethod
    def advance_backward_group(
        self, tokens: Tokens, kept: Kept, inside: State, bwd: Any, d_state: State
    ) -> None:
        """Run the reverse chain, updating `d_state` in place."""

    @abstractmethod
    def gradients_group(self, tokens: Tokens, kept: Kept, inside: State, bwd: Any) -> Grads:
        """Gradients of the group's tokens."""

    # ---- forward -------------------------------------------------------------------------------

    def forward(self, state: State) -> tuple[Tensor, list[Kept], State]:
        """All phases group by group: outputs, what to keep, the state after."""
        running, out, saved = self.join(state), self._new_out(), []
        for group in self.groups:
            tokens = self._tokens(group)
            kept, part = self.forward_group(tokens, running)
            self._write(out, group, part)
            saved.append(kept)
        return out, saved, self.split(running)

    def forward_group(self, tokens: Tokens, state: State) -> tuple[Kept, Tensor]:
        """Both phases of one group, updating `state` in place; what to keep, and outputs."""
        kept, inside = self.advance_group(tokens, state)
        return kept, self.readout_group(tokens, kept, inside)

    def advance(self, state: State) -> tuple[list[Kept], State]:
        """The serial chain alone: what to keep, and the state after."""
        running, saved = self.join(state), []
        for group in self.groups:
            kept, inside = self.advance_group(self._hold(group), running)
            self._cache.put(group, inside)
            saved.append(kept)
        return saved, self.split(running)

    def readout(self, saved: list[Kept]) -> Tensor:
        """All outputs q + LN(.), given the inner gradients; [B, H, T, f]."""
        out = self._new_out()
        for group, kept in zip(self.groups, saved, strict=True):
            tokens = self._hold(group)
            inside = self._inside(group, tokens, kept)
            self._write(out, group, self.readout_group(tokens, kept, inside))
        return out

    # ---- backward ------------------------------------------------------------------------------

    def backward(
        self, saved: list[Kept], d_out: Tensor, d_state: State
    ) -> tuple[State, list[Tensor]]:
        """All phases group by group, last group first: gradients of the state before, and of inputs."""
        running, grads = self.join(d_state), _InputGrads(self)
        for group in reversed(self.groups):
            tokens = self._tokens(group)
            kept = self.whole(tokens, saved[group])
            inside = self.replay(tokens, kept)
            bwd = self.readout_backward_group(tokens, kept, inside, self._part(d_out, group))
            self.advance_backward_group(tokens, kept, inside, bwd, running)
            grads.add(group, self.gradients_group(tokens, kept, inside, bwd), tokens.rates)
        return self.split(running), grads.finish()

    def readout_backward(self, saved: list[Kept], d_out: Tensor) -> list[Any]:
        """Everything that needs no gradient of the state; makes what is saved whole for later phases."""
        bwds = []
        for group in self.groups:
            tokens = self._hold(group)
            kept = saved[group] = self.whole(tokens, saved[group])
            inside = self._inside(group, tokens, kept)
            part = self._part(d_out, group)
            bwds.append(self.readout_backward_group(tokens, kept, inside, part))
        return bwds

    def advance_backward(self, saved: list[Kept], bwds: list[Any], d_state: State) -> State:
        """The reverse chain alone: the gradient of the state after -> of the state before."""
        running = self.join(d_state)
        for group in reversed(self.groups):
            tokens, kept = self._hold(group), saved[group]
            inside = self._inside(group, tokens, kept)
            self.advance_backward_group(tokens, kept, inside, bwds[group], running)
        return self.split(running)

    def gradients(self, saved: list[Kept], bwds: list[Any]) -> list[Tensor]:
        """Gradients of q, k, v, lr, token_idx, norm weight and bias; groups in the order of `backward`."""
        grads = _InputGrads(self)
        for group in reversed(self.groups):
            tokens, kept = self._hold(group), saved[group]
            inside = self._inside(group, tokens, kept)
            part = self.gradients_group(tokens, kept, inside, bwds[group])
            bwds[group] = None
            grads.add(group, part, tokens.rates)
        return grads.finish()

    # ---- groups of tokens ----------------------------------------------------------------------

    def _slice(self, group: int) -> slice:
        return slice(group * self.span, min((group + 1) * self.span, self.shape[2]))

    def _part(self, x: Tensor, group: int) -> Tensor:
        return to_minibatches(x[:, :, self._slice(group)], self.size, self.dtype)

    def _tokens(self, group: int) -> Tokens:
        q, k, v, lr, token_idx, weight, bias = self.inputs
        at, size, dtype = self._slice(group), self.size, self.dtype
        queries = to_minibatches(q[:, :, at], size, dtype, ones=True)
        keys = to_minibatches(k[:, :, at], size, dtype, ones=True)
        target = Target.build(keys[..., :-1], self._part(v, group), weight, bias, self.batch)
        return Tokens(queries, keys, target, Rates.build(lr[:, :, at], token_idx, size, dtype))

    def _hold(self, group: int) -> Tokens:
        """A group's tokens, laid out once for all phases that run one after the other."""
        if group not in self._held_tokens:
            self._held_tokens[group] = self._tokens(group)
        return self._held_tokens[group]

    def _inside(self, group: int, tokens: Tokens, kept: Kept) -> State:
        inside = self._cache.get(group)
        if inside is None:
            inside = self.replay(tokens, kept)
            self._cache.put(group, inside)
        return inside

    def _new_out(self) -> Tensor:
        q = self.inputs[0]
        return torch.empty(self.shape, dtype=q.dtype, device=q.device)

    def _write(self, out: Tensor, group: int, part: Tensor) -> None:
        at = self._slice(group)
        out[:, :, at] = from_minibatches(part, out[:, :, at].shape, out.dtype)


class _InputGrads:
    """Gradients of a scan's inputs, entered group by group."""

    def __init__(self, scan: GroupScan) -> None:
        q, k, v, lr, token_idx, weight, bias = scan.inputs
        self._scan = scan
        self._tokens = [
            torch.empty_like(t, memory_format=torch.contiguous_format) for t in (q, k, v)
        ]
        self._lr = torch.empty_like(lr, memory_format=torch.contiguous_format)
        self._shared = [torch.zeros_like(t, dtype=scan.dtype) for t in (token_idx, weight, bias)]

    def add(self, group: int, grads: Grads, rates: Rates) -> None:
        """Enter one group's gradients."""
        scan = self._scan
        for whole, part in zip(self._tokens, (grads.q, grads.k, grads.v), strict=True):
            scan._write(whole, group, part)
        scan._write(self._lr.unsqueeze(-1), group, grads.lam.unsqueeze(-1))
        heads = (scan.batch, -1)
        sums = (
            grads.token_idx,
            grads.gamma.unflatten(0, heads).sum(0),
            grads.beta.unflatten(0, heads).sum(0),
        )
        for whole, part in zip(self._shared, sums, strict=True):
            whole += part

    def finish(self) -> list[Tensor]:
        """In the order of the inputs."""
        return [*self._tokens, self._lr, *self._shared]


def flatten(saved: Sequence[Kept]) -> list[Tensor]:
    """All kept tensors in one list."""
    return [tensor for kept in saved for tensor in kept]


def unflatten(tensors: Sequence[Tensor], count: int) -> list[Kept]:
    """The inverse of `flatten` for `count` groups."""
    each = len(tensors) // count
    return [list(tensors[i * each : (i + 1) * each]) for i in range(count)]
