"""Packages that cannot be loaded: one line, wherever they are needed."""

import sys

import pytest
import torch

from tttscale.data.store.storage import Remote
from tttscale.errors import CheckpointError, DataError, LaunchError, TTTScaleError
from tttscale.location import Location
from tttscale.observe.figure import new_axes
from tttscale.tensors import open_tensors, write_tensors
from tttscale.train.deepspeed_import import import_deepspeed


class Broken:
    """Finds a package, and fails as a missing native library does."""

    def __init__(self, package):
        self.package = package

    def find_spec(self, name, *_):
        if name == self.package:
            raise OSError("libfoo.so.1: cannot open")


def draw(path):
    with new_axes(path):
        pass


def read_weights(path):
    write_tensors(path / "a.safetensors", {"a": torch.zeros(2)})
    with open_tensors(path / "a.safetensors"):
        pass


@pytest.mark.parametrize(
    ("package", "use", "kind"),
    [
        ("matplotlib", lambda path: draw(path / "a.png"), TTTScaleError),
        ("obstore", lambda _: Remote(Location.parse("https://host/store")), DataError),
        ("safetensors", read_weights, CheckpointError),
        ("deepspeed", lambda _: import_deepspeed(), LaunchError),
    ],
)
def test_a_package_without_its_library_is_one_line(package, use, kind, tmp_path, monkeypatch):
    for name in [n for n in sys.modules if f"{n}.".startswith(f"{package}.")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(sys, "meta_path", [Broken(package), *sys.meta_path])
    with pytest.raises(kind, match=rf"{package}, which is here but cannot be loaded \(libfoo"):
        use(tmp_path)
