"""A run's plots: loss by step and loss by position in the context."""

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tttscale.errors import DataError
from tttscale.observe.figure import (
    BLUE,
    GREY,
    ORANGE,
    add_bits_axis,
    add_tokens_axis,
    binary,
    decimal,
    new_axes,
)
from tttscale.observe.metrics import read_metrics
from tttscale.reading import read_json
from tttscale.versions import KEY, is_newer, newer, newer_format

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_LARGEST = 1e30
"""A run writes no larger number, and matplotlib may not be able to draw one."""
_POSITION_KEYS = "edges", "loss", "count"
_POSITIONS_BYTES = 16 << 20
_POSITIONS_ADVICE = "Put back the file that the run wrote, or remove it to do without its plot"


def plot_run(run_dir: str | Path) -> list[Path]:
    """Draw all plots that the run's files allow; returns the paths of the PNGs.

    Raises:
        DataError: a file is damaged or has nothing to draw.
    """
    run_dir = Path(run_dir)
    metrics, positions = run_dir / "metrics.jsonl", run_dir / "positions.json"
    drawn = [plot_loss(metrics)] if metrics.is_file() else []
    return drawn + ([plot_positions(positions)] if positions.is_file() else [])


def plot_loss(metrics: str | Path, out: str | Path | None = None) -> Path:
    """Draw training and held-out loss by step and tokens, to loss_by_step.png beside `metrics`.

    Raises:
        DataError: no record has a step and a finite loss, or a step is not a number.
    """
    records = _by_step(Path(metrics))
    ordered = [records[step] for step in sorted(records)]
    train, heldout = _points(ordered, "loss"), _points(ordered, "heldout_loss")
    if not train and not heldout:
        raise DataError(f"{metrics} has no finite losses to plot; train at least one step first")
    with _named_axes(metrics, out, "loss_by_step.png") as (axes, path):
        _draw_training(axes, train)
        if heldout:
            steps, losses = zip(*heldout, strict=True)
            axes.plot(steps, losses, "o-", color=ORANGE, linewidth=1.2, label="held-out", zorder=4)
        axes.set(xlabel="optimizer step", ylabel="loss (nats per token)")
        axes.margins(x=0.02)
        if len(records) == 1:  # the axis would show fractions of a step
            axes.set_xlim(ordered[0]["step"] - 1, ordered[0]["step"] + 1)
        add_bits_axis(axes)
        axes.locator_params(axis="x", integer=True)
        tokens = _points(ordered, "tokens")
        if tokens and min(tokens[-1]) > 0:
            add_tokens_axis(axes, tokens[-1][1] / tokens[-1][0])
        axes.legend(loc="best")
    return path


def plot_positions(positions: str | Path, out: str | Path | None = None) -> Path:
    """Draw loss by position in the context, to loss_by_position.png beside `positions`.

    `positions` is JSON: n+1 bucket `edges` (token positions), n `loss` (nats), n `count` (tokens).

    Raises:
        DataError: the file is damaged, or all of its buckets are empty.
    """
    edges, losses, counts = read_positions(Path(positions))
    used = [
        n for n, (loss, count) in enumerate(zip(losses, counts, strict=True))
        if count > 0 and abs(loss) < _LARGEST
    ]  # fmt: skip
    if not used:
        raise DataError(f"{positions} has no bucket with tokens; evaluate at least one sequence")
    total = sum(counts[n] for n in used)
    mean = sum(losses[n] * counts[n] for n in used) / total
    held = set(used)
    steps = [losses[n] if n in held else math.nan for n in range(len(losses))]
    # Position 0 has no place on a log axis: a bucket that begins there is drawn an octave wide.
    borders = [edge or edges[1] / 2 for edge in edges]
    with _named_axes(positions, out, "loss_by_position.png") as (axes, path):
        axes.set_xscale("log", base=2)
        axes.stairs(steps, borders, baseline=None, color=BLUE, linewidth=1.8, label="bucket mean")
        label = f"mean of {decimal(total)} tokens: {mean:.3f}"
        axes.axhline(mean, color=GREY, linestyle="--", linewidth=1, label=label)
        begins = "" if edges[0] else f"; the first {binary(edges[1])} are one bucket"
        axes.set(xlabel=f"position in context (tokens{begins})")
        axes.set(ylabel="held-out loss (nats per token)")
        axes.xaxis.set_major_formatter(lambda value, _: binary(value))
        axes.minorticks_off()
        axes.set_xlim(borders[used[0]], borders[used[-1] + 1])
        axes.margins(y=0.08)
        add_bits_axis(axes)
        axes.legend(loc="best")
    return path


