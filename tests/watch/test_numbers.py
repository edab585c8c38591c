"""What the page shows of a run's folder."""

import json
import os

import pytest

from tests.watch.runs import make_run, record
from tttscale.errors import ConfigError
from tttscale.scrub import remember
from tttscale.watch import numbers
from tttscale.watch.numbers import WatchedRun, without_paths
from tttscale.watch.page import page_html


def read_whole(run):
    for _ in range(1000):
        if run.update():
            return run.snapshot()
    raise AssertionError("never done")


def contents(folder):
    return {p: (p.read_bytes(), p.stat().st_mtime_ns) for p in folder.rglob("*") if p.is_file()}


def test_a_finished_run(tmp_path):
    folder = make_run(tmp_path / "runs" / "one")
    before = contents(folder)
    found = read_whole(WatchedRun(folder))
    assert contents(folder) == before, "it is only read"
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    assert (found["run"], found["reading"]) == ("one", 1.0)
    assert (found["status"]["state"], found["status"]["step"]) == ("done", 20)
    assert len(found["status"]["attempts"]) == 1
    assert found["series"]["step"] == list(range(1, 21))
    assert found["series"]["loss"][:2] == [5.0, 3.5]
    assert found["heldout"]["step"] == [5, 10, 15, 20]
    assert found["recent"]["last_heldout_loss"] == 2.6
    assert found["positions"] == {
        "edges": [0, 16, 32, 64],
        "loss": [4, None, 3],
        "count": [16, 0, 32],
    }
    shares = {key: found["series"][key][0] for key in found["series"] if key.endswith("_share")}
    assert shares == pytest.approx(
        {"data_share": 0.08, "ramp_share": 0.08, "starved_share": 0.12, "idle_share": 0.04,
         "between_share": 0.2, "computing_share": 0.48}
    )  # fmt: skip


def test_without_evaluations_or_records(tmp_path):
    found = read_whole(WatchedRun(make_run(tmp_path / "a", evaluated=False, positions=False)))
    assert found["heldout"]["step"] == []
    assert found["recent"]["last_heldout_loss"] is None
    assert found["positions"] is None
    folder = make_run(tmp_path / "b", positions=False)
    (folder / "metrics.jsonl").unlink()
    found = read_whole(WatchedRun(folder))
    assert found["series"]["step"] == []
    assert found["recent"]["loss"] is None


def test_no_run(tmp_path):
    for folder in (tmp_path, tmp_path / "none"):
        with pytest.raises(ConfigError, match="Give a run's folder"):
            WatchedRun(folder)


def test_a_run_that_goes_on(tmp_path):
    """Half a last line is not shown until it is whole, and nothing is read twice."""
    folder = make_run(tmp_path / "a", steps=3, half_a_line=True)
    run = WatchedRun(folder)
    assert read_whole(run)["series"]["step"] == [1, 2, 3]
    whole = (folder / "metrics.jsonl").read_text().rsplit("\n", 1)[0] + "\n"
    (folder / "metrics.jsonl").write_text(whole + record(4) + record(5)[:40])
    assert read_whole(run)["series"]["step"] == [1, 2, 3, 4]
    with (folder / "metrics.jsonl").open("a") as file:
        file.write(record(5)[40:])
    assert read_whole(run)["series"]["step"] == [1, 2, 3, 4, 5]


@pytest.mark.parametrize("grown", [0, 1, 8])
def test_a_run_that_resumes_earlier(tmp_path, grown):
    """Records are taken out of the file, and fewer or more have come when it is looked at again."""
    folder = make_run(tmp_path / "a", steps=6)
    run = WatchedRun(folder)
    assert read_whole(run)["series"]["loss"][5] == 2.5
    lines = (folder / "metrics.jsonl").read_text().splitlines(keepends=True)[:4]
    lines += [record(step, loss=7.25) for step in range(5, 5 + grown)]
    (folder / "metrics.jsonl").write_text("".join(lines))
    found = read_whole(run)["series"]
    assert found["step"] == list(range(1, 5 + grown))
    assert found["loss"][4:] == [7.25] * grown


