"""The error file of torchrun: written whole, without credentials, and never in the way."""

import json
import time

import pytest

from tttscale.cluster.torchelastic import tell_torchrun


@pytest.fixture
def file(tmp_path, monkeypatch):
    path = tmp_path / "error.json"
    monkeypatch.setenv("TORCHELASTIC_ERROR_FILE", str(path))
    return path


def test_torchrun_finds_message_and_time(file):
    before = int(time.time())
    tell_torchrun("rank 1 failed at https://me:hidden1@host/x")
    said = json.loads(file.read_text())["message"]
    assert said["message"] == "rank 1 failed at https://***@host/x"
    assert before <= int(said["extraInfo"]["timestamp"]) <= time.time()


def test_what_an_earlier_start_left_is_replaced_as_a_whole(file):
    tell_torchrun("of the start before, a longer one " * 100)
    tell_torchrun("now")
    assert json.loads(file.read_text())["message"]["message"] == "now"


def test_a_planted_link_is_not_written_through(file, tmp_path):
    victim = tmp_path / "victim"
    victim.write_text("mine")
    file.symlink_to(victim)
    tell_torchrun("x")
    assert victim.read_text() == "mine"


def test_a_folder_that_is_gone_and_no_torchrun_are_silent(file, tmp_path, monkeypatch):
    monkeypatch.setenv("TORCHELASTIC_ERROR_FILE", str(tmp_path / "gone" / "error.json"))
    tell_torchrun("x")
    monkeypatch.delenv("TORCHELASTIC_ERROR_FILE")
    tell_torchrun("x")
    assert list(tmp_path.iterdir()) == []
