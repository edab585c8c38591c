"""The style of the plots: one figure style, a right axis in bits, a top axis in tokens."""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tttscale.errors import TTTScaleError
from tttscale.files import replaced
from tttscale.packages import needed

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_Map = Callable[[Any], np.ndarray]

BLUE, ORANGE, GREY = "#2b5c8a", "#d9772b", "#8a8f98"
_STYLE: dict[Any, Any] = {
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": GREY,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e6e8eb",
    "legend.frameon": False,
}


@contextmanager
def new_axes(path: Path) -> Iterator[tuple["Axes", Path]]:
    """Give an empty plot; when the block ends it is saved to `path` as PNG, whole or not at all."""
    with needed("matplotlib", "a plot", "Run `pip install matplotlib`.", TTTScaleError):
        import matplotlib as mpl
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure

    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(8, 4.5), dpi=150, layout="constrained")
        FigureCanvasAgg(figure)  # needs no display, and leaves pyplot's global state alone
        yield figure.add_subplot(), path
        with replaced(path) as file:
            figure.savefig(file, format="png")


def add_bits_axis(axes: "Axes") -> None:
    """Show the y axis, which is in nats, in bits as well."""
    right = axes.secondary_yaxis("right", functions=_scaling(1 / math.log(2)))
    right.set_ylabel("bits per token", color=GREY)
    right.tick_params(colors=GREY)
    right.spines["right"].set_visible(True)


def add_tokens_axis(axes: "Axes", per_step: float) -> None:
    """Show the x axis, which is in steps, in tokens as well."""
    top = axes.secondary_xaxis("top", functions=_scaling(per_step))
    top.set_xlabel("tokens trained on", color=GREY)
    top.tick_params(colors=GREY)
    top.spines["top"].set_visible(True)
    top.xaxis.set_major_formatter(lambda value, _: decimal(value))


def _scaling(factor: float) -> tuple[_Map, _Map]:
    return lambda v: np.asarray(v) * factor, lambda v: np.asarray(v) / factor


def binary(value: float) -> str:
    """Format a size, such as 64Ki or 1Mi."""
    for unit, size in (("Mi", 2**20), ("Ki", 2**10)):
        if value >= size:
            return f"{value / size:g}{unit}"
    return f"{value:g}"


def decimal(value: float) -> str:
    """Format a number in at most three digits, such as 8.39M or 41k."""
    for unit, size in (("T", 1e12), ("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if abs(value) >= size:
            return f"{value / size:.3g}{unit}"
    return f"{value:g}"
