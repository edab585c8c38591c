import json
import math

import numpy as np
import pytest

from tttscale.errors import DataError
from tttscale.observe import MetricsLog, read_metrics
from tttscale.observe.metrics import Tail, last_records, read_tail


def test_floats_keep_full_precision(tmp_path):
    path = tmp_path / "run" / "metrics.jsonl"
    records = [{"step": 1, "loss": 0.1 + 0.2, "lr": 1e-300}, {"step": 2, "loss": math.pi}]
    with MetricsLog(path) as log:
        for record in records:
            log.write(record)
            assert read_metrics(path)[-1] == record  # every line is there at once
    assert read_metrics(path) == records


def test_non_finite_floats_leave_the_file_valid_json(tmp_path):
    path = tmp_path / "metrics.jsonl"
    values = {"a": math.nan, "b": math.inf, "c": -math.inf, "d": None, "e": np.float32("nan")}
    with MetricsLog(path) as log:
        log.write(values)

    def refuse(name):
        raise AssertionError(name)

    raw = json.loads(path.read_text(), parse_constant=refuse)
    assert raw == {"a": "nan", "b": "inf", "c": "-inf", "d": None, "e": "nan"}
    back = read_metrics(path)[0]
    assert math.isnan(back["a"])
    assert (back["b"], back["c"], back["d"]) == (math.inf, -math.inf, None)


def test_numpy_scalars(tmp_path):
    with MetricsLog(tmp_path / "m") as log:
        log.write({"x": np.float64(0.1), "y": np.float32(0.5)})
    assert read_metrics(tmp_path / "m") == [{"x": 0.1, "y": 0.5}]


def test_a_line_cut_short_is_left_out_and_written_over(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1}\n{"step": 2, "lo')
    assert read_metrics(path) == [{"step": 1}]
    with MetricsLog(path) as log:
        log.write({"step": 2})
    assert read_metrics(path) == [{"step": 1}, {"step": 2}]


@pytest.mark.parametrize("line", ["{", "3", "[]", "{'a': 1}"])
def test_damage_names_the_line(tmp_path, line):
    path = tmp_path / "metrics.jsonl"
    path.write_text(f'{{"step": 1}}\n{line}\n{{"step": 3}}\n')
    with pytest.raises(DataError, match=r"metrics.jsonl:2: expected a JSON object"):
        read_metrics(path)


def test_no_file(tmp_path):
    with pytest.raises(DataError, match="cannot read the metrics"):
        read_metrics(tmp_path / "none")


def test_the_newest_records_of_a_large_file(tmp_path):
    path = tmp_path / "metrics.jsonl"
    with path.open("wb") as file:
        file.truncate(5 << 30)  # a hole, which a reader of all of it would notice
        file.seek(0, 2)
        file.write(b'\n{"step": 8}\n{"step": 9, "loss": "nan"}\nnoise\n{"loss": 1}\n{"step": 10')
    eighth, ninth = last_records(path)
    assert (eighth["step"], ninth["step"]) == (8, 9)
    assert math.isnan(ninth["loss"])
    path.write_text('{"step": 1}\n')
    assert last_records(path) == [{"step": 1}]
    path.write_text("")
    assert last_records(path) == []
    with pytest.raises(OSError, match="No such file"):
        last_records(tmp_path / "none")


def test_the_tail_of_a_file_that_grows(tmp_path):
    """Whatever is appended, and however much is read at once: each record once, in order."""
    path, tail, found = tmp_path / "m.jsonl", Tail(), []
    lines = [json.dumps({"step": step, "text": "x" * (step % 60)}) + "\n" for step in range(1, 40)]
    whole = "".join(lines).encode()
    for size in range(0, len(whole) + 1, 37):
        path.write_bytes(whole[: size + 37])
        for _ in range(3):
            records, tail = read_tail(path, tail, 90)
            found += [record["step"] for record in records]
    assert found == list(range(1, 40))
    assert tail.end_bytes == tail.seen_bytes == len(whole)


def test_a_tail_that_is_not_the_file_s_any_more(tmp_path):
    path = tmp_path / "m.jsonl"
    path.write_text('{"step": 1}\n{"step": 2}\n')
    records, tail = read_tail(path, Tail(), 1 << 20)
    assert len(records) == 2
    path.write_text('{"step": 1}\n')
    assert read_tail(path, tail, 1 << 20) == (None, Tail())
    path.write_text('{"step": 1}\n{"step": 2, "more": 0}\n{"step": 3}\n')
    assert read_tail(path, tail, 1 << 20) == (None, Tail())


def test_a_tail_passes_over_what_is_no_record(tmp_path):
    path, tail, found = tmp_path / "m.jsonl", Tail(), []
    path.write_text("x" * 300 + '\n[1]\n{"loss": 1}\n{"step": 0}\n{"step": 5, "loss": "nan"}\n')
    for _ in range(9):
        records, tail = read_tail(path, tail, 100)
        found += records
    assert [record["step"] for record in found] == [5]
    assert math.isnan(found[0]["loss"])
