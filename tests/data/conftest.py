import json
from pathlib import Path
from typing import Any

import pytest

from tttscale.data import BuildOptions, StoreInfo, build_store

# Small enough that a few kilobytes of text fill several shards and chunks.
SMALL: dict[str, Any] = {"chunk_tokens": 64, "shard_tokens": 256}


@pytest.fixture
def texts() -> list[str]:
    return [f"document {i}: " + "größer " * (i % 7 + 1) + "x" * (37 * i % 91) for i in range(40)]


@pytest.fixture
def corpus(tmp_path: Path, texts: list[str]) -> Path:
    path = tmp_path / "corpus.jsonl"
    path.write_text("\n".join(json.dumps({"text": text}) for text in texts) + "\n")
    return path


@pytest.fixture
def store(tmp_path: Path, corpus: Path) -> Path:
    out = tmp_path / "store"
    build(out, corpus)
    return out


def build(out: Path, *sources: Path, **options) -> StoreInfo:
    """Build with the fields of `BuildOptions` and the arguments of `build_store`."""
    own = {name: options.pop(name) for name in ("workers", "ranks", "progress") if name in options}
    return build_store(out, [*map(str, sources)], BuildOptions(**SMALL | options), **own)


@pytest.fixture
def stores(tmp_path, corpus):
    other = tmp_path / "other.jsonl"
    texts = [f"other text {i} " * (i % 5 + 3) for i in range(30)]
    other.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    build(tmp_path / "a", corpus, holdout_fraction=0.3)
    build(tmp_path / "b", other, holdout_fraction=0.3)
    return [str(tmp_path / name) for name in "ab"]
