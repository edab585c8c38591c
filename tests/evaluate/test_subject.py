"""What is evaluated: weights, run, tokenizer; and how long its chunks are."""

from pathlib import Path

import pytest
import torch

from tests.trained import byte_model
from tttscale.errors import CheckpointError, ConfigError, DataError
from tttscale.evaluate.subject import Subject

CPU = torch.device("cpu")


@pytest.fixture
def folder(tmp_path):
    byte_model().save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def test_a_run_gives_its_length_and_tokenizer(trained_run):
    saved = next(p for p in sorted((trained_run / "checkpoints").iterdir()) if p.is_dir())
    for path in (trained_run, trained_run / "final", saved):
        subject = Subject.load(path, CPU)
        assert subject.trained_tokens == 256
        assert subject.tokenizer().name == "bytes"
        assert subject.tokenizer_digest() == subject.tokenizer().digest
    assert Subject.load(trained_run, CPU).describe()["weights"] == str(trained_run / "final")


def test_a_run_is_found_from_inside_it(trained_run, monkeypatch):
    for inside in (trained_run / "final", trained_run / "checkpoints/step-12", trained_run):
        monkeypatch.chdir(inside)
        subject = Subject.load(Path(), CPU)
        assert subject.trained_tokens == 256
        assert subject.tokenizer().name == "bytes"


def test_a_folder_knows_neither(folder):
    subject = Subject.load(folder, CPU)
    assert subject.trained_tokens is None
    assert subject.tokenizer_digest() is None
    with pytest.raises(DataError, match="--tokenizer"):
        subject.tokenizer()
    assert Subject.load(folder, CPU, "bytes").tokenizer().vocab_size == 259


def test_a_tokenizer_with_more_ids_than_the_model_is_refused(tmp_path):
    byte_model(vocab_size=100).save_pretrained(tmp_path)
    with pytest.raises(DataError, match=r"bytes has 259 ids.*is 100"):
        Subject.load(tmp_path, CPU, "bytes").tokenizer()


def test_no_weights(tmp_path):
    with pytest.raises(CheckpointError, match="holds no"):
        Subject.load(tmp_path, CPU)


def test_fingerprints_are_of_weights(folder, tmp_path):
    other = byte_model()
    with torch.no_grad():
        next(other.parameters()).view(-1)[3] += 1e-6
    other.save_pretrained(tmp_path / "other")
    one, same, another = (
        Subject.load(p, CPU).fingerprint for p in (folder, folder, tmp_path / "other")
    )
    assert one == same != another


@pytest.mark.parametrize(
    ("length", "ranks", "asked", "expected"),
    [
        (4096, 1, None, 2048),
        (4096, 4, None, 1024),
        (100, 3, None, 36),
        (64, 1, 16, 16),
        (9, 3, None, 4),
    ],
)
def test_chunks_are_as_long_as_can_be(folder, length, ranks, asked, expected):
    subject = Subject.load(folder, CPU)
    assert subject.alignment == 4
    assert subject.chunk_tokens(length, ranks, asked) == expected


def test_chunks_of_a_run_are_its_own(trained_run):
    assert Subject.load(trained_run, CPU).chunk_tokens(4096, 2, None) == 64


def test_chunks_that_cannot_be_are_refused(folder):
    subject = Subject.load(folder, CPU)
    with pytest.raises(ConfigError, match=r"--chunk 30 is not a multiple of 4.*--chunk 32"):
        subject.chunk_tokens(300, 1, 30)
    with pytest.raises(ConfigError, match="2 chunks, fewer than the 3 ranks"):
        subject.chunk_tokens(32, 3, 16)
    with pytest.raises(ConfigError, match="2 chunks, fewer than the 3 ranks"):
        subject.chunk_tokens(8, 3, None)
