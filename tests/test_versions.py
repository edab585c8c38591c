"""Files of every kind that a newer tttscale wrote: one message, whatever else is other in them."""

import json
from dataclasses import dataclass
from typing import Any

import pytest
import torch

from tests.data.conftest import build
from tests.scan.helpers import tiny_config, tiny_model
from tttscale import __version__
from tttscale.config import dump_config, load_config
from tttscale.data import open_store
from tttscale.data.provenance import check_provenance, write_provenance
from tttscale.data.store.manifest import manifest_digest
from tttscale.data.store.quarantine import QUARANTINE_FILE, Quarantine
from tttscale.data.windows.mixture import open_mixture
from tttscale.errors import CheckpointError, TTTScaleError
from tttscale.model import TTTForCausalLM
from tttscale.observe.plots import read_positions
from tttscale.train.checkpoint.manifest import Manifest, read_manifest, versions
from tttscale.versions import KEY, is_newer

NEWER = "7.1.2"


@dataclass
class Kind:
    """A kind of file: where it is, how it is read, and what of it is a version."""

    path: Any
    read: Any
    has_format: bool = True
    """Whether its format has a number."""
    inside: str = ""
    """Where in the JSON its fields are."""
    sealed: bool = False
    """Whether it holds a digest of itself."""
    below: str = ""
    """Where in its fields the version is."""

    def change(self, seal=True, version=None, without=(), **changes):
        whole = json.loads(self.path.read_text())
        fields = whole[self.inside] if self.inside else whole
        for name in without:
            fields.pop(name, None)
        fields.update(changes)
        if version is not None:
            (fields[self.below] if self.below else fields)["tttscale" if self.below else KEY] = (
                version
            )
        self.write(whole, seal)

    def write(self, whole, seal=True):
        fields = whole[self.inside] if self.inside else whole
        if self.sealed and seal:
            fields.pop("digest", None)
            fields["digest"] = manifest_digest(fields)
        self.path.write_text(json.dumps(whole))


def run_config(tmp_path):
    tmp_path.joinpath("run.yaml").write_text(
        "run: {name: a}\nmodel: {preset: ttt-linear-125m, vocab_size: 259}\ntrain: {steps: 2}\n"
        f"data: {{store: {tmp_path}/store, sequence_length: 64}}\n"
    )
    return load_config(tmp_path / "run.yaml")


def checkpoint(tmp_path):
    manifest = Manifest(step=2, tokens=9, updates=2, wandb_id="ab12", versions=versions(), files={})
    (tmp_path / "checkpoint.json").write_text(manifest.render())

    def read():
        try:
            read_manifest(tmp_path)
        except OSError as error:  # as for all ranks at once
            raise CheckpointError(str(error)) from None

    return Kind(tmp_path / "checkpoint.json", read, sealed=True, below="versions")


def data_record(tmp_path):
    tokens = open_mixture(run_config(tmp_path))
    write_provenance(tmp_path, tokens)
    return Kind(tmp_path / "data.json", lambda: check_provenance(tmp_path, tokens))


def token_store(tmp_path):
    store = tmp_path / "store"
    return Kind(store / "zarr.json", lambda: open_store(store), inside="attributes", sealed=True)


def quarantine(tmp_path):
    store = tmp_path / "store"
    Quarantine(fingerprint=open_store(store).fingerprint, found="2026-01-01").write(store)
    return Kind(store / QUARANTINE_FILE, lambda: open_store(store, damaged="pad"))


def model_config(tmp_path):
    folder = tmp_path / "model"
    tiny_model(tiny_config(), torch.float32).save_pretrained(folder)
    return Kind(folder / "config.json", lambda: TTTForCausalLM.from_pretrained(folder), False)


def positions(tmp_path):
    path = tmp_path / "positions.json"
    marks = {"format_version": 1, KEY: __version__}
    path.write_text(json.dumps(marks | {"edges": [0, 1, 2], "loss": [1.0, 2.0], "count": [3, 4]}))
    return Kind(path, lambda: read_positions(path))


KINDS = [checkpoint, data_record, token_store, quarantine, model_config, positions]


@pytest.fixture(params=KINDS, ids=lambda kind: kind.__name__)
def kind(request, tmp_path, corpus):
    build(tmp_path / "store", corpus)
    return request.param(tmp_path)


