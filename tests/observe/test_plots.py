import json

import pytest

from tttscale.errors import DataError
from tttscale.observe import MetricsLog
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
    ],
)
def test_damaged_positions(tmp_path, content):
    with pytest.raises(DataError):
        plot_positions(positions(tmp_path, **content))


def test_an_empty_folder_has_no_plots(tmp_path):
    assert plot_run(tmp_path) == []
