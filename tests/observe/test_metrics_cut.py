"""A run that resumes from an earlier step keeps the records of later ones, in another file."""

import math

import pytest

from tests.hostile import BAD_JSON, no_files
from tttscale.errors import DataError
from tttscale.observe import MetricsLog, read_metrics


def log_of(path, steps):
    with MetricsLog(path) as log:
        for step in steps:
            log.write({"step": step, "loss": math.nan if step == 3 else 1.0 / step})


@pytest.mark.parametrize(("after", "kept"), [(0, 0), (1, 1), (3, 3), (5, 5), (9, 5)])
def test_later_records_move(tmp_path, after, kept):
    path, replaced = tmp_path / "metrics.jsonl", tmp_path / "metrics-replaced.jsonl"
    log_of(path, range(1, 6))
    whole = path.read_bytes()
    with MetricsLog(path) as log:
        log.cut_after(after)
        log.sync()
        log.write({"step": kept + 1, "loss": 7.0})
    assert [r["step"] for r in read_metrics(path)] == list(range(1, kept + 2))
    assert read_metrics(path)[-1]["loss"] == 7.0
    cut = path.read_bytes().splitlines(keepends=True)[:kept]
    assert b"".join(cut) + (replaced.read_bytes() if kept < 5 else b"") == whole
    assert replaced.exists() == (kept < 5)


def test_twice_and_with_a_torn_last_line(tmp_path):
    path, replaced = tmp_path / "metrics.jsonl", tmp_path / "metrics-replaced.jsonl"
    log_of(path, range(1, 5))
    path.write_bytes(path.read_bytes() + b'{"step": 5, "lo')
    for _ in range(2):
        with MetricsLog(path) as log:
            log.cut_after(2)
            log.write({"step": 3, "loss": 0.5})
    assert [r["step"] for r in read_metrics(path)] == [1, 2, 3]
    assert [r["step"] for r in read_metrics(replaced)] == [3, 4, 3]


@pytest.mark.parametrize("line", BAD_JSON.values(), ids=BAD_JSON)
def test_a_line_that_is_no_record_is_named_and_kept_aside(tmp_path, line):
    path, aside = tmp_path / "metrics.jsonl", tmp_path / "metrics-replaced.jsonl"
    first = line.split(b"\n")[0] + b"\n"
    path.write_bytes(b'{"step": 1}\n' + first)
    if first.strip() and first not in (b'{"a": NaN}\n', b'{"a": 1e400}\n'):
        with pytest.raises(
            DataError, match=rf"^{path}:2: expected a JSON object, found ('|a line of more than )"
        ):
            read_metrics(path)
    with MetricsLog(path) as log:
        log.cut_after(1)
    kept = path.read_bytes()
    assert kept.startswith(b'{"step": 1}\n')
    assert kept + (aside.read_bytes() if aside.exists() else b"") == b'{"step": 1}\n' + first


@pytest.mark.parametrize("step", [b'"abc"', b"[1]", b"null", b"{}", b"NaN"])
def test_a_step_that_is_no_number_is_not_later(tmp_path, step):
    path = tmp_path / "metrics.jsonl"
    content = b'{"step": 1}\n{"step": ' + step + b"}\n"
    path.write_bytes(content + b'{"step": 2}\n')
    with MetricsLog(path) as log:
        log.cut_after(1)
    assert path.read_bytes() == content


def test_what_is_no_file_is_not_waited_for(tmp_path):
    for path in no_files(tmp_path / "strange").values():
        with pytest.raises(DataError, match=f"cannot read the metrics {path}: "):
            read_metrics(path)
