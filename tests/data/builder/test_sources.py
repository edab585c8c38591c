import errno
import os
import sys

import pytest

from tttscale.data.builder.parquet_rows import parquet_file
from tttscale.data.builder.sources import list_files
from tttscale.data.store.storage import open_storage
from tttscale.errors import DataError
from tttscale.packages import needed


def names(folder, *sources, **options):
    found = list_files([*map(str, sources)], **options)
    return [path.relative_to(folder).as_posix() for path in found]


@pytest.fixture
def tree(tmp_path):
    for name in ("b/2.py", "b/10.py", "a.py", "c.txt", ".git/x.py", "b/.hidden.py"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(name)
    return tmp_path


def test_folders_are_walked_in_sorted_order_without_hidden_names(tree):
    assert names(tree, tree) == ["a.py", "c.txt", "b/10.py", "b/2.py"]
    assert names(tree, tree, suffixes=[".py"]) == ["a.py", "b/10.py", "b/2.py"]


def test_globs_are_sorted_and_go_down(tree):
    assert names(tree, tree / "*.py", tree / "c.txt") == ["a.py", "c.txt"]
    assert names(tree, tree / "**/*.py") == ["a.py", "b/10.py", "b/2.py"]


def test_missing_empty_and_unsupported_sources(tmp_path):
    with pytest.raises(DataError, match=r"nowhere: no such file or folder"):
        list_files([str(tmp_path / "nowhere")])
    with pytest.raises(DataError, match=r"found no file whose name ends in \.py.*--suffix"):
        list_files([str(tmp_path)], suffixes=[".py"])
    with pytest.raises(DataError, match=r"found no file\. .*folders or globs\."):
        list_files([str(tmp_path / "*.txt")])
    for name, suffix in (("a.zip", ".zip"), ("b.tar.gz", ".tar"), ("C.TAR.GZ", ".tar")):
        (tmp_path / name).write_bytes(b"PK")
        with pytest.raises(DataError, match=rf"{name}: {suffix} files are not supported"):
            list_files([str(tmp_path)])
        (tmp_path / name).unlink()
    (tmp_path / "fn.zip.html").touch()
    assert len(list_files([str(tmp_path)])) == 1


def test_excluded_names_are_left_out(tmp_path):
    for folder in ("keep", "site-packages"):
        (tmp_path / folder / "site-packages").mkdir(parents=True)
        (tmp_path / folder / "a.py").write_text("a")
        (tmp_path / folder / "site-packages" / "b.py").write_text("b")
    assert names(tmp_path, tmp_path, exclude=["site-packages"]) == ["keep/a.py"]


@pytest.fixture
def locked(tree, monkeypatch):
    """The folder b, which may not be read; permissions alone would not stop root."""
    scandir = os.scandir

    def refuse(path="."):
        if os.fspath(path).rstrip("/") == str(tree / "b"):
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr("os.scandir", refuse)
    return tree / "b"


@pytest.mark.parametrize("source", [".", "**/*.py", "*/*.py", "b"])
def test_a_folder_that_may_not_be_read_is_named(tree, locked, source):
    with pytest.raises(DataError, match=rf"source {locked}/?: Permission denied\..*--exclude b"):
        list_files([str(tree / source)])


def test_a_folder_that_may_not_be_read_can_be_left_out(tree, locked):
    assert names(tree, tree, exclude=["b"]) == ["a.py", "c.txt"]
    assert names(tree, tree / "*.py") == ["a.py"]


@pytest.mark.parametrize("source", [".", "*", "b/3.py"])
def test_a_link_to_nothing_is_named(tree, source):
    (tree / "3.py").symlink_to("gone.py")
    (tree / "b/3.py").symlink_to("../a.py")  # one that leads to a file is that file
    if source == "b/3.py":
        assert names(tree, tree / source) == ["b/3.py"]
        return
    with pytest.raises(DataError, match=r"source .*/3\.py: a link, No such file .*--exclude 3\.py"):
        list_files([str(tree / source)])
    assert "c.txt" in names(tree, tree, suffixes=[".txt"])


def test_links_to_folders_are_left_out_but_mentioned(tree, caplog):
    (tree / "again").symlink_to("b")
    assert names(tree, tree, suffixes=[".py"]) == ["a.py", "b/10.py", "b/2.py"]
    assert f"links to folders are not followed: {tree}/again. Name" in caplog.text
    caplog.clear()
    names(tree, tree, exclude=["again"])
    assert names(tree, tree / "again") == ["again/10.py", "again/2.py"]
    assert not caplog.records


def test_packages_that_are_missing_are_named_with_their_extra(monkeypatch):
    for package in ("pyarrow", "obstore"):
        monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(DataError, match=r"install pyarrow`, or in a .*install -e '\.\[parquet\]'`"):
        parquet_file("a.parquet")
    with pytest.raises(DataError, match=r"install obstore`, or in a .*install -e '\.\[remote\]'`"):
        open_storage("s3://bucket/store")


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (
            ModuleNotFoundError("No module named 'pyarrow'", name="pyarrow"),
            r"^a source needs pyarrow\. Do it\.",
        ),
        (
            ImportError("libstdc++.so.6: cannot open"),
            r"loaded \(libstdc\+\+\.so\.6: cannot open\). Do it.",
        ),
        (ModuleNotFoundError("No module named 'numpy'", name="numpy"), r"loaded .*numpy.* Do it\."),
        (OSError("libmpi.so: not found"), r"loaded \(libmpi\.so: not found\). Do it\."),
        (RuntimeError(), r"loaded \(RuntimeError\). Do it\."),
    ],
)
def test_packages_that_cannot_be_loaded_say_why(error, said):
    with pytest.raises(DataError, match=said), needed("pyarrow", "a source", "Do it."):
        raise error


@pytest.mark.parametrize("name", ["zarr.json", ".zarray"])
def test_stores_are_no_sources(tree, caplog, name):
    (tree / "store" / "train").mkdir(parents=True)
    (tree / "store" / name).touch()
    (tree / "store/train/c.py").touch()
    assert names(tree, tree) == ["a.py", "c.txt", "b/10.py", "b/2.py"]
    assert f"Zarr stores are left out: {tree}/store. Name what" in caplog.text
    with pytest.raises(DataError, match=rf"source {tree}/store: a Zarr store, which is not text"):
        list_files([str(tree / "store")])
