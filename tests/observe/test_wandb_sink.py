import logging
import os
import subprocess
import sys
import time
from types import ModuleType

import pytest

from tttscale.observe import WandbSink


class FakeWandb(ModuleType):
    """Stands in for wandb; `trouble` maps a call to what it does."""

    def __init__(self, trouble=None):
        super().__init__("wandb")
        self.trouble, self.records, self.finished = trouble or {}, [], False

    def Settings(self, **settings):  # noqa: N802 (the name is wandb's)
        return settings

    def init(self, **settings):
        self.started_with = settings
        self._maybe("init")
        return self

    def define_metric(self, *args, **kwargs):
        pass

    def log(self, record, step):
        self._maybe("log")
        self.records.append((step, record))

    def finish(self):
        self._maybe("finish")
        self.finished = True

    def _maybe(self, call):
        if call in self.trouble:
            self.trouble[call]()


@pytest.fixture
def fake(monkeypatch):
    def install(trouble=None):
        module = FakeWandb(trouble)
        monkeypatch.setitem(sys.modules, "wandb", module)
        return module

    return install


def sink(tmp_path, mode="offline", **more):
    return WandbSink({"a": 1}, mode, "project", tmp_path / "run", "name", **more)


def explode():
    raise SystemExit("boom")


def test_records_arrive_in_order(fake, tmp_path):
    wandb, target = fake(), sink(tmp_path)
    for step in (1, 2, 3):
        target.log({"step": step, "loss": 1.0 / step})
    target.finish()
    assert [step for step, _ in wandb.records] == [1, 2, 3]
    assert wandb.finished
    assert wandb.started_with["mode"] == "offline"
    assert wandb.started_with["dir"] == str(tmp_path / "run")
    assert wandb.started_with["settings"]["console"] == "off"


def test_disabled_does_nothing(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "wandb", None)
    target = sink(tmp_path, "disabled")
    target.log({"step": 1})
    target.finish()
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("call", ["init", "log", "finish"])
def test_failures_are_one_warning(fake, tmp_path, caplog, call):
    fake({call: explode})
    target = sink(tmp_path)
    for step in range(5):
        target.log({"step": step})
    target.finish()
    target.log({"step": 9})
    target.finish()
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    assert "wandb is off for the rest of this run: SystemExit: boom" in caplog.text


def test_failing_import_is_one_warning(monkeypatch, tmp_path, caplog):
    monkeypatch.setitem(sys.modules, "wandb", None)
    target = sink(tmp_path)
    target.log({"step": 1})
    target.finish()
    assert len(caplog.records) == 1


def test_a_stuck_wandb_holds_up_nothing(fake, tmp_path, caplog):
    fake({"init": lambda: time.sleep(3)})
    started = time.monotonic()
    target = sink(tmp_path, finish_seconds=0.1)
    for step in range(3000):  # more than the queue holds
        target.log({"step": step})
    target.finish()
    assert time.monotonic() - started < 1
    assert "did not finish within" in caplog.text


def test_the_real_wandb_writes_its_files_offline(tmp_path, capfd):
    target = sink(tmp_path)
    target.log({"step": 1, "tokens": 10, "loss": 1.5})
    target.finish()
    assert list((tmp_path / "run" / "wandb").glob("offline-run-*/run-*.wandb"))
    assert capfd.readouterr() == ("", "")


def test_a_wandb_that_never_ends_does_not_keep_the_process(tmp_path):
    """Stuck in finish, with a thread and an exit handler that would wait for ever."""
    lines = (
        "import atexit, sys, threading, types\n"
        "wandb = types.ModuleType('wandb')\n"
        "for_ever = threading.Event().wait\n"
        "wandb.Settings = lambda **_: None\n"
        "wandb.init = lambda **_: wandb\n"
        "wandb.define_metric = lambda *_, **__: None\n"
        "wandb.finish = for_ever\n"
        "sys.modules['wandb'] = wandb\n"
        "threading.Thread(target=for_ever).start()\n"
        "atexit.register(for_ever)\n"
        "import tttscale.cli as cli\n"
        "from tttscale.observe import WandbSink\n"
        "def work(arguments):\n"
        "    sink = WandbSink({}, 'offline', 'p', sys.argv[1], 'n', finish_seconds=0.2)\n"
        "    sink.finish()\n"
        "    print('done')\n"
        "    return 0\n"
        "cli._run = work\n"
        "cli.main([])\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", lines, tmp_path], capture_output=True, text=True, timeout=100
    )
    assert (done.returncode, done.stdout) == (0, "done\n"), done.stderr
    assert "wandb did not finish within" in done.stderr


def test_empty_variables_are_as_good_as_none(fake, tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "")
    monkeypatch.setenv("WANDB_ENTITY", "me")
    fake()
    sink(tmp_path).finish()
    assert "WANDB_MODE" not in os.environ
    assert os.environ["WANDB_ENTITY"] == "me"
