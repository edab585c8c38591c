"""The benchmark of building a store runs, small."""

import json

from tttscale.bench.build import bench_build
from tttscale.data.builder.train_tokenizer import train_tokenizer


def test_build_report(tmp_path):
    for name in ("a", "b"):
        (tmp_path / f"{name}.py").write_text("print('hello, world')\n" * 200)
    (tmp_path / "c.py").write_bytes(b"\xff")
    train_tokenizer(tmp_path / "t.json", [str(tmp_path)], vocab_size=300, suffixes=[".py"])
    bench_build(
        tmp_path / "build", [str(tmp_path)], str(tmp_path / "t.json"), [".py"], 1, [1, 2], 1
    )
    data = json.loads((tmp_path / "build.json").read_text())["data"]
    assert [row["what"] for row in data][-2:] == ["build, 1 worker(s)", "build, 2 worker(s)"]
    assert all(row["bytes"] == 8800 for row in data)
