"""The folder in which a store grows."""

import errno
import re
from pathlib import Path

import pytest

from tests.data.builder.test_store_builder import tree
from tests.data.conftest import build
from tttscale.data import build_store
from tttscale.data.builder.staging import Staging, disk_errors, locked
from tttscale.errors import DataError, TTTScaleError


def test_an_existing_out_is_refused(store, corpus):
    before = tree(store)
    with pytest.raises(DataError, match=r"already exists"):
        build(store, corpus)
    assert tree(store) == before


@pytest.mark.parametrize("out", [".", "/", "deep/.."])
def test_an_out_without_a_name_is_refused(tmp_path, corpus, monkeypatch, out):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match=rf"OUT {re.escape(out)}: not the name of a new folder"):
        build(Path(out), corpus)
    assert [p.name for p in tmp_path.iterdir()] == ["corpus.jsonl"]


def test_two_builders_do_not_share_a_folder(tmp_path, corpus):
    staging = Staging(tmp_path / "out")
    staging.prepare()
    with locked(staging):
        with pytest.raises(DataError, match=r"another process is building it"):
            build(tmp_path / "out", corpus)
        assert staging.tokenized.is_dir()  # the loser touches nothing of the winner's
    build(tmp_path / "out", corpus)


@pytest.mark.parametrize("name", ["photo.jpg", "runs/notes.txt", "store.txt"])
def test_a_folder_that_is_not_of_a_build_is_left_alone(tmp_path, name):
    (tmp_path / "a.txt").write_text("some text. " * 500)
    mine = tmp_path / "out.building" / name
    mine.parent.mkdir(parents=True)
    mine.write_text("mine")
    with pytest.raises(DataError, match=rf"OUT .*{name} is not of a build.*Move that away"):
        build_store(tmp_path / "out", [str(tmp_path / "a.txt")])
    assert mine.read_text() == "mine"
    assert not (tmp_path / "out").exists()


def test_a_link_under_the_name_of_a_build(tmp_path):
    (tmp_path / "a.txt").write_text("some text. " * 500)
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "out.building").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(DataError, match=r"out\.building is not of a build"):
        build_store(tmp_path / "out", [str(tmp_path / "a.txt")])
    assert not list((tmp_path / "elsewhere").iterdir())


@pytest.mark.parametrize(
    ("number", "code"), [(errno.ENOSPC, 74), (errno.EIO, 74), (errno.EACCES, 65)]
)
def test_a_full_disk_has_its_own_exit_code(tmp_path, number, code):
    with (
        pytest.raises(TTTScaleError, match="rerun the same command") as refused,
        disk_errors(tmp_path),
    ):
        raise OSError(number, "refused")
    assert refused.value.exit_code == code
