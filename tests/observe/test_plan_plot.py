"""The plot of a plan: a line for each context, a PNG that is whole."""

from contextlib import contextmanager

from matplotlib.figure import Figure

from tttscale.observe import plan_plot

TIMES = {2**16: [(1, 8.0), (2, 4.1), (4, 2.3)], 2**20: [(1, 130.0), (2, 66.0)], 2**22: []}


def test_lines_and_what_they_are(tmp_path, monkeypatch):
    axes = Figure().add_subplot()

    @contextmanager
    def new_axes(path):
        yield axes, path

    monkeypatch.setattr(plan_plot, "new_axes", new_axes)
    plan_plot.draw_times(tmp_path / "x.png", "a run", TIMES)
    solid = [line for line in axes.lines if line.get_linestyle() == "-"]
    assert [line.get_label() for line in solid] == ["64Ki tokens", "1Mi tokens"]
    assert [tuple(p) for p in solid[0].get_xydata()] == TIMES[2**16]
    even = next(line for line in axes.lines if line.get_linestyle() == ":")
    assert list(even.get_ydata()) == [8.0, 4.0, 2.0]


def test_the_file(tmp_path):
    plan_plot.draw_times(tmp_path / "plan.png", "a run", TIMES)
    assert (tmp_path / "plan.png").read_bytes().startswith(b"\x89PNG")
