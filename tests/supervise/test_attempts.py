"""Starts of a run and their ends: written, read with suspicion, and when they lead nowhere."""

import json
import os
import subprocess
import sys

import pytest

from tttscale.supervise import attempts
from tttscale.supervise.attempts import (
    Attempt,
    End,
    begin,
    crash_loop,
    is_alive,
    read_attempts,
    restarts,
    this_process,
)


def start(step=0, restart=0):
    return this_process(step, restart, "environment", 4, 2)


def made(number, step, restart, code=None):
    """An attempt, with an end if it has a code."""
    begun = start(step, restart).model_copy(update={"attempt": number})
    ended = None if code is None else End(attempt=number, time=1.0, code=code, step=step, cause="")
    return Attempt(begun, ended)


def write_failure(folder, **changes):
    fields = {"rank": 3, "host": "b", "phase": "step", "step": 8, "cause": "SIGKILL"}
    (folder / "failure.json").write_text(json.dumps({**fields, "exit_code": 71, **changes}))


def test_a_start_and_its_end_are_read_again(tmp_path):
    assert read_attempts(tmp_path) == []
    assert begin(tmp_path, start(0, 0)) == 1
    assert read_attempts(tmp_path)[0].end is None
    attempts.end(tmp_path, 1, 75, 12, "")
    assert begin(tmp_path, start(12, 1)) == 2
    attempts.end(tmp_path, 2, 65, 12, "shard 3\nis   damaged")
    first, second = read_attempts(tmp_path)
    assert (first.start.step, first.end.code, first.end.step, first.failed) == (0, 75, 12, False)
    assert (second.start.restart, second.end.code, second.failed) == (1, 65, True)
    assert second.end.cause == "shard 3 is damaged"
    assert "(restart 1, 4 ranks), from step 12" in second.line()
    assert "after step 12 with 65 (data): shard 3 is damaged" in second.line()


def test_what_supervisors_found_out_comes_before_what_rank_0_said(tmp_path):
    begin(tmp_path, start())
    attempts.end(tmp_path, 1, 71, 7, "lost rank 2")
    write_failure(tmp_path)
    (told,) = read_attempts(tmp_path)
    assert told.end.cause == "rank 3 on b in step 8: SIGKILL"
    assert (told.end.code, told.end.step) == (71, 7)
    begin(tmp_path, start(0, 1))  # it becomes a line, and is not taken for the next one's
    assert not (tmp_path / "failure.json").exists()
    first, second = read_attempts(tmp_path)
    assert first.end == told.end
    assert second.end is None


@pytest.mark.parametrize(
    "text", ["", "{", "[1]", '{"exit_code": "x"}', '{"exit_code": 7000}', '{"step": []}']
)
def test_a_failure_that_cannot_be_read_is_none(tmp_path, text):
    begin(tmp_path, start())
    (tmp_path / "failure.json").write_text(text)
    assert read_attempts(tmp_path)[0].end is None


def test_a_torn_line_costs_that_line_only(tmp_path):
    path = tmp_path / "attempts.jsonl"
    begin(tmp_path, start())
    with path.open("a") as file:
        file.write('{"event": "end", "attempt": 1, "ti')
    assert read_attempts(tmp_path)[0].end is None
    assert begin(tmp_path, start(0, 1)) == 2
    assert [a.start.attempt for a in read_attempts(tmp_path)] == [1, 2]


@pytest.mark.parametrize(
    "line",
    [
        b"\xff\xfe\x00",
        b"[" * 5000,
        b'{"event": "end", "attempt": 1, "time": 1, "code": 700, "step": 1, "cause": ""}',
        b'{"event": "end", "attempt": 9, "time": 1, "code": 0, "step": 1, "cause": ""}',
        b'{"event": "end", "attempt": "1", "time": 1, "code": 0, "step": 1, "cause": ""}',
        b'{"event": "end", "attempt": 1, "time": 1, "code": 0, "step": 1, "cause": "'
        + b"x" * 600
        + b'"}',
        b'{"event": "start", "attempt": 7}',
        b"x" * 2_000_000,
    ],
)
def test_lines_that_are_not_ours_are_left_out(tmp_path, line):
    begin(tmp_path, start())
    ours = (tmp_path / "attempts.jsonl").read_bytes()
    (tmp_path / "attempts.jsonl").write_bytes(line + b"\n" + ours + line + b"\n" + ours)
    assert [(a.start.attempt, a.end) for a in read_attempts(tmp_path)] in ([(1, None)], [])
    begin(tmp_path, start(0, 1))
    assert read_attempts(tmp_path)[-1].start.restart == 1


