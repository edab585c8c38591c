"""What is written about a failure."""

import json
import os
import time

from tttscale.cluster.ranks import Ranks
from tttscale.supervise import failure
from tttscale.supervise.verdict import Verdict

RANKS = Ranks(0, 4, 0, 2, "host", 29500, "environment")
VERDICT = Verdict(3, "node2", "step", 7, "killed by SIGKILL", 71)


def test_all_that_is_known(tmp_path):
    environ = {"TORCHELASTIC_RUN_ID": "job-5", "TORCHELASTIC_RESTART_COUNT": "2"}
    fields = failure.record(VERDICT, RANKS, environ, ["stacks-rank-3.txt"])
    path = failure.write(tmp_path / "runs" / "new", fields)
    found = json.loads(path.read_text())
    assert path.name == "failure.json"
    assert {name: found[name] for name in ("rank", "host", "phase", "step", "cause")} == {
        "rank": 3,
        "host": "node2",
        "phase": "step",
        "step": 7,
        "cause": "killed by SIGKILL",
    }
    assert (found["exit_code"], found["world_size"], found["launcher"]) == (71, 4, "environment")
    assert (found["job"], found["attempt"]) == ("TORCHELASTIC_RUN_ID=job-5", 2)
    assert found["stacks"] == ["stacks-rank-3.txt"]


def test_no_secret_is_written(monkeypatch):
    monkeypatch.setenv("STORE_TOKEN", "hunter2hunter2")
    cause = "cannot read s3://name:password@host/x?X-Amz-Signature=abcdef with hunter2hunter2"
    verdict = Verdict(0, "here", "start-up", 0, cause, 65)
    text = json.dumps(failure.record(verdict, RANKS, {}))
    for secret in ("password", "abcdef", "hunter2"):
        assert secret not in text


def test_strange_environments_do_no_harm():
    fields = failure.record(VERDICT, RANKS, {"SLURM_RESTART_COUNT": "many"})
    assert (fields["attempt"], fields["job"]) == (None, None)


def test_another_rank_was_faster(tmp_path):
    now = time.time()
    assert not failure.is_newer(tmp_path, now - 5)
    failure.write(tmp_path, failure.record(VERDICT, RANKS, {}))
    assert failure.is_newer(tmp_path, now - 5)
    assert not failure.is_newer(tmp_path, now + 60)


def test_a_file_that_the_kernel_stamps_by_its_last_tick_is_newer(tmp_path):
    path = tmp_path / "file"
    path.touch()
    os.utime(path, (100.0, 100.0))
    assert failure.is_newer_file(path, 100.009)
    assert not failure.is_newer_file(path, 101.0)
