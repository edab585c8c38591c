"""Does a sequence layer keep its word? The test that an author of a layer runs.

    from tttscale.model import check_mixer
    print(check_mixer(MyMixer))

A small model of two such layers is trained for one step in fp64, with its sequence whole and split in every
way: chunks of several lengths, one to three ranks (threads of this process), both layouts, recomputed and
kept, with and without documents.
"""

import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tttscale.comm.threads import ThreadTransport, ThreadWorld
from tttscale.errors import MixerError
from tttscale.model.architecture import TTTConfig
from tttscale.model.language_model import TTTForCausalLM
from tttscale.model.registry import alignment, name_of
from tttscale.model.sequence_layer import Mixer
from tttscale.scan.keep_policy import ActivationPolicy
from tttscale.scan.layout import Kind, Layout
from tttscale.scan.losses import Losses
from tttscale.scan.sweep import Sweeps

_VOCABULARY = 29
_RANKS = (1, 2, 3)
_TOLERANCE = 1e-9
"""Relative distance of gradients in fp64, which are sums in another order."""


@dataclass
class _Tokens:
    """A sequence in memory."""

    ids: np.ndarray
    labels: np.ndarray
    starts: tuple[int, ...] = ()
    padded: np.ndarray | None = None

    def chunk(self, begin: int, end: int) -> "_Tokens":
        """A range of it."""
        inside = tuple(s - begin for s in self.starts if begin <= s < end)
        return _Tokens(self.ids[begin:end], self.labels[begin:end], inside)


@dataclass
class _Step:
    losses: Losses
    grads: dict[str, Tensor]


@dataclass
class MixerReport:
    """What was found; a layer that breaks its word is an error instead."""

    layer: str
    steps: int
    """Splits that were run."""
    parts: dict[str, list[str]]
    """Shapes of the carry after a chunk of a single sequence, by part."""
    gradient_error: float
    """The largest relative distance of a parameter's gradient from that of the unsplit model."""

    def __str__(self) -> str:
        """For people."""
        parts = "; ".join(f"{name}: {', '.join(held)}" for name, held in self.parts.items())
        return (
            f"{self.layer}: {self.steps} splits, losses bitwise equal over ranks {_RANKS}, layouts and kept "
            f"chunks; gradients within {self.gradient_error:.1e} of the unsplit model. Carry: {parts}"
        )


def check_mixer(
    layer: type[Mixer],
    *,
    options: Mapping[str, Any] | None = None,
    config: TTTConfig | None = None,
    documents: bool = True,
) -> MixerReport:
    """Run a layer in every kind of split and compare.

    Args:
        layer: the class; it need not be registered.
        options: its options, as in `model.options.NAME`.
        config: of the model, with a small hidden_size; None: a width of 24 with 2 heads.
        documents: whether packed documents must equal each document alone.

    Raises:
        MixerError: what is wrong, with layer and part: sent is not what was declared, losses depend on the
            number of ranks, gradients differ from the unsplit model's, documents see each other, a parameter
            has no initial value.
        ConfigError: options that are wrong.
    """
    name = name_of(layer)
    fields = (config or _small_config()).model_dump()
    fields |= {"pattern": (name,), "options": {name: dict(options or {})}}
    shape = TTTConfig(**fields)
    check = _Check(name, shape, alignment(shape))
    check.splits()
    if documents:
        check.documents()
    return check.report()


def _small_config() -> TTTConfig:
    return TTTConfig.model_validate(
        {
            "vocab_size": _VOCABULARY,
            "hidden_size": 24,
            "intermediate_size": 32,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "mini_batch_size": 4,
            "initializer_range": 0.3,
        }
    )


