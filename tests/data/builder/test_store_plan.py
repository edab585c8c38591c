"""Which document goes where, before the first shard is written."""

import json

from tests.data.builder.test_store_builder import documents_of
from tests.data.conftest import build
from tttscale.data import open_store


def test_equal_documents_never_part(tmp_path):
    texts = [f"text {i % 10}" for i in range(200)]
    corpus = tmp_path / "corpus.jsonl"
    corpus.write_text("\n".join(json.dumps({"text": text}) for text in texts))
    build(tmp_path / "out", corpus, holdout_fraction=0.3)
    store = open_store(tmp_path / "out")
    train, held = (set(documents_of(store, name)) for name in ("train", "heldout"))
    assert train
    assert held
    assert not train & held