def test_long_files_are_read_in_blocks(tmp_path, monkeypatch):
    monkeypatch.setattr(numbers, "_BLOCK_BYTES", 4096)
    run = WatchedRun(make_run(tmp_path / "a", steps=100))
    assert not run.update()
    assert 0 < run.snapshot()["reading"] < 0.5
    assert read_whole(run)["series"]["step"] == list(range(1, 101))


def test_lines_that_are_no_records(tmp_path, monkeypatch):
    monkeypatch.setattr(numbers, "_BLOCK_BYTES", 4096)
    folder = make_run(tmp_path / "a", steps=2)
    with (folder / "metrics.jsonl").open("a") as file:
        file.write(
            "garbage\n" + "x" * 10_000 + "\n" + "[" * 99 + "\n" + '{"step": -1}\n{"step": "3"}\n'
        )
        file.write(record(2, loss=9) + record(3) + json.dumps({"step": 4, "skipped": True}) + "\n")
    found = read_whole(WatchedRun(folder))["series"]
    assert found["step"] == [1, 2, 3, 4]
    assert found["loss"] == [5.0, 3.5, 3.0, None]


@pytest.mark.parametrize("value", [1e308, -1e308, 1e-310, "nan", "inf", 10**19])
def test_means_of_any_numbers_are_json(tmp_path, value):
    folder = make_run(tmp_path / "a", steps=2)
    keys = ("loss", "lr", "grad_norm", "tokens_per_second", "step_seconds", "between_seconds")
    with (folder / "metrics.jsonl").open("a") as file:
        file.write("".join(record(step, **dict.fromkeys(keys, value)) for step in range(3, 60)))
    found = read_whole(WatchedRun(folder))
    assert json.loads(json.dumps(found, allow_nan=False)) == found


def test_a_name_that_is_not_text(tmp_path):
    folder = make_run(tmp_path / os.fsdecode(b"caf\xe9"))
    found = read_whole(WatchedRun(folder))
    assert found["run"] == "caf\ufffd"
    page_html(found).encode()


def test_a_planted_pipe_is_not_waited_for(tmp_path):
    folder = make_run(tmp_path / "a", steps=2)
    for name in ("metrics.jsonl", "positions.json"):
        (folder / name).unlink()
        os.mkfifo(folder / name)
    found = read_whole(WatchedRun(folder))
    assert found["series"]["step"] == []
    assert found["positions"] is None


def test_no_path_and_no_secret(tmp_path):
    folder = make_run(tmp_path / "deep" / "runs" / "one")
    remember("hunter2hunter2")
    cause = f"{folder}/checkpoints/step-5: no space; s3://hunter2hunter2@bucket/x/y"
    lines = (folder / "attempts.jsonl").read_text().splitlines()
    end = json.loads(lines[1]) | {"code": 74, "cause": cause}
    (folder / "attempts.jsonl").write_text(lines[0] + "\n" + json.dumps(end) + "\n")
    text = json.dumps(read_whole(WatchedRun(folder)))
    assert "no space" in text
    assert "step-5" in text
    for hidden in (str(tmp_path), "deep", "runs/one", "hunter2", "bucket"):
        assert hidden not in text, hidden


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("see /home/me/x.log and ~/runs/a/b", "see …/x.log and …/b"),
        ("../up/there, ./here", "…/there, …/here"),
        ("runs/a/metrics.jsonl: cut", "…/metrics.jsonl: cut"),
        ("tokens/s and 3/4 and/or", "tokens/s and 3/4 and/or"),
        ("ended after step 3 with 0 (done)", "ended after step 3 with 0 (done)"),
    ],
)
def test_paths_lose_their_folders(text, shown):
    assert without_paths(text) == shown
