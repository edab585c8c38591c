"""Columns of integers in files."""

import numpy as np
import pytest

from tttscale.data.ids import columns
from tttscale.data.ids.columns import Column, file_bytes
from tttscale.errors import DataError


@pytest.fixture
def column(tmp_path):
    path = tmp_path / "numbers"
    path.write_bytes(b"head" + np.arange(100, dtype="<u4").tobytes() + b"tail")
    return Column(path, 4, "<u4", 100)


def test_ranges_and_blocks(column, monkeypatch):
    monkeypatch.setattr(columns, "BLOCK", 7)
    assert column.read(3, 6).tolist() == [3, 4, 5]
    assert column.end_bytes == 404
    assert np.concatenate([*column.blocks(5, 41)]).tolist() == list(range(5, 41))
    assert max(len(block) for block in column.blocks()) == 7
    places = np.array([0, 0, 1, 30, 31, 99])
    assert column.values_at(places).tolist() == places.tolist()
    assert column.values_at(np.array([], int)).tolist() == []


def test_a_file_that_became_shorter(column):
    column.path.write_bytes(column.path.read_bytes()[:200])
    with pytest.raises(
        DataError, match=r"numbers: it ends at byte 200, before byte 404.*cut short"
    ):
        column.read(0, 100)


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(DataError, match="No such file"):
        file_bytes(tmp_path / "none")
    with pytest.raises(DataError, match="a folder, not a file"):
        file_bytes(tmp_path)
