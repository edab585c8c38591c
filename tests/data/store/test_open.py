"""What is a store, and what is not."""

import json

import pytest
import zarr

from tttscale.data import open_store
from tttscale.errors import DataError


def test_what_is_not_a_store(tmp_path):
    nowhere = tmp_path / "nowhere"
    with pytest.raises(DataError, match=rf"^{nowhere}: no such folder\. Build it with"):
        open_store(nowhere)
    nowhere.touch()
    with pytest.raises(DataError, match=rf"^{nowhere}: a file, not the folder of a store\. Build"):
        open_store(nowhere)
    with pytest.raises(DataError, match=r"not a Zarr v3 group"):
        open_store(tmp_path)
    for text in ("[1]", '{"zarr_format": 3, "node_type": "group", "attributes": [1]}'):
        (tmp_path / "zarr.json").write_text(text)
        with pytest.raises(DataError, match=r"not a Zarr v3 group"):
            open_store(tmp_path)
    (tmp_path / "zarr.json").unlink()
    (tmp_path / "train").mkdir()
    (tmp_path / "train/zarr.json").write_text("[1]")
    with pytest.raises(DataError, match=r"not a Zarr v3 group"):
        open_store(tmp_path)
    zarr.create_group(tmp_path / "foreign", attributes={"format": "other"})
    with pytest.raises(DataError, match=r"not a token store"):
        open_store(tmp_path / "foreign")
    zarr.create_array(tmp_path / "array", shape=(3,), dtype="uint16")
    with pytest.raises(DataError, match=r"not a Zarr v3 group"):
        open_store(tmp_path / "array")


@pytest.mark.parametrize("key", ["something", "storage_transformers"])
def test_a_group_that_zarr_cannot_read(store, key):
    path = store / "zarr.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {key: [{"must_understand": True}]}))
    with pytest.raises(DataError, match=rf"{store}: zarr\.json cannot be read by Zarr \("):
        open_store(store)
