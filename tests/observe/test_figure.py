"""Plots: numbers in few letters, second axes, and a file that is there whole or not at all."""

import math

import pytest

from tttscale.observe.figure import add_bits_axis, add_tokens_axis, binary, decimal, new_axes


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0"), (1000, "1000"), (1024, "1Ki"), (65536, "64Ki"), (1536, "1.5Ki"), (3 << 20, "3Mi")],
)
def test_sizes(value, text):
    assert binary(value) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        *((0, "0"), (0.25, "0.25"), (999, "999"), (41_000, "41k"), (-41_000, "-41k")),
        *((8_388_608, "8.39M"), (2.5e9, "2.5G"), (1e13, "10T")),
    ],
)
def test_numbers(value, text):
    assert decimal(value) == text


def test_second_axes_scale_with_the_first(tmp_path):
    with new_axes(tmp_path / "a.png") as (axes, _):
        axes.plot([0, 10], [0, 2])
        axes.set_xlim(0, 10)
        axes.set_ylim(0, 2)
        add_bits_axis(axes)
        add_tokens_axis(axes, 4096)
        axes.figure.draw_without_rendering()
        right, top = axes.child_axes
        assert right.get_ylim() == pytest.approx((0, 2 / math.log(2)))
        assert top.get_xlim() == pytest.approx((0, 40960))
        assert {"10k", "20k", "40k"} <= {label.get_text() for label in top.get_xticklabels()}
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")


def test_a_plot_that_fails_leaves_no_file(tmp_path):
    with pytest.raises(ZeroDivisionError), new_axes(tmp_path / "a.png"):
        raise ZeroDivisionError
    assert list(tmp_path.iterdir()) == []


def test_the_style_of_others_is_left_alone(tmp_path):
    import matplotlib as mpl

    before = mpl.rc_params()["axes.grid"], mpl.rcParams["axes.grid"]
    with new_axes(tmp_path / "a.png"):
        assert mpl.rcParams["axes.grid"] is True
    assert (mpl.rc_params()["axes.grid"], mpl.rcParams["axes.grid"]) == before
