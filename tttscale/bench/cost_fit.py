"""Lines through measured seconds: the costs of activities, and how well they fit."""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from statistics import fmean

from tttscale.observe.spans import Span
from tttscale.plan.costs import Line

Key = tuple[str, str]
"""Kind of layer ("" for embedding and head), and "run.activity"."""
_OF_A_LAYER = ("project", "advance", "readout", "finish")
_ENDS = ("embed", "head")


@dataclass
class Samples:
    """Seconds of activities by the tokens of their chunk."""

    seconds: dict[Key, dict[int, list[float]]] = field(
        default_factory=lambda: defaultdict(lambda: defaultdict(list))
    )
    shares: dict[tuple[str, str], list[float]] = field(default_factory=lambda: defaultdict(list))
    """(forward or backward, part) -> share of PROJECT before its exchange."""

    def add(
        self,
        spans: Iterable[Span],
        chunks: Mapping[int, int],
        kinds: tuple[str, ...],
        prefix: str = "",
    ) -> None:
        """Take in one step's sweeps.

        Args:
            spans: of one rank.
            chunks: chunks that count, and their tokens; those at a sequence's ends exchange less.
            kinds: the kind of each layer.
            prefix: of the activities' names, such as "alone.".
        """
        sums: dict[tuple[int, int, str, str], float] = defaultdict(float)
        sends: dict[tuple[int, str], list[float]] = defaultdict(list)
        before: dict[tuple[int, int, str, str], float] = {}
        for span in spans:
            if span.chunk not in chunks or not span.run:
                continue
            seconds, place = span.end - span.begin, (span.chunk, span.layer, span.run)
            if span.activity in _OF_A_LAYER and span.layer >= 0:
                sums[*place, span.activity] += seconds
            elif span.activity in _ENDS:
                sums[span.chunk, -1, span.run, span.activity] += seconds
            elif span.activity == "send":
                sends[span.layer, span.run].append(seconds)
            if span.activity in ("wait", "send"):
                before.setdefault((*place, span.part), sums[*place, "project"])
        for (chunk, layer, run, activity), seconds in sums.items():
            kind = kinds[layer] if layer >= 0 else ""
            self.seconds[kind, f"{prefix}{run}.{activity}"][chunks[chunk]].append(seconds)
        for (layer, run), found in sends.items():
            self.seconds[kinds[layer], f"{prefix}{run}.send"][0] += found
        for (chunk, layer, run, part), seconds in before.items():
            total = sums[chunk, layer, run, "project"]
            if 0 < seconds < total and run != "recompute":
                self.shares[run, part].append(seconds / total)


@dataclass(frozen=True)
class Fit:
    """Lines, and how far means are from them."""

    lines: dict[Key, Line]
    residuals: dict[Key, float]
    """Largest distance of a mean from its line, as a share of the mean."""
    totals: dict[int, float]
    """Tokens -> all activities together: (line - mean) / mean."""


def fit(samples: Samples) -> Fit:
    """Fit every activity: the line with the least squares of relative errors, no part of it negative.

    Means count and not medians: a step is a sum, which has everything in it that disturbed one of its parts.
    """
    lines, residuals = {}, {}
    measured: dict[int, float] = defaultdict(float)
    fitted: dict[int, float] = defaultdict(float)
    for key, by_tokens in samples.seconds.items():
        means = {tokens: fmean(found) for tokens, found in by_tokens.items()}
        lines[key] = line = Line.through(means)
        errors = {t: line.seconds(t) / max(m, 1e-9) - 1 for t, m in means.items()}
        residuals[key] = max(errors.values(), key=abs)
        if not key[1].startswith("alone."):
            for tokens, value in means.items():
                measured[tokens] += value
                fitted[tokens] += line.seconds(tokens)
    measured.pop(0, None)
    totals = {tokens: fitted[tokens] / value - 1 for tokens, value in measured.items()}
    return Fit(lines, residuals, totals)