def test_the_file_is_bounded(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda _: None)  # five hundred of them take a while
    path = tmp_path / "attempts.jsonl"
    for number in range(1, 260):
        assert begin(tmp_path, start(number, 1)) == number
        attempts.end(tmp_path, number, 71, number, "x" * 5000)
    assert path.stat().st_size < 400_000
    found = read_attempts(tmp_path)
    assert 100 <= len(found) <= 201
    assert [a.start.attempt for a in found] == list(range(260 - len(found), 260))


def test_a_link_in_its_place_is_not_written_through(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "mine").write_text("mine")
    (tmp_path / "run/attempts.jsonl").symlink_to("../mine")
    with pytest.raises(OSError, match="a link"):
        begin(tmp_path / "run", start())
    assert (tmp_path / "mine").read_text() == "mine"


def test_a_credential_in_a_cause_is_hidden(tmp_path):
    begin(tmp_path, start())
    attempts.end(tmp_path, 1, 65, 0, "no store at s3://me:hidden1@host/x")
    assert "hidden1" not in (tmp_path / "attempts.jsonl").read_text()


def test_whether_a_start_still_runs():
    own = start()
    assert is_alive(own)
    assert is_alive(own.model_copy(update={"ticks": own.ticks + 1})) is False  # another process
    assert is_alive(own.model_copy(update={"place": "another boot"})) is None
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    running = own.model_copy(update={"pid": child.pid, "ticks": attempts._ticks(child.pid)})
    assert is_alive(running)
    child.kill()
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    assert is_alive(running) is False  # a zombie
    child.communicate()
    assert is_alive(running) is False


@pytest.mark.parametrize(
    ("environ", "found"),
    [
        ({}, ("", 0)),
        ({"SLURM_RESTART_COUNT": "2"}, ("SLURM_RESTART_COUNT", 2)),
        ({"SLURM_RESTART_COUNT": "0", "TORCHELASTIC_RESTART_COUNT": "1"}, None),
        ({"TTTSCALE_RESTART_COUNT": "1", "TORCHELASTIC_RESTART_COUNT": "0"}, None),
        ({"TTTSCALE_RESTART_COUNT": "-1"}, ("", 0)),
        ({"TTTSCALE_RESTART_COUNT": "²"}, ("", 0)),
        ({"TTTSCALE_RESTART_COUNT": "9" * 30}, ("", 0)),
    ],
)
def test_who_starts_a_run_again(environ, found):
    expected = found or next((n, 1) for n, v in environ.items() if v == "1")
    assert restarts(environ) == expected


F, S = 71, 75


@pytest.mark.parametrize(
    ("rows", "step", "most", "numbers"),
    [
        # (step at the start, restart, exit code); None: killed
        ([(0, 0, F), (0, 1, None), (0, 2, 70)], 0, 3, [1, 2, 3]),
        ([(0, 0, F), (0, 1, F)], 0, 3, []),
        ([(0, 0, F), (0, 1, F), (0, 2, F)], 5, 3, []),  # a checkpoint since then
        ([(0, 0, F), (5, 1, F), (5, 2, F), (5, 3, F)], 5, 3, [2, 3, 4]),
        ([(0, 0, F), (5, 1, F), (5, 2, F)], 5, 3, []),  # the first one made a checkpoint
        ([(0, 0, F), (0, 1, S), (0, 2, F), (0, 3, F)], 0, 3, []),  # saved: no failure
        ([(0, 0, F), (0, 1, 143), (0, 2, F), (0, 3, F)], 0, 3, []),  # told to end
        ([(0, 0, F), (0, 1, F), (0, 0, F), (0, 1, F)], 0, 3, []),  # somebody started it by hand
        ([(0, 0, F), (0, 1, F), (0, 0, F), (0, 1, F), (0, 2, F)], 0, 3, [3, 4, 5]),
        ([(9, 1, F), (9, 1, F), (9, 1, F), (9, 1, F)], 5, 3, [1, 2, 3, 4]),  # sent back to step 5
        ([(0, 1, F)] * 9, 0, 0, []),
        ([(0, 0, F)], 0, 1, [1]),
        ([], 0, 3, []),
    ],
)
def test_a_crash_loop(rows, step, most, numbers):
    before = [made(number, *row) for number, row in enumerate(rows, 1)]
    assert [a.start.attempt for a in crash_loop(before, step, most)] == numbers
