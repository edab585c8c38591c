"""Reports of benchmarks, with their circumstances."""

import json

from tttscale.bench import report


def test_a_dot_in_a_reports_name_is_no_suffix(tmp_path):
    for name in ("ttt-1.3b", "ttt-1.5b"):
        report.write(tmp_path / name, name, [], data=name)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        f"ttt-1.{size}b.{suffix}" for size in (3, 5) for suffix in ("json", "md")
    ]
    assert json.loads((tmp_path / "ttt-1.3b.json").read_text())["data"] == "ttt-1.3b"
