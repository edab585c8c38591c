"""What is known of a file of ids."""

import numpy as np

from tttscale.data.ids.columns import Column
from tttscale.data.ids.id_file import IdFile, ListedEnds


def test_what_it_says(tmp_path):
    (tmp_path / "a").write_bytes(np.arange(4, dtype="<u8").tobytes())
    file = IdFile("kind", Column(tmp_path / "a", 0, "<u8", 4))
    assert (file.path, file.dtype_name, file.ends) == (tmp_path / "a", "uint64", None)
    ends = ListedEnds(file.ids)
    assert ends.count == 4
    assert ends.read(1, 3).tolist() == [1, 2]
    assert ends.read(1, 3).dtype == np.int64
