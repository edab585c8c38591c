"""Searching the choices of a run: which are possible, which are fast, which fit."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from tttscale.config import Config
from tttscale.model.registry import alignment
from tttscale.plan.options import AUTO_SHARE, Choice, Model, Option

_CHUNKS = tuple(2**power for power in range(10, 18))
"""Chunk lengths that are tried, 1Ki to 128Ki."""


def choice_of(config: Config, kept: float) -> Choice:
    """What a configuration has chosen."""
    parallel = config.parallel
    sizes = parallel.sequence, parallel.chunk_length
    return Choice(*sizes, parallel.layout, kept, config.zero.stage)


def asked_option(model: Model, world: int) -> Option:
    """The configuration as it is; with `keep_chunks: auto` as `train` would choose."""
    asked = model.config.parallel.keep_chunks
    choice = choice_of(model.config, 1 if asked == "auto" else asked)
    if asked == "auto":
        choice = with_kept(model, choice, world, AUTO_SHARE)
    return model.price(choice, world)


def with_kept(model: Model, choice: Choice, world: int, share: float = 1.0) -> Choice:
    """Keep as many chunks as fit into a share of the memory that is left with one."""
    one = replace(choice, kept=1)
    memory, layout = model.memory(one, world), model.layout(choice, world)
    own = -(-layout.chunks // choice.sequence) * layout.sequences
    room = model.limit_bytes - memory.peak
    if room < 0:
        return one
    # As `train` does: of a chunk that does not fit as a whole, the last layers.
    parts = model.config.architecture().num_hidden_layers if share < 1 else 1
    each = max(1, memory.kept_chunks)
    kept: float = min(own, 1 + int(share * room * parts) // each / parts)
    # A CPU's slack grows with what is kept.
    while kept > 1 and model.memory(replace(choice, kept=kept), world).peak > model.limit_bytes:
        kept = max(1, int(kept) - 1 - int(kept) // 8)
    return replace(choice, kept=kept)


def splits(config: Config, world: int) -> list[int]:
    """Values of parallel.sequence for so many ranks."""
    asked, batch = config.train.sequences_per_step, config.parallel.batch
    return [r for r in range(1, world + 1) if not world % r and not asked % (world // r * batch)]


def chunk_lengths(config: Config, ranks: int) -> list[int]:
    """Chunk lengths of which there is at least one for every rank; shortest first."""
    unit, length = alignment(config.architecture()), config.data.sequence_length
    wanted = {*_CHUNKS, config.parallel.chunk_length, -(-length // ranks)}
    found = {max(1, round(tokens / unit)) * unit for tokens in wanted}
    return sorted(c for c in found if c <= max(length, unit) and -(-length // c) >= ranks)


def best_option(
    model: Model, world: int, known: Option | None = None, priced: int = 4
) -> Option | None:
    """The fastest choice that fits; None if none does.

    Args:
        model: the run's.
        world: ranks of the job.
        known: a choice that is priced already.
        priced: of all choices, so many of the best by estimate are simulated.
    """
    candidates = []
    for ranks in splits(model.config, world):
        for chunk in chunk_lengths(model.config, ranks):
            choice = _that_fits(model, Choice(ranks, chunk, "striped", 1, 1), world)
            if choice is not None:
                candidates.append((model.estimate(choice, world), ranks, chunk, choice))
    likely = sorted(candidates, key=lambda candidate: candidate[:3])[:priced]
    options = [model.price(choice, world) for *_, choice in likely]
    if known is not None and known.fits:
        options.append(known)
    return min(options, key=lambda option: option.step_seconds, default=None)


def _that_fits(model: Model, choice: Choice, world: int) -> Choice | None:
    """With the lowest stage of ZeRO that fits, and as many kept chunks as do."""
    for stage in (1, 2, 3) if world > 1 else (1,):
        at = replace(choice, stage=stage)
        if model.memory(at, world).peak <= model.limit_bytes:
            return with_kept(model, at, world)
    return None


# ---- one change away ---------------------------------------------------------------------------


def neighbours(model: Model, option: Option) -> Iterator[tuple[str, Option]]:
    """Choices that differ in one key, and the override that leads to each."""
    choice, config, world = option.choice, model.config, option.world
    lengths = chunk_lengths(config, choice.sequence)
    for chunk in (choice.chunk_length // 2, choice.chunk_length * 2):
        if chunk in lengths:
            yield f"parallel.chunk_length={chunk}", _price(model, choice, world, chunk_length=chunk)
    possible = splits(config, world)
    for ranks in (
        r
        for r in _around(possible, choice.sequence)
        if choice.chunk_length in chunk_lengths(config, r)
    ):
        yield f"parallel.sequence={ranks}", _price(model, choice, world, sequence=ranks)
    most = with_kept(model, choice, world).kept
    for kept in dict.fromkeys((0, 1, most)):
        if kept != choice.kept:
            yield f"parallel.keep_chunks={kept:g}", _price(model, choice, world, kept=kept)
    if choice.sequence > 1:
        other = "contiguous" if choice.layout == "striped" else "striped"
        yield f"parallel.layout={other}", _price(model, choice, world, layout=other)
    for stage in (1, 3) if world > 1 else ():
        if stage != choice.stage:
            yield f"zero.stage={stage}", _price(model, choice, world, stage=stage)


def _around(values: list[int], value: int) -> list[int]:
    below = [v for v in values if v < value][-1:]
    return below + [v for v in values if v > value][:1]


def _price(model: Model, choice: Choice, world: int, **changes: Any) -> Option:
    """Price a changed choice; `keep_chunks: auto` chooses again."""
    changed = replace(choice, **changes)
    if model.config.parallel.keep_chunks == "auto" and "kept" not in changes:
        changed = with_kept(model, changed, world, AUTO_SHARE)
    return model.price(changed, world)


def smallest_change(model: Model, option: Option) -> tuple[list[str], Option] | None:
    """The overrides that make an option fit, and what it takes then; None if nothing does.

    One key before two: fewer kept chunks, shorter chunks, ZeRO, more sequence ranks; of those that fit with
    as many keys, the fastest.
    """
    choice, config, world = option.choice, model.config, option.world
    kept = sorted({choice.kept, min(choice.kept, 1), 0}, reverse=True)
    stages = [choice.stage, *(s for s in (1, 2, 3) if s > choice.stage and world > 1)]
    found: list[tuple[int, float, list[str], Choice]] = []
    for ranks in [r for r in splits(config, world) if r >= choice.sequence]:
        for chunk in [c for c in chunk_lengths(config, ranks) if c <= choice.chunk_length]:
            for stage in stages:
                for keep in kept:
                    other = Choice(ranks, chunk, choice.layout, keep, stage)
                    if model.memory(other, world).peak > model.limit_bytes:
                        continue
                    keys = other.keys(choice)
                    if keep != choice.kept:
                        keys.append(f"parallel.keep_chunks={keep:g}")
                    found.append((len(keys), model.estimate(other, world), keys, other))
                    break
    if not found:
        return None
    _, _, keys, best = min(found, key=lambda item: item[:2])
    return keys, model.price(best, world)
