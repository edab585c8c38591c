"""Plots of an evaluation: loss by position with its band, heat maps, accuracy by length, inner losses."""

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tttscale.observe.figure import (
    BLUE,
    GREY,
    ORANGE,
    add_bits_axis,
    binary,
    new_axes,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_COLOURS = (BLUE, ORANGE, "#4f8f5b", "#8a5aa8")


def plot_loss_band(result: Mapping[str, Any], out: Path) -> Path:
    """Draw loss by position with its confidence band; positions beyond the trained length are shaded.

    Args:
        result: of the task `loss` in eval.json.
        out: the PNG.
    """
    at = result["positions"]
    edges = [float(edge) for edge in at["edges"]]
    borders = _borders(edges)
    with new_axes(out) as (axes, path):
        _log_positions(axes, edges, borders)
        loss, low, high = (_numbers(at[name]) for name in ("loss", "low", "high"))
        if any(map(math.isfinite, low)):
            label = f"95% interval over {result['sequences']} sequences"
            axes.fill_between(
                borders, [*low, low[-1]], [*high, high[-1]],
                step="post", color=BLUE, alpha=0.2, linewidth=0, label=label,
            )  # fmt: skip
        axes.stairs(loss, borders, baseline=None, color=BLUE, linewidth=1.8, label="bucket mean")
        mean = result["loss"]
        label = f"mean of all {result['tokens']:,} tokens: {mean:.3f}"
        axes.axhline(mean, color=GREY, linestyle="--", linewidth=1, label=label)
        _mark_beyond(axes, result["trained_tokens"], borders[-1])
        axes.set(ylabel="loss (nats per token)")
        axes.margins(y=0.08)
        add_bits_axis(axes)
        axes.legend(loc="best")
    return path


def plot_heat_map(result: Mapping[str, Any], out: Path) -> Path:
    """Draw the share of right choices by length and depth.

    Args:
        result: of `passkey` or `needle` in eval.json.
        out: the PNG.
    """
    cells, chance = result["cells"], 1 / result["choices"]
    lengths = sorted({cell["length"] for cell in cells})
    depths = sorted({cell["depth"] for cell in cells})
    table = [[math.nan] * len(lengths) for _ in depths]
    for cell in cells:
        place = depths.index(cell["depth"]), lengths.index(cell["length"])
        table[place[0]][place[1]] = cell["chosen"]["value"]
    with new_axes(out) as (axes, path):
        image = axes.imshow(table, cmap="viridis", vmin=0, vmax=1, aspect="auto")
        axes.grid(visible=False)
        axes.set_xticks(range(len(lengths)), [binary(length) for length in lengths])
        axes.set_yticks(range(len(depths)), [f"{depth:.0%}" for depth in depths])
        axes.set(xlabel="length (tokens)", ylabel="depth of the needle")
        for row, values in enumerate(table):
            for column, value in enumerate(values):
                if math.isfinite(value):
                    colour = "black" if value > 0.6 else "white"
                    axes.text(
                        column, row, f"{value:.0%}", ha="center", va="center", fontsize=9, color=colour
                    )  # fmt: skip
        trained = result["trained_tokens"]
        if trained and lengths[0] <= trained < lengths[-1]:
            at = sum(length <= trained for length in lengths) - 0.5
            axes.axvline(at, color="black", linewidth=1.2)
            axes.text(
                at + 0.04, 1.01, "beyond the trained length",
                transform=axes.get_xaxis_transform(), fontsize=9, ha="left", va="bottom",
            )  # fmt: skip
        bar = axes.figure.colorbar(image, ax=axes)
        bar.set_label(f"right answer is the likeliest of {result['choices']}")
        bar.ax.axhline(chance, color="white", linewidth=1.5)
        bar.ax.text(
            1.5, chance, "chance", fontsize=8, va="center", transform=bar.ax.get_yaxis_transform()
        )
        axes.set_title(result["title"], loc="left")
    return path


def plot_accuracy(result: Mapping[str, Any], out: Path) -> Path:
    """Draw the share of right choices by length, with intervals, and the chance.

    Args:
        result: of `recall`, `copy` or `state-tracking` in eval.json.
        out: the PNG.
    """
    kinds = list(dict.fromkeys(cell["kind"] for cell in result["cells"]))
    with new_axes(out) as (axes, path):
        axes.set_xscale("log", base=2)
        for n, (colour, kind) in enumerate(zip(_COLOURS, kinds, strict=False)):
            cells = [cell for cell in result["cells"] if cell["kind"] == kind]
            # Side by side, so that intervals do not hide each other.
            lengths = [cell["length"] * 1.04 ** (2 * n + 1 - len(kinds)) for cell in cells]
            values = [cell["chosen"]["value"] for cell in cells]
            reach = [
                [max(0.0, c["chosen"]["value"] - c["chosen"]["low"]) for c in cells],
                [max(0.0, c["chosen"]["high"] - c["chosen"]["value"]) for c in cells],
            ]
            axes.errorbar(
                lengths, values, yerr=reach, fmt="o-", color=colour, capsize=3, linewidth=1.4,
                markersize=4, label=f"{kind}: likeliest of the choices",
            )  # fmt: skip
            exact = [cell["exact"]["value"] for cell in cells]
            label = f"{kind}: whole answer exact"
            axes.plot(lengths, exact, "s:", color=colour, linewidth=1.2, markersize=4, label=label)
            chance = 1 / cells[0]["choices"]
            axes.axhline(chance, color=colour, linestyle="--", linewidth=1, label=f"{kind}: chance")
        lengths = sorted({cell["length"] for cell in result["cells"]})
        axes.set_xticks(lengths, [binary(length) for length in lengths])
        axes.minorticks_off()
        axes.set_xlim(lengths[0] / 1.3, lengths[-1] * 1.3)
        axes.set_ylim(-0.03, 1.03)
        _mark_beyond(axes, result["trained_tokens"], lengths[-1] * 1.3)
        axes.set(xlabel="length (tokens)", ylabel="share of answers")
        axes.set_title(result["title"], loc="left")
        axes.legend(loc="best", fontsize=8)
    return path


def plot_inner(result: Mapping[str, Any], out: Path) -> Path:
    """Draw the inner loss of each layer before and after the step, by position.

    Args:
        result: of the task `inner` in eval.json.
        out: the PNG.
    """
    edges = [float(edge) for edge in result["edges"]]
    borders = _borders(edges)
    middles = [math.sqrt(a * b) for a, b in pairwise(borders)]
    layers = result["layers"]
    with new_axes(out) as (axes, path):
        from matplotlib import cm, colormaps, colors
        from matplotlib.ticker import LogLocator, NullLocator

        colours = colormaps["viridis"]
        _log_positions(axes, edges, borders)
        for n, layer in enumerate(layers):
            colour = colours(n / max(len(layers) - 1, 1) * 0.9)
            few = len(layers) <= 6
            for name, style in (("initial", ":"), ("before", "-"), ("after", "--")):
                label = f"layer {layer['layer']}" if few and name == "before" else None
                axes.plot(
                    middles, _numbers(layer[name]), style, color=colour, linewidth=1.4, label=label
                )
        for name, style in (
            ("initial weights", ":"),
            ("before the step", "-"),
            ("after the step", "--"),
        ):
            axes.plot([], [], style, color=GREY, label=name)
        if len(layers) > 6:
            norm = colors.Normalize(layers[0]["layer"], layers[-1]["layer"])
            scale = cm.ScalarMappable(norm, colours)
            axes.figure.colorbar(scale, ax=axes, label="layer")
        _mark_beyond(axes, result["trained_tokens"], borders[-1])
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_minor_locator(NullLocator())
        axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
        axes.set(ylabel="inner loss (mean squared error)")
        axes.legend(loc="best", fontsize=8, ncols=2)
    return path


def _borders(edges: Sequence[float]) -> list[float]:
    """Position 0 has no place on a log axis: a bucket that begins there is drawn an octave wide."""
    return [edge or edges[1] / 2 for edge in edges]


def _log_positions(axes: "Axes", edges: Sequence[float], borders: Sequence[float]) -> None:
    axes.set_xscale("log", base=2)
    begins = "" if edges[0] else f"; the first {binary(edges[1])} are one bucket"
    axes.set(xlabel=f"position in context (tokens{begins})")
    axes.xaxis.set_major_formatter(lambda value, _: binary(value))
    axes.minorticks_off()
    axes.set_xlim(borders[0], borders[-1])


def _mark_beyond(axes: "Axes", trained: int | None, end: float) -> None:
    """Shade what lies beyond the length of training."""
    if trained and trained < end:
        axes.axvspan(trained, end, color=ORANGE, alpha=0.10, linewidth=0)
        axes.axvline(trained, color=ORANGE, linewidth=1)
        axes.text(
            trained, 1.01, "beyond the trained length", color=ORANGE, fontsize=9, ha="left", va="bottom",
            transform=axes.get_xaxis_transform(),
        )  # fmt: skip


def _numbers(values: Sequence[float | None]) -> list[float]:
    return [math.nan if value is None else float(value) for value in values]
