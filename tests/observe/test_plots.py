import json
import math
from contextlib import contextmanager

import numpy as np
import pytest

from tttscale.errors import DataError
from tttscale.observe import MetricsLog, figure, plots
from tttscale.observe.plots import plot_loss, plot_positions, plot_run

PNG = b"\x89PNG"


def metrics(tmp_path, records):
    with MetricsLog(tmp_path / "metrics.jsonl") as log:
        for record in records:
            log.write(record)
    return tmp_path / "metrics.jsonl"


def positions(tmp_path, **content):
    (tmp_path / "positions.json").write_text(json.dumps(content))
    return tmp_path / "positions.json"


def test_a_run_gets_both_plots(tmp_path):
    metrics(
        tmp_path,
        [
            {"step": n, "loss": 5 / n, "tokens": 64 * n, "heldout_loss": 6 / n}
            for n in range(1, 101)
        ],
    )
    positions(tmp_path, edges=[0, 16, 32, 64], loss=[4.0, None, 3.0], count=[16, 0, 32])
    drawn = plot_run(tmp_path)
    assert [path.name for path in drawn] == ["loss_by_step.png", "loss_by_position.png"]
    assert all(path.read_bytes().startswith(PNG) for path in drawn)


@pytest.mark.parametrize(
    "records",
    [
        [{"step": 1, "loss": 2.0}],
        [{"step": 1, "loss": 2.0}, {"step": 2, "loss": float("nan")}, {"step": 1, "loss": 3.0}],
        [{"step": 1, "loss": float("nan"), "heldout_loss": 2.0, "tokens": 0}],
    ],
)
def test_sparse_metrics_still_plot(tmp_path, records):
    out = tmp_path / "other.png"
    assert plot_loss(metrics(tmp_path, records), out) == out
    assert out.read_bytes().startswith(PNG)


@pytest.mark.parametrize("records", [[], [{"step": 1, "loss": float("inf")}], [{"note": "x"}]])
def test_nothing_to_plot(tmp_path, records):
    with pytest.raises(DataError, match="no finite losses"):
        plot_loss(metrics(tmp_path, records))


@pytest.mark.parametrize(
    "content",
    [
        {"edges": [0, 1], "loss": [1.0]},
        {"edges": [0, 1], "loss": [1.0, 2.0], "count": [1]},
        {"edges": ["a", 1], "loss": [1.0], "count": [1]},
        {"edges": [0, 1], "loss": [1.0], "count": [0]},
        {"edges": 3, "loss": [], "count": []},
        {"edges": [1, 0], "loss": [1.0], "count": [1]},
        {"edges": [5, 3, 9], "loss": [1.0, 1.0], "count": [1, 1]},
        {"edges": [-1, 1], "loss": [1.0], "count": [1]},
        {"edges": [0, 1e308], "loss": [1.0], "count": [1]},
        {"edges": [0, math.inf], "loss": [1.0], "count": [1]},
        {"edges": [0, 1], "loss": [1.0], "count": [-1]},
        {"edges": [0, 1], "loss": [1.0], "count": [math.nan]},
        {"edges": [0, 1], "loss": [1e308], "count": [1]},
        {"edges": [0, 1], "loss": [[]], "count": [1]},
    ],
)
def test_damaged_positions(tmp_path, content):
    with pytest.raises(DataError):
        plot_positions(positions(tmp_path, **content))


def test_numbers_that_no_run_writes_are_not_drawn(tmp_path):
    """They would overflow in the middle of the drawing."""
    losses = [2.0, 1e308, -1e308, 1e29, "inf", 10**19]
    metrics(tmp_path, [{"step": n, "loss": x, "tokens": 10**18} for n, x in enumerate(losses)])
    edges = [0, 1, 2, 1e29]
    positions(tmp_path, edges=edges, loss=[math.nan, 1e308, 2.0], count=[1, 1, 10**19])
    assert len(plot_run(tmp_path)) == 2


@pytest.mark.parametrize("step", ["two", [2], None, True, math.nan, 1e308, -1e300])
def test_a_step_that_is_no_number(tmp_path, step):
    lines = [{"step": 1, "loss": 2.0}, {"step": step, "loss": 2.0}]
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (tmp_path / "metrics.jsonl").write_text(text)
    with pytest.raises(DataError, match=r"metrics\.jsonl: a record's step is .*, not a number"):
        plot_loss(tmp_path / "metrics.jsonl")


@pytest.fixture
def drawn(monkeypatch):
    """The axes of every plot."""
    seen = []

    @contextmanager
    def new_axes(path):
        with figure.new_axes(path) as (axes, path):
            seen.append(axes)
            yield axes, path

    monkeypatch.setattr(plots, "new_axes", new_axes)
    return seen


def test_plots_name_their_run_and_all_that_is_in_them(tmp_path, drawn):
    metrics(tmp_path, [{"step": 7, "loss": 2.0, "tokens": 64, "heldout_loss": 3.0}])
    positions(tmp_path, edges=[0, 16, 32, 64], loss=[4.0, None, 3.0], count=[16, 0, 32])
    plot_run(tmp_path)
    by_step, _ = drawn
    assert [axes.get_title(loc="left") for axes in drawn] == [tmp_path.name] * 2
    assert by_step.get_xlim() == (6, 8)  # whole steps on both sides of a single one
    labels = [[text.get_text() for text in axes.get_legend().get_texts()] for axes in drawn]
    assert labels == [["training", "held-out"], ["bucket mean", "mean of 48 tokens: 3.333"]]


def test_buckets_are_steps_and_the_first_takes_no_half_of_the_axis(tmp_path, drawn):
    count = [16, 0, 32]
    plot_positions(positions(tmp_path, edges=[0, 16, 32, 64], loss=[4.0, None, 3.0], count=count))
    (steps,) = drawn[0].patches
    values, edges, _ = steps.get_data()
    np.testing.assert_array_equal(values, [4.0, math.nan, 3.0])
    assert list(edges) == [8, 16, 32, 64]
    assert drawn[0].get_xlim() == (8, 64)
    assert "the first 16 are one bucket" in drawn[0].get_xlabel()


def test_an_empty_folder_has_no_plots(tmp_path):
    assert plot_run(tmp_path) == []
