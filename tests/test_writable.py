"""Results that cannot be written are refused before the work, and errors after it name the place."""

import os
import re
from pathlib import Path

import pytest
from typer.testing import CliRunner

from tttscale.bench import calibrate
from tttscale.cli import app
from tttscale.errors import ConfigError, DiskError
from tttscale.plan import plan_run, rehearsal_run
from tttscale.writable import check_file, check_folder, writing

CONFIG = str(Path(__file__).parents[1] / "configs/quickstart.yaml")
SMALL = ("data.sequence_length=4Ki", "parallel.chunk_length=1Ki")


def places(folder):
    """Where no file can be, and why."""
    (folder / "file").write_text("mine")
    (folder / "link").symlink_to(folder / "target")
    os.mkfifo(folder / "pipe")
    return {
        folder / "missing/a.json": "there is no folder",
        folder: "is a folder",
        folder / "file/a.json": "is not a folder",
        folder / "link": "is a link",
        folder / "pipe": "is not an ordinary file",
    }


def unwritable(monkeypatch, path):
    """As for a user who has no right to write there; the super-user has."""
    real = os.access
    monkeypatch.setattr(os, "access", lambda p, mode: Path(p) != path and real(p, mode))


def test_files(tmp_path, monkeypatch):
    for path, problem in places(tmp_path).items():
        with pytest.raises(
            ConfigError, match=rf"^--x {re.escape(str(path))}: .*{problem}.*with --x"
        ):
            check_file(path, "--x")
    for path in (tmp_path / "file", tmp_path / "new"):
        check_file(path, "--x")
        with monkeypatch.context() as patch:
            unwritable(patch, tmp_path)
            with pytest.raises(ConfigError, match="cannot be written to"):
                check_file(path, "--x")
    with monkeypatch.context() as patch:
        unwritable(patch, tmp_path / "file")
        with pytest.raises(ConfigError, match="file cannot be written to"):
            check_file(tmp_path / "file", "--x")
    assert (tmp_path / "file").read_text() == "mine"
    assert not (tmp_path / "new").exists()


def test_folders(tmp_path):
    places(tmp_path)
    for path in (tmp_path / "file", tmp_path / "file/a", tmp_path / "pipe"):
        with pytest.raises(ConfigError, match="is not a folder"):
            check_folder(path, "--x")
    with pytest.raises(ConfigError, match=r"link is a link.*with --x"):
        check_folder(tmp_path, "--x", ["new", "file", "link"])
    check_folder(tmp_path / "new/one", "--x", ["a"])
    assert not (tmp_path / "new").exists()


def test_an_error_names_path_and_reason(tmp_path):
    with (
        pytest.raises(DiskError, match=r"^--x /a/b: cannot write: .*No space.*Check space"),
        writing(Path("/a/b"), "--x"),
    ):
        raise OSError(28, "No space left on device")
    with pytest.raises(ConfigError) as refused, writing(Path("/a/b"), "--x"):
        raise PermissionError(13, "Permission denied")
    assert refused.value.exit_code == 64


def none(*_, **__):
    raise AssertionError("worked before it had looked")


@pytest.mark.parametrize(
    ("words", "module", "work"),
    [
        (("rehearse", CONFIG, *SMALL, "--out"), rehearsal_run, "rehearse"),
        (("plan", CONFIG, *SMALL, "--plot"), plan_run, "plan"),
        (("bench", "step", "--calibrate", CONFIG, *SMALL, "--costs"), calibrate, "alone"),
    ],
)
def test_commands_look_before_they_work(tmp_path, monkeypatch, words, module, work):
    monkeypatch.setattr(module, work, none)
    for path, problem in places(tmp_path).items():
        done = CliRunner().invoke(app, [*words, str(path)])
        assert isinstance(done.exception, ConfigError), (path, done.exception)
        assert str(done.exception).startswith(f"{words[-1]} {path}: ")
        assert problem in str(done.exception)


@pytest.mark.parametrize(
    ("words", "module", "write"),
    [
        (("rehearse", CONFIG, *SMALL, "--out"), rehearsal_run, "write_perfetto"),
        (("plan", CONFIG, *SMALL, "--gpus-per-node", "2", "--plot"), plan_run, "draw_times"),
    ],
)
def test_a_full_disk_is_an_error_of_ours(tmp_path, monkeypatch, words, module, write):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(module, write, full)
    done = CliRunner().invoke(app, [*words, str(tmp_path / "a")])
    assert isinstance(done.exception, ConfigError), done.exception
    assert "a: cannot write: [Errno 28] No space left" in str(done.exception)
    assert not list(tmp_path.iterdir())


def test_a_report_is_looked_for_before_the_rehearsal(tmp_path, monkeypatch):
    monkeypatch.setattr(rehearsal_run, "rehearse", none)
    (tmp_path / "report.html").mkdir()
    done = CliRunner().invoke(app, ["rehearse", CONFIG, *SMALL, "--report", str(tmp_path)])
    assert isinstance(done.exception, ConfigError), done.exception
    assert "report.html is a folder" in str(done.exception)
