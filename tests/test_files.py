"""Files appear whole or not at all, and nothing is written through a link that somebody planted."""

import os
import stat
from pathlib import Path

import pytest
import torch

from tests.hostile import no_files
from tests.scan.helpers import tiny_config, tiny_model
from tttscale import files
from tttscale.files import (
    digest,
    new_folder,
    open_end,
    open_new,
    open_ordinary,
    replaced,
    write_text,
)
from tttscale.observe import MetricsLog
from tttscale.observe.plots import plot_loss
from tttscale.tensors import write_tensors

OURS = f".partial-{os.getpid()}"


def log(path):
    with MetricsLog(path) as metrics:
        metrics.write({"step": 1, "loss": 2.0})


def cut_log(path):
    log(path.with_name("metrics.jsonl"))
    with MetricsLog(path.with_name("metrics.jsonl")) as metrics:
        metrics.cut_after(0)


def draw(path):
    log(path.with_name("metrics.jsonl"))
    plot_loss(path.with_name("metrics.jsonl"), path)


def save_model(path):
    tiny_model(tiny_config(), torch.float32).save_pretrained(path.parent)


WRITERS = {
    "text": (lambda path: write_text(path, "ours"), "config.yaml"),
    "tensors": (
        lambda path: write_tensors(path, {"a": torch.zeros(3)}),
        "optimizer-00000.safetensors",
    ),
    "weights": (save_model, "model.safetensors"),
    "config": (save_model, "config.json"),
    "plot": (draw, "loss_by_step.png"),
}


@pytest.mark.parametrize("suffix", ["", OURS], ids=["itself", "partial"])
@pytest.mark.parametrize("name", WRITERS)
def test_a_planted_link_is_replaced_and_not_written_through(name, suffix, tmp_path):
    write, file = WRITERS[name]
    folder, secret = tmp_path / "run", tmp_path / "secret"
    folder.mkdir()
    secret.write_text("theirs")
    (folder / (file + suffix)).symlink_to(secret)
    write(folder / file)
    assert secret.read_text() == "theirs"
    assert stat.S_ISREG((folder / file).lstat().st_mode)
    assert not [path for path in folder.iterdir() if "partial" in path.name]


@pytest.mark.parametrize("target", ["secret", "nothing yet"])
def test_a_link_that_is_planted_meanwhile_is_not_written_through(target, tmp_path, monkeypatch):
    """By somebody who waits until what stood there is removed."""
    secret, path = tmp_path / "secret", tmp_path / "file"
    secret.write_text("theirs")
    unlink = Path.unlink

    def planting(self, **options):
        unlink(self, **options)
        self.symlink_to(tmp_path / target)

    monkeypatch.setattr(Path, "unlink", planting)
    with pytest.raises(OSError, match="file"):
        open_new(path)
    assert secret.read_text() == "theirs"
    assert not (tmp_path / "nothing yet").exists()


@pytest.mark.parametrize(
    ("write", "file"), [(log, "metrics.jsonl"), (cut_log, "metrics-replaced.jsonl")]
)
@pytest.mark.parametrize("target", ["secret", "nothing yet"])
def test_what_is_appended_to_is_no_link(write, file, target, tmp_path):
    folder, secret = tmp_path / "run", tmp_path / target
    folder.mkdir()
    (tmp_path / "secret").write_text("theirs\nunfinished")
    (folder / file).symlink_to(secret)
    with pytest.raises(OSError, match="a link, which is not written through"):
        write(folder / file)
    assert (tmp_path / "secret").read_text() == "theirs\nunfinished"
    assert not (tmp_path / "nothing yet").exists()


def test_what_is_no_file_is_neither_read_nor_waited_for(tmp_path):
    for path in no_files(tmp_path / "strange").values():
        for use in (open_ordinary, digest, open_end):
            with pytest.raises(OSError, match=str(path.name)):
                use(path)


def test_a_file_left_by_a_process_that_was_killed_is_replaced(tmp_path):
    (tmp_path / f"a{OURS}").write_text("half")
    write_text(tmp_path / "a", "whole")
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"a": "whole"}


def test_a_folder_in_the_way_is_an_error_and_stays(tmp_path):
    (tmp_path / "a").mkdir()
    with pytest.raises(OSError):
        open_new(tmp_path / "a")
    with pytest.raises(OSError):
        write_text(tmp_path / "a", "x")
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_a_write_that_fails_leaves_what_stood_there(tmp_path):
    (tmp_path / "a").write_text("before")
    with pytest.raises(TypeError), replaced(tmp_path / "a") as file:
        file.writelines([b"half", None])
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"a": "before"}


def test_the_mode_is_that_of_the_umask(tmp_path):
    before = os.umask(0o027)
    try:
        write_text(tmp_path / "a", "x")
        open_end(tmp_path / "b").close()
    finally:
        os.umask(before)
    assert {path.stat().st_mode & 0o777 for path in tmp_path.iterdir()} == {0o640}


def test_a_folder_appears_when_it_is_whole(tmp_path):
    out = tmp_path / "a/b"
    with new_folder(out) as partial:
        (partial / "file").write_text("x")
        assert not out.exists()
    assert (out / "file").read_text() == "x"
    assert [path.name for path in out.parent.iterdir()] == ["b"]


def test_a_folder_that_fails_leaves_nothing(tmp_path):
    def fill():
        with new_folder(tmp_path / "out") as partial:
            (partial / "file").write_text("x")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fill()
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_a_killed_process_of_our_number_has_left(tmp_path):
    left = tmp_path / f"out.partial-{os.getpid()}"
    left.mkdir()
    (left / "old").write_text("x")
    with new_folder(tmp_path / "out") as partial:
        (partial / "a").write_text("x")
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["a"]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out", left.name]


def test_a_folder_that_two_write_at_once(tmp_path, monkeypatch):
    """The later one finds the earlier one's, also if it comes after the last look."""
    monkeypatch.setattr(files, "_check_free", lambda path: None)

    def write_both():
        with new_folder(tmp_path / "out") as partial:
            (partial / "a").write_text("late")
            (tmp_path / "out").mkdir()
            (tmp_path / "out/a").write_text("early")

    with pytest.raises(FileExistsError) as caught:
        write_both()
    assert caught.value.filename == str(tmp_path / "out")
    assert (tmp_path / "out/a").read_text() == "early"
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


def test_a_folder_takes_no_place(tmp_path):
    """Not that of a folder, even an empty one, nor that of a link to nowhere, whenever it came."""
    (tmp_path / "out").mkdir()
    (tmp_path / "link").symlink_to("nowhere")
    for name in ("out", "link"):
        with pytest.raises(FileExistsError) as caught, new_folder(tmp_path / name):
            pass
        assert caught.value.filename == str(tmp_path / name)
    with pytest.raises(FileExistsError), new_folder(tmp_path / "late"):
        (tmp_path / "late").mkdir()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["late", "link", "out"]
