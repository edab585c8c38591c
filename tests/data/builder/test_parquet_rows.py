"""Documents out of Parquet."""

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.data.builder.test_read_documents import read
from tttscale.data.builder.source_slices import cut_sources
from tttscale.errors import DataError


def write_table(path, column, **options):
    pq.write_table(pa.table({"text": column, "id": range(len(column))}), path, **options)
    return path


def test_parquet_by_row_groups(tmp_path):
    texts = [f"text {i}" for i in range(1000)]
    path = write_table(tmp_path / "a.parquet", texts, row_group_size=300)
    assert read(path, begin=0, end=4) == texts
    assert read(path, begin=1, end=3) == texts[300:900]
    slices = cut_sources([path], ())
    assert [(r.begin, r.end) for one in slices for r in one.file_ranges] == [
        (0, 1),
        (1, 2),
        (2, 3),
        (3, 4),
    ]


def test_bad_parquet_is_named(tmp_path):
    path = write_table(tmp_path / "a.parquet", ["fine", None])
    with pytest.raises(DataError, match=r"a\.parquet row 1: 'text' is NoneType"):
        read(path, end=1)
    with pytest.raises(DataError, match=r"no column 'body', only text, id.*--text-key"):
        read(path, end=1, text_key="body")
    path.write_bytes(b"PAR1 and nothing else")
    with pytest.raises(DataError, match=r"a\.parquet: not a Parquet file"):
        cut_sources([path], ())