@pytest.fixture
def corpus(tmp_path):
    path = tmp_path / "corpus.jsonl"
    path.write_text("".join(json.dumps({"text": f"document {i} " * 9}) + "\n" for i in range(9)))
    return path


def refused(kind):
    with pytest.raises(TTTScaleError) as caught:
        kind.read()
    message = str(caught.value)
    assert str(kind.path).removesuffix("/zarr.json") in message
    return message


def test_ours_say_who_wrote_them_and_are_read(kind):
    assert f'"{__version__}"' in kind.path.read_text()
    kind.read()


def test_files_of_before_do_not_say_and_are_read(kind):
    kind.change(without=() if kind.below else (KEY,))
    kind.read()
    if kind.path.name in (QUARANTINE_FILE, "positions.json"):
        kind.change(without=("format_version",))
        kind.read()


@pytest.mark.parametrize("seal", [True, False], ids=["", "another digest"])
@pytest.mark.parametrize("number", [3, 10**6])
def test_a_newer_format(kind, number, seal):
    kind.change(seal, format_version=number)
    if not kind.has_format:  # its format is the official one
        kind.read()
        return
    assert (
        f"was written by a newer tttscale (format version {number}; this is {__version__})"
        in refused(kind)
    )
    kind.change(seal, format_version=number, version=NEWER)
    message = refused(kind)
    assert (
        f"newer tttscale ({NEWER}; this is {__version__}). Read it with tttscale {NEWER} or"
        in message
    )


@pytest.mark.parametrize("seal", [True, False], ids=["", "another digest"])
def test_an_unknown_key_of_a_newer_version(kind, seal):
    if kind.path.name == "positions.json":
        kind.change(without=("loss",), losses=[1.0, 2.0])  # others are passed over
    kind.change(seal, version=NEWER, something={"new": [1, 2]})
    assert f"written by a newer tttscale ({NEWER}; this is {__version__})" in refused(kind)


def test_a_newer_version_that_changed_nothing_is_read(kind):
    kind.change(version=NEWER)
    kind.read()


@pytest.mark.parametrize("version", [__version__, "0.0.9", "next", "", "x" * 999, None, 7, ["9.9"]])
def test_an_unknown_key_of_no_newer_version_is_damage(kind, version):
    kind.change(version=version, something=1)
    if kind.path.name in ("config.json", "positions.json"):
        kind.read()  # others may write into these
    else:
        assert "newer tttscale" not in refused(kind)


def test_a_configuration_of_a_newer_version(tmp_path, corpus):
    build(tmp_path / "store", corpus)
    config = run_config(tmp_path)
    text = dump_config(config)
    assert text.startswith(f"# written by tttscale {__version__}\n")
    path = tmp_path / "config.yaml"
    future = text.replace(__version__, NEWER, 1)
    path.write_text(future)
    assert load_config(path) == config  # nothing in it that is not known here
    path.write_text(future + "turbo: {boost: 3}\n")
    with pytest.raises(TTTScaleError) as caught:
        load_config(path)
    assert str(caught.value).startswith(f"{path} was written by a newer tttscale ({NEWER}; this is")
    assert "turbo is not a known key" in str(caught.value)
    (tmp_path / "mine.yaml").write_text("base: config.yaml\ntrain: {lr: 1e-4}\n")
    with pytest.raises(TTTScaleError, match=rf"^{path} was written by a newer tttscale"):
        load_config(tmp_path / "mine.yaml")
    path.write_text(text + "turbo: {boost: 3}\n")
    with pytest.raises(TTTScaleError, match="turbo is not a known key") as caught:
        load_config(path)
    assert "newer" not in str(caught.value)


@pytest.mark.parametrize(
    ("version", "newer"),
    [
        ("0.1.0", False),
        ("0.1", False),
        ("0.1.1", True),
        ("0.10.0", True),
        ("0.2", True),
        ("1.0.0.dev3+g12", True),
        ("0.0.99", False),
        ("1", False),
        ("9" * 50, False),
        ("1.2.3; rm", False),
        (None, False),
    ],
)
def test_which_version_is_newer(version, newer, monkeypatch):
    monkeypatch.setattr("tttscale.versions.__version__", "0.1.0")
    assert is_newer(version) is newer
