"""Shards: each written once, whole, with a receipt."""

import numpy as np
import pytest

from tests.data.conftest import build
from tttscale.data import open_store
from tttscale.data.builder.shards import _receipt


@pytest.mark.parametrize("content", [b"", b"{}", b"[" * 10**5, b'{"bytes": -1}', b"\xff", b"null"])
def test_a_receipt_that_nobody_can_read_is_none(tmp_path, content):
    (tmp_path / "receipt.json").write_bytes(content)
    assert _receipt(tmp_path / "receipt.json") is None


@pytest.mark.parametrize(
    "size", [1, 62, 254, 255, 510, 1000]
)  # around whole shards; 1000 has one of zeros
def test_sizes_around_shard_borders(tmp_path, size):
    text = tmp_path / "a.txt"
    text.write_bytes(bytes(range(size % 256)) + bytes(size - size % 256))
    build(tmp_path / "out", text)
    store = open_store(tmp_path / "out")
    assert store.split("train").read(0, size + 2)[1:-1].tobytes() == (
        np.frombuffer(text.read_bytes(), np.uint8).astype(np.uint16).tobytes()
    )
    assert store.split("heldout").num_tokens == 0
    assert len(store.split("heldout").document_starts) == 0
