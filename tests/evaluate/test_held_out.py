"""The text that a model is measured on, and what is refused."""

import numpy as np
import pytest

from tttscale.config import load_config
from tttscale.data import BuildOptions, ByteTokenizer, build_store
from tttscale.data.windows.mixture import open_mixture
from tttscale.errors import ConfigError, DataError
from tttscale.evaluate.held_out import chosen_count, open_text
from tttscale.location import Location

DIGEST = ByteTokenizer().digest


@pytest.fixture
def stores(tmp_path):
    made = []
    for n in range(2):
        text = tmp_path / f"text{n}"
        text.mkdir()
        for i in range(10):
            (text / f"{i}.txt").write_text(f"{n}{i} " * 100)
        build_store(tmp_path / f"store{n}", [str(text)], BuildOptions(holdout_fraction=0.4))
        made.append(tmp_path / f"store{n}")
    return made


def config(tmp_path, **data):
    (tmp_path / "run.yaml").write_text(
        "run: {name: x}\nmodel: {preset: ttt-linear-125m, vocab_size: 259}\n"
        "train: {steps: 1}\nevaluate: {sequences: 3}\nparallel: {chunk_length: 64}\n"
    )
    words = [f"data.{key}={value}" for key, value in {"sequence_length": 128, **data}.items()]
    return load_config(tmp_path / "run.yaml", words)


def text(config=None, **words):
    given = {"store": None, "split": None, "vocabulary": 259, "tokenizer_digest": DIGEST}
    return open_text(config, alignment=16, **{**given, **words})


@pytest.mark.parametrize("documents", ["ignore", "reset"])
def test_it_is_what_training_evaluates(tmp_path, stores, documents):
    for data in (
        {"store": stores[0]},
        {"blend": f"[{{store: {stores[0]}}}, {{store: {stores[1]}, weight: 3}}]"},
    ):
        run = config(tmp_path, documents=documents, **data)
        theirs, ours = open_mixture(run).heldout, text(run).windows(128)
        assert ours.count == theirs.count
        for i in range(3):
            one, other = (source.window(i).chunk(0, 128) for source in (ours, theirs))
            assert np.array_equal(one.ids, other.ids)
            assert np.array_equal(one.labels, other.labels)
            assert one.starts == other.starts


def test_another_store_and_split(tmp_path, stores):
    run = config(tmp_path, store=stores[0])
    found = text(run, store=Location.parse(str(stores[1])), split="train")
    (described,) = found.describe()
    assert described["store"] == str(stores[1])
    assert described["split"] == "train"
    assert found.tokens_per_byte == pytest.approx(1, abs=0.01)


def test_neither_run_nor_store():
    with pytest.raises(ConfigError, match="--store is missing"):
        text()


def test_too_few_tokens_are_counted(tmp_path, stores):
    found = text(config(tmp_path, store=stores[0]))
    with pytest.raises(
        DataError, match=r"--length 1,000,000: .*heldout has [\d,]+ tokens, too few"
    ):
        found.windows(1_000_000)
    source = found.windows(128)
    assert chosen_count(source, None) == min(16, source.count)
    assert chosen_count(source, 2) == 2
    with pytest.raises(DataError, match=f"there are {source.count} sequences of 128 tokens"):
        chosen_count(source, source.count + 1)


def test_ids_that_the_model_does_not_have(stores):
    with pytest.raises(DataError, match=r"bytes has 259 ids, and the model's vocabulary is 100"):
        text(store=Location.parse(str(stores[0])), vocabulary=100)


def test_ids_that_mean_other_text(stores):
    with pytest.raises(DataError, match="the same ids mean other text"):
        text(store=Location.parse(str(stores[0])), tokenizer_digest="0" * 64)
    assert text(store=Location.parse(str(stores[0])), tokenizer_digest=None)


def test_a_split_that_is_not_there(stores):
    with pytest.raises(DataError, match=r"--store .*nosuch"):
        text(store=Location.parse(str(stores[0])), split="nosuch")
