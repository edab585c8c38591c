"""Writing that may take for ever, in a process of its own."""

import os
import signal
import time

from tttscale.supervise.aside import written_in_time


def test_what_went_wrong_is_said(tmp_path):
    assert written_in_time((tmp_path / "a").touch, 60) == ""
    assert (tmp_path / "a").exists()
    found = written_in_time((tmp_path / "no/such/folder").touch, 60)
    assert found.startswith("FileNotFoundError: ")


def test_a_disk_that_does_not_answer_holds_nothing_up(tmp_path):
    pipe = tmp_path / "pipe"  # opening it waits for a reader
    os.mkfifo(pipe)
    began = time.monotonic()
    found = written_in_time(lambda: pipe.write_text("x"), 0.3)
    assert found.startswith("the disk does not answer")
    assert time.monotonic() - began < 60


def test_a_writer_that_is_killed():
    found = written_in_time(lambda: os.kill(os.getpid(), signal.SIGKILL), 60)
    assert found == "its writer was killed"