@contextmanager
def _named_axes(
    source: str | Path, out: str | Path | None, name: str
) -> Iterator[tuple["Axes", Path]]:
    """Give axes for `out`, or else for `name` beside `source`, titled with the name of the run."""
    source = Path(source)
    with new_axes(Path(out or source.with_name(name))) as (axes, path):
        axes.set_title(source.resolve().parent.name, loc="left", parse_math=False)
        yield axes, path


def _by_step(path: Path) -> dict[float, dict[str, Any]]:
    """Return the records that have a step; the last one of a repeated step."""
    records: dict[float, dict[str, Any]] = {}
    for record in read_metrics(path):
        step = record.get("step", 0)
        number = isinstance(step, int | float) and not isinstance(step, bool)
        if not number or not abs(step) < _LARGEST:  # also of NaN
            raise DataError(
                f"{path}: a record's step is {step!r:.60}, not a number. Repair or remove that line."
            )
        if "step" in record:
            records[step] = record
    return records


def _draw_training(axes: "Axes", points: list[tuple[float, float]]) -> None:
    if not points:
        return
    steps, losses = zip(*points, strict=True)
    window = max(1, len(losses) // 40)
    if window == 1:
        axes.plot(steps, losses, "o-", color=BLUE, linewidth=1.6, markersize=3, label="training")
        return
    axes.plot(steps, losses, color=BLUE, linewidth=0.8, alpha=0.3)
    label = f"training, mean of {2 * window + 1} steps"
    axes.plot(steps, _smooth(losses, window), color=BLUE, linewidth=1.8, label=label)


def _smooth(values: Sequence[float], window: int) -> list[float]:
    """Return centred means over `window` neighbours on each side; evenly fewer towards the ends."""
    reach = [min(window, n, len(values) - 1 - n) for n in range(len(values))]
    return [sum(values[n - r : n + r + 1]) / (2 * r + 1) for n, r in enumerate(reach)]


def _points(records: Sequence[Mapping[str, Any]], key: str) -> list[tuple[float, float]]:
    pairs = ((record["step"], record.get(key)) for record in records)
    return [(s, float(v)) for s, v in pairs if isinstance(v, int | float) and abs(v) < _LARGEST]


def read_positions(path: Path) -> tuple[list[float], list[float], list[float]]:
    """Read n+1 edges, n losses (NaN where there is none) and n counts.

    Raises:
        DataError: the file holds something else, or a newer tttscale wrote it.
    """
    content = read_json(
        path,
        error=DataError,
        advice=_POSITIONS_ADVICE,
        limit_bytes=_POSITIONS_BYTES,
        non_finite=True,
    )
    if isinstance(content, dict) and newer_format(content.get("format_version"), 1):
        raise DataError(newer(path, content.get(KEY), content["format_version"]))
    try:
        edges, losses, counts = (list(map(_number, content[key])) for key in _POSITION_KEYS)
    except (ValueError, KeyError, TypeError, OverflowError) as error:
        raise DataError(_refusal(path, content, f"{error!r:.80}")) from None
    if not len(edges) - 1 == len(losses) == len(counts):
        raise DataError(_refusal(path, content, "expected n+1 edges for n losses and n counts"))
    ascending = all(a < b for a, b in pairwise([*edges, _LARGEST])) and edges[0] >= 0
    if not ascending or not all(0 <= count < _LARGEST for count in counts):
        raise DataError(
            _refusal(path, content, "expected edges that ascend from 0, and counts from 0 on")
        )
    return edges, losses, counts


def _number(value: Any) -> float:
    return math.nan if value is None else float(value)


def _refusal(path: Path, content: Any, problem: str) -> str:
    wrote = content.get(KEY) if isinstance(content, dict) else None
    if is_newer(wrote):
        return newer(path, wrote)
    return f"cannot read positions from {path}: {problem}. {_POSITIONS_ADVICE}"
