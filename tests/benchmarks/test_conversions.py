"""The report of conversions: its rows say what was compared, and memory does not grow with the file."""

import pytest

from benchmarks import conversions
from tests.convert.streams import GOLDEN


@pytest.fixture(autouse=True)
def _golden(monkeypatch):
    monkeypatch.setattr(conversions, "GOLDEN", GOLDEN)


def test_every_golden_import_is_equal(tmp_path):
    rows = conversions.imports(tmp_path)
    assert len(rows) == 8
    assert {row["weights"] for row in rows} == {"equal"}
    for row in rows:
        assert float(row["logits"]) < (4e-6 if row["written"] == "float32" else 0.1)


def test_a_synthetic_state_is_imported(tmp_path, monkeypatch):
    for name, value in {"_VOCAB": 50, "_WIDTH": 32, "_INNER": 48, "_HEADS": 2}.items():
        monkeypatch.setattr(conversions, name, value)
    size = conversions.train_state(tmp_path / "state", 3)
    assert size == (tmp_path / "state").stat().st_size
    conversions.convert(tmp_path / "state", tmp_path / "out", 1.0)
    found = conversions.load(tmp_path / "out/model.safetensors")
    assert found["model.layers.2.mlp.down_proj.weight"].shape == (32, 48)
    assert size > 2.9 * sum(tensor.nbytes for tensor in found.values())
