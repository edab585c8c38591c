"""Plots of an evaluation: PNGs with all that they should show, also of odd results."""

import pytest

from tests.evaluate import results
from tttscale.observe import eval_plots, figure
from tttscale.observe.eval_plots import plot_accuracy, plot_heat_map, plot_inner, plot_loss_band


@pytest.fixture
def drawn(monkeypatch):
    """The axes of the last plot."""
    kept = []

    class Kept:
        def __init__(self, path):
            self._inner = figure.new_axes(path)

        def __enter__(self):
            axes, path = self._inner.__enter__()
            kept.append(axes)
            return axes, path

        def __exit__(self, *error):
            return self._inner.__exit__(*error)

    monkeypatch.setattr(eval_plots, "new_axes", Kept)
    return kept


def texts(axes):
    return [text.get_text() for text in axes.texts]


def labels(axes):
    return [text.get_text() for text in axes.get_legend().get_texts()]


def check(path):
    assert path.read_bytes().startswith(b"\x89PNG")
    return path


def test_loss_has_its_band_and_what_is_beyond_training(tmp_path, drawn):
    check(plot_loss_band(results.loss(), tmp_path / "a.png"))
    assert "beyond the trained length" in texts(drawn[-1])
    assert "95% interval over 8 sequences" in labels(drawn[-1])
    check(plot_loss_band(results.loss(sequences=1, length=2048), tmp_path / "b.png"))
    assert texts(drawn[-1]) == []
    assert len(labels(drawn[-1])) == 2


def test_a_heat_map_shows_every_cell(tmp_path, drawn):
    check(plot_heat_map(results.heat(), tmp_path / "a.png"))
    shown = texts(drawn[-1])
    assert sum(text.endswith("%") for text in shown) == 15
    assert "beyond the trained length" in shown
    assert [t.get_text() for t in drawn[-1].get_xticklabels()] == ["1Ki", "4Ki", "16Ki"]


def test_a_heat_map_of_one_cell(tmp_path, drawn):
    one = results.heat()
    check(plot_heat_map(one | {"cells": one["cells"][:1]}, tmp_path / "a.png"))
    assert texts(drawn[-1]) == ["22%"] or len(texts(drawn[-1])) == 1


def test_accuracy_has_intervals_and_chances(tmp_path, drawn):
    check(plot_accuracy(results.symbols(), tmp_path / "a.png"))
    assert {"parity: chance", "s5: chance"} <= set(labels(drawn[-1]))
    assert len(labels(drawn[-1])) == 6
    one = results.symbols(("copy",))
    check(plot_accuracy(one | {"cells": one["cells"][:1]}, tmp_path / "b.png"))


@pytest.mark.parametrize("layers", [1, 4, 24])
def test_inner_losses_of_all_layers(tmp_path, drawn, layers):
    check(plot_inner(results.inner(layers), tmp_path / "a.png"))
    assert sum(len(line.get_xdata()) == 7 for line in drawn[-1].lines) == 3 * layers
    assert "before the step" in labels(drawn[-1])


def test_buckets_without_a_loss_are_gaps(tmp_path):
    loss = results.loss()
    for name in ("loss", "low", "high"):
        loss["positions"][name][2] = None
    check(plot_loss_band(loss, tmp_path / "a.png"))