class _Check:
    def __init__(self, name: str, config: TTTConfig, align: int) -> None:
        self.name, self.config, self.align = name, config, align
        self.steps, self.error = 0, 0.0

    def splits(self) -> None:
        """Chunks of two lengths; the last one is short."""
        units = max(2, 8 // self.align)
        length = 6 * units * self.align + max(1, self.align // 2)
        groups = [[self._tokens(length, seed=2 * m + b) for b in range(2)] for m in range(2)]
        whole = self._whole(groups)
        for chunk in (units * self.align, 2 * units * self.align):
            self._one_length(groups, chunk, whole)

    def documents(self) -> None:
        """Two rows with documents that start inside chunks, at their beginning, and in one row only."""
        unit = self.align
        length, chunk = 12 * unit + max(1, unit // 2), 4 * unit
        starts = ((0, 3 * unit, 4 * unit, 9 * unit), (5 * unit,))
        rows = [self._tokens(length, b, starts[b]) for b in range(2)]
        alone = [
            self._tokens_of(row, begin, end)
            for row, positions in zip(rows, starts, strict=True)
            for begin, end in itertools.pairwise([*sorted({0, *positions}), length])
        ]
        apart = [self._whole([[tokens]]) for tokens in alone]
        grads = {n: sum(step.grads[n] for step in apart) for n in apart[0].grads}
        total = sum(float(step.losses.sums.sum()) for step in apart)
        for ranks in (1, 2):
            step = self._swept([rows], Layout("striped", length, chunk, ranks), keep=0)
            found = float(step.losses.sums.sum())
            if abs(found - total) > _TOLERANCE * abs(total):
                raise self._wrong(
                    f"packed documents lose {found!r} nats in all, each alone {total!r}. In rows where a "
                    "document starts the layer must begin from its initial carry: see Chunk.cuts and "
                    "Chunk.renew"
                )
            self._compare_grads(step.grads, grads, f"packed documents, {ranks} rank(s)")

    def report(self) -> MixerReport:
        """What was found."""
        model = TTTForCausalLM(self.config)
        parts = model.carry_layers[0].carry(1, 2 * self.align)
        shown = {n: [str(list(shape)) for shape in part.shapes] for n, part in parts.items()}
        return MixerReport(self.name, self.steps, shown, self.error)

    def _one_length(self, groups: list[list[_Tokens]], chunk: int, whole: _Step) -> None:
        first = None
        length = len(groups[0][0].ids)
        kinds: tuple[Kind, ...] = ("striped", "contiguous")
        for kind, ranks, keep in itertools.product(kinds, _RANKS, (0, 2)):
            what = f"{kind}, {ranks} rank(s), chunks of {chunk}, {keep} kept"
            step = self._swept(groups, Layout(kind, length, chunk, ranks, len(groups)), keep)
            first = first or step
            if not torch.equal(step.losses.sums, first.losses.sums):
                raise self._wrong(
                    f"losses depend on how the sequence is split: {what} gives "
                    f"{step.losses.sums.sum().item()!r}, one rank {first.losses.sums.sum().item()!r}"
                )
            self._compare_grads(step.grads, whole.grads, what)
        assert first is not None
        ours, theirs = float(first.losses.sums.sum()), float(whole.losses.sums.sum())
        if abs(ours - theirs) > _TOLERANCE * abs(theirs):
            raise self._wrong(
                f"chunks of {chunk} lose {ours!r} nats, the whole sequence {theirs!r}"
            )

    def _compare_grads(
        self, found: dict[str, Tensor], expected: Mapping[str, Any], what: str
    ) -> None:
        for name, grad in expected.items():
            distance = float((found[name] - grad).norm() / grad.norm().clamp(min=1e-12))
            if not distance <= _TOLERANCE:
                raise self._wrong(
                    f"{what}: the gradient of {name} is off by {distance:.1e}, relative"
                )
            self.error = max(self.error, distance)

    def _whole(self, groups: list[list[_Tokens]]) -> _Step:
        """One chunk is the whole sequence."""
        return self._swept(
            groups, Layout("striped", len(groups[0][0].ids), 1 << 30, 1, len(groups)), 0
        )

    def _swept(self, groups: list[list[_Tokens]], layout: Layout, keep: int) -> _Step:
        def rank(transport: ThreadTransport) -> _Step:
            """Run one step as one rank."""
            model = TTTForCausalLM(self.config, seed=1).double()
            policy = ActivationPolicy(keep)
            sweeps = Sweeps(model, layout, transport, batch=len(groups[0]), keep=policy)
            sweeps.forward(groups)
            losses = sweeps.backward()
            grads = {
                n: torch.zeros_like(p) if p.grad is None else p.grad
                for n, p in model.named_parameters()
            }
            return _Step(losses, grads)

        results = ThreadWorld(layout.ranks).run(rank)
        losses = results[0].losses
        losses.load(torch.stack([r.losses.flat() for r in results]).sum(0))
        self.steps += 1
        names = results[0].grads
        return _Step(losses, {n: torch.stack([r.grads[n] for r in results]).sum(0) for n in names})

    def _tokens(self, length: int, seed: int, starts: tuple[int, ...] = ()) -> _Tokens:
        stream = np.random.default_rng(seed).integers(0, self.config.vocab_size, length + 1)
        return _Tokens(stream[:-1].copy(), stream[1:].copy(), starts)

    def _tokens_of(self, row: _Tokens, begin: int, end: int) -> _Tokens:
        return _Tokens(row.ids[begin:end], row.labels[begin:end])

    def _wrong(self, what: str) -> MixerError:
        return MixerError(f"{self.name}: {what}")
