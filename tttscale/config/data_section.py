"""The `data` section: one token store or a blend of several, and how its text is cut."""

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from tttscale.config.numbers import HumanFloat, Positive, Text, parse_int
from tttscale.config.paths import StorePath
from tttscale.config.section import Section
from tttscale.scrub import shortened

StepRange = tuple[int, int]
"""First and last step number."""


class BlendComponent(Section):
    """One store of a blend."""

    store: StorePath
    """Path or URL of a token store; a path is relative to the working directory."""
    weight: Annotated[HumanFloat, Field(gt=0)] = 1.0
    """Its share of the sequences is weight / sum of all weights."""


def normalised_steps(value: Any) -> tuple[int | str, ...]:
    """Turn [1300, "1200-1k", ...] into disjoint ascending steps and ranges, written the same way."""
    if not isinstance(value, list | tuple):
        raise ValueError("expected a list of steps and ranges, such as [1200-1210, 1300]")
    merged: list[StepRange] = []
    for first, last in sorted(map(_step_range, value)):
        if merged and first <= merged[-1][1] + 1:
            first, last = merged[-1][0], max(last, merged.pop()[1])
        merged.append((first, last))
    return tuple(first if first == last else f"{first}-{last}" for first, last in merged)


def _step_range(item: Any) -> StepRange:
    bounds = item.split("-", 1) if isinstance(item, str) else [item]
    try:
        first, last = parse_int(bounds[0]), parse_int(bounds[-1])
    except ValueError:
        raise ValueError(
            f"expected steps such as 1300 and ranges such as 1200-1210, found {shortened(item, 40)}"
        ) from None
    if not 1 <= first <= last:
        raise ValueError(
            f"expected steps of at least 1, and ranges that end at or after their first step, "
            f"found {shortened(item, 40)}"
        )
    return first, last


class DataSection(Section):
    """What the run trains on."""

    store: StorePath | None = None
    """Path or URL of a token store; a path is relative to the working directory. This or blend."""
    blend: Annotated[tuple[BlendComponent, ...], Field(min_length=1)] | None = None
    """Several stores and their weights: [{store: path, weight: 2}, ...]; this or store."""
    split: Text = "train"
    """The store's split to train on."""
    heldout_split: Text = "heldout"
    """The store's split for held-out losses."""
    sequence_length: Positive
    """Tokens per training sequence."""
    documents: Literal["ignore", "reset", "whole"] = "ignore"
    """At a document's start inside a sequence: ignore keeps the state, reset resets it; whole resets it
    and cuts no document that fits into a sequence."""
    damaged: Literal["refuse", "pad"] = "refuse"
    """At damage in a store: refuse stops, pad reads as padding what `data verify --quarantine` listed."""
    skip_steps: Annotated[tuple[int | str, ...], BeforeValidator(normalised_steps)] = ()
    """Steps whose data is skipped, such as [1200-1210, 1300]; later data moves up."""

    @property
    def components(self) -> tuple[BlendComponent, ...]:
        """The stores with their weights, given by `store` or by `blend`."""
        if self.blend is not None:
            return self.blend
        assert self.store is not None
        return (BlendComponent(store=self.store),)

    @property
    def skipped(self) -> tuple[StepRange, ...]:
        """`skip_steps` as first and last number of each range, ascending and disjoint."""
        return tuple(map(_step_range, self.skip_steps))
