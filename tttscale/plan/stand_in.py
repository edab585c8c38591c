"""A tiny model in the place of the real one: the same blocks and carries, widths of 2, a few tokens a chunk.

Its layers are the real classes, so the real code decides what is received and sent when; only the scans'
inner learners are replaced by ones that compute nothing. Layers of someone's own are replaced by one that
exchanges the same parts.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar, cast

import torch
from torch import Generator, Tensor

from tttscale.kernels.learners import LEARNERS, Learner
from tttscale.model.architecture import TTTConfig
from tttscale.model.chunk import Chunk
from tttscale.model.language_model import TTTForCausalLM
from tttscale.model.ports import Carried, LayerPorts
from tttscale.model.registry import names_of
from tttscale.model.sequence_layer import Mixer, recv_state, send_state
from tttscale.model.ttt_layer import TTTMLP, TTTLinear
from tttscale.plan.virtual_time import VirtualTimeline
from tttscale.scan.timeline import Activity

State = tuple[Tensor, ...]
_SUFFIX = "-in-virtual-time"
_rank = threading.local()
"""The timeline of the rank that runs in this thread: scans are made far from where it is known."""


class TimedLinear(TTTLinear):
    """TTT-Linear whose scan takes virtual time."""

    kind = "linear" + _SUFFIX


class TimedMLP(TTTMLP):
    """TTT-MLP whose scan takes virtual time."""

    kind = "mlp" + _SUFFIX


class TimedExchange(Mixer):
    """In the place of a layer of someone's own: receives and sends the same parts, one after the other."""

    parts: tuple[str, ...] = ()

    def carry(self, batch: int, tokens: int) -> dict[str, Carried]:
        """A number for each part."""
        return {name: Carried(((batch, 1),)) for name in self.parts}

    def reset(self, generator: Generator, init: str) -> None:
        """It has no parameters."""

    def forward(self, h: Tensor, chunk: Chunk, ports: LayerPorts) -> Tensor:
        """Pass the tokens on."""
        for name in self.parts:
            (h,), part = recv_state(ports[name], h)
            h = send_state(ports[name], h, part or (h.new_zeros(len(h), 1),))
        return h


_OWN: dict[str, type[Mixer]] = {"ttt-linear": TimedLinear, "ttt-mlp": TimedMLP}
"""Layers that are rehearsed as they are, and which class times them."""


def timed_layers(config: TTTConfig) -> frozenset[int]:
    """Layers whose scan says what it does."""
    return frozenset(i for i, name in enumerate(names_of(config)) if name in _OWN)


def chunk_tokens(config: TTTConfig) -> int:
    """Tokens of the stand-in's chunks: as many as a convolution's tail needs."""
    return config.conv_kernel


class TimedModel(TTTForCausalLM):
    """A model that says when embedding, head and scans have run."""

    def __init__(
        self, real: TTTConfig, parts: tuple[tuple[str, ...], ...], timeline: VirtualTimeline
    ) -> None:
        """Make the model of the rank that runs in this thread; inside `timed_learners` only.

        Args:
            real: shape of the real model.
            parts: of each of its layers' carry.
            timeline: of the rank.
        """
        _rank.timeline = timeline
        classes = [_OWN.get(name, TimedExchange) for name in names_of(real)]
        pattern = tuple(f"{cls.__module__}:{cls.__name__}" for cls in classes)
        small = {
            "vocab_size": 4,
            "hidden_size": 2,
            "intermediate_size": 2,
            "num_attention_heads": 1,
        }
        shape = {"mini_batch_size": chunk_tokens(real), "pattern": pattern, "options": {}}
        super().__init__(real.model_copy(update={**small, **shape}))
        self._timeline = timeline
        for block, names in zip(self.carry_layers, parts, strict=True):
            if isinstance(block.seq_modeling_block, TimedExchange):
                own = names[1:] if block.conv is not None else names
                block.seq_modeling_block.parts = own

    def embed(self, input_ids: Tensor) -> Tensor:
        """The residual stream."""
        self._timeline.end_part(Activity.EMBED)
        return super().embed(input_ids)

    def head(self, x: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """The losses."""
        self._timeline.end_part(Activity.HEAD)
        return super().head(x, labels)


class TimedScan:
    """In the place of a scan (`kernels.torch_scan.group_scan.GroupScan`): its phases take virtual time."""

    groups: ClassVar[tuple[int, ...]] = (0,)

    def __init__(self, inputs: tuple[Tensor, ...], size: int, dtype: torch.dtype) -> None:
        """Take the tokens of one chunk."""
        self._inputs = inputs
        self._timeline = cast("VirtualTimeline", _rank.timeline)

    @staticmethod
    def lean(kept: list[Tensor]) -> list[Tensor]:
        """Nothing is kept."""
        return kept

    def advance(self, state: State) -> tuple[list[list[Tensor]], State]:
        """The state goes through as it is."""
        self._timeline.advanced()
        return [[]], state

    def readout(self, saved: list[list[Tensor]]) -> Tensor:
        """Zeros."""
        self._timeline.read_out()
        return torch.zeros_like(self._inputs[0])

    def forward(self, state: State) -> tuple[Tensor, list[list[Tensor]], State]:
        """Both, where no other rank waits for the state."""
        saved, last = self.advance(state)
        return self.readout(saved), saved, last

    def readout_backward(self, saved: list[list[Tensor]], d_out: Tensor) -> list[Any]:
        """Nothing is known of it."""
        self._timeline.read_out()
        return []

    def advance_backward(self, saved: list[list[Tensor]], bwds: list[Any], d_state: State) -> State:
        """The gradient goes through as it is."""
        self._timeline.advanced()
        return d_state

    def gradients(self, saved: list[list[Tensor]], bwds: list[Any]) -> list[Tensor]:
        """Zeros."""
        return [torch.zeros_like(x) for x in self._inputs]

    def backward(
        self, saved: list[list[Tensor]], d_out: Tensor, d_state: State
    ) -> tuple[State, list[Tensor]]:
        """All three, where no other rank waits."""
        bwds = self.readout_backward(saved, d_out)
        return self.advance_backward(saved, bwds, d_state), self.gradients(saved, bwds)


@dataclass(frozen=True)
class _TimedLearner(Learner):
    def scan_class(self, backend: str) -> Any:
        """Return the timed scan, whichever the backend."""
        return TimedScan


@contextmanager
def timed_learners() -> Iterator[None]:
    """Inside, scans of `TimedLinear` and `TimedMLP` can be made."""
    added = {
        name + _SUFFIX: _TimedLearner(name + _SUFFIX, learner.shapes, torch="")
        for name, learner in LEARNERS.items()
    }
    LEARNERS.update(added)
    try:
        yield
    finally:
        for name in added:
            del LEARNERS[name]
