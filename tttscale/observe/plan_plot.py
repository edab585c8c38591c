"""The plot of a plan: time of a step against ranks, a line for each context."""

from pathlib import Path

from tttscale.observe.figure import BLUE, GREY, ORANGE, binary, new_axes

_COLOURS = (GREY, BLUE, ORANGE)


def draw_times(path: Path, title: str, times: dict[int, list[tuple[int, float]]]) -> None:
    """Draw and save as PNG.

    Args:
        path: of the file.
        title: over the plot.
        times: context in tokens -> (ranks that share a sequence, seconds of its sweeps).
    """
    with new_axes(path) as (axes, _):
        for colour, (tokens, points) in zip(_COLOURS, sorted(times.items()), strict=False):
            if not points:
                continue
            ranks, seconds = zip(*points, strict=True)
            label = f"{binary(tokens)} tokens"
            axes.plot(ranks, seconds, color=colour, marker="o", markersize=4, label=label)
            ideal = [seconds[0] * ranks[0] / r for r in ranks]
            axes.plot(ranks, ideal, color=colour, linestyle=":", linewidth=1)
        axes.set_xscale("log", base=2)
        axes.set_yscale("log")
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
        axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
        axes.set_xlabel("ranks that share one sequence (parallel.sequence)")
        axes.set_ylabel("seconds of a sequence, forward and backward")
        axes.set_title(f"{title}; dotted: divided evenly", loc="left")
        axes.legend()
