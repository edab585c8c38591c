"""A manifest that contradicts itself or its store."""

import pytest

from tests.data.store.test_token_store import edit_manifest
from tttscale.data import open_store
from tttscale.errors import DataError


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format_version": 1}, r"format version 1, but this tttscale reads 2"),
        ({"complete": False}, r"its manifest: damaged: complete: Input should be True"),
        ({"sources": 3}, r"its manifest: damaged: sources"),
        ({"files": {"../../secret": {"bytes": 1, "blake2b": ""}}}, r"its manifest: damaged: files"),
        (
            {
                "tokenizer": {
                    "name": "x",
                    "digest": "",
                    "vocab_size": 5,
                    "bos_id": None,
                    "eos_id": 5,
                }
                | {"pad_id": None}
            },
            r"its manifest: damaged: tokenizer: .*special id 5 is outside \[0, 5\)",
        ),
        (
            {"splits": {"train": {"documents": 1, "tokens": 7, "text_bytes": 5}}},
            r"train/tokens is uint16 \[\d+\], but the manifest says uint16 \[7\]",
        ),
    ],
)
def test_manifests_that_lie(store, changes, message):
    edit_manifest(store, **changes)
    with pytest.raises(DataError, match=message):
        open_store(store).split("train")
