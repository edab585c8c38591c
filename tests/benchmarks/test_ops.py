"""The benchmarks of a layer's parts run, small, and their reports have what they promise."""

import json

from benchmarks.ops.documents import bench_documents
from tests import warm
from tttscale.bench import report


def test_documents_report(tmp_path, monkeypatch):
    monkeypatch.setattr(report, "start_worker", warm.start_worker)
    bench_documents(tmp_path / "documents", tokens=256)
    data = json.loads((tmp_path / "documents.json").read_text())["data"]
    assert [(d["inner"], d["heads"]) for d in data[::4]] == [
        (k, h) for k in ("linear", "mlp") for h in (2, 12)
    ]
    assert data[0]["documents"] == 1
    assert data[3]["documents"] > 1
    assert all(d["together_ms"] > 0 for d in data)
