"""The stores of a run, opened together."""

import numpy as np
import pytest

from tests.data.conftest import build
from tests.train.small import small_config
from tttscale.config import Config
from tttscale.data import ByteTokenizer
from tttscale.data.windows.mixture import open_mixture
from tttscale.errors import ConfigError, DataError


def config_of(stores, **data):
    tree = small_config().model_dump(mode="json")
    tree["model"] |= {"vocab_size": 300}
    source = {"blend": [{"store": s, "weight": 2 - j} for j, s in enumerate(stores)], "store": None}
    if len(stores) == 1:
        source = {"store": stores[0]}
    tree["data"] |= {**source, **data}
    tree["evaluate"]["sequences"] = 2
    return Config.model_validate(tree)


def test_a_blend_of_stores(stores):
    tokens = open_mixture(config_of(stores, documents="whole"))
    for index in range(20):
        component, local = tokens.locate(index)
        expected = component.train.sequence(local).chunk(0, 44)
        found = tokens.train.sequence(index).chunk(0, 44)
        np.testing.assert_array_equal(found.ids, expected.ids)
    assert [c.weight for c in tokens.components] == [2, 1]
    assert tokens.heldout is not None
    assert tokens.heldout.window(1).windows is tokens.components[1].heldout


def test_a_single_store_is_no_blend(stores):
    tokens = open_mixture(config_of(stores[:1]))
    assert tokens.train is tokens.components[0].train
    assert tokens.locate(7) == (tokens.components[0], 7)


class OtherBytes(ByteTokenizer):
    name = "other bytes"
    digest = "f" * 64


def test_stores_that_do_not_fit(stores, tmp_path, corpus):
    build(tmp_path / "c", corpus, tokenizer=OtherBytes())
    with pytest.raises(
        DataError, match=r"/a and .*/c were built with different tokenizers \(bytes"
    ):
        open_mixture(config_of([stores[0], str(tmp_path / "c")]))
    build(tmp_path / "d", corpus, holdout_fraction=0.0)
    message = (
        r"data\.blend\[1\]\.store = .*/d, data\.heldout_split = heldout: .*evaluate.sequences=0"
    )
    with pytest.raises(DataError, match=message):
        open_mixture(config_of([stores[0], str(tmp_path / "d")]))
    tree = config_of(stores).model_dump(mode="json")
    tree["evaluate"]["sequences"] = 10**4
    with pytest.raises(
        ConfigError, match=r"10000 takes 5000 of data\.blend\[\d\]\.store"
    ) as caught:
        open_mixture(Config.model_validate(tree))
    words = str(caught.value).split("evaluate.sequences=")[1]
    tree["evaluate"]["sequences"] = int(words.split()[0])
    open_mixture(Config.model_validate(tree))
    tree["evaluate"]["sequences"] += 1
    with pytest.raises(ConfigError):
        open_mixture(Config.model_validate(tree))


@pytest.mark.parametrize("documents", ["ignore", "reset"])
def test_without_a_window_to_hold_out_a_run_trains_and_says_so(stores, tmp_path, documents):
    (tmp_path / "book.txt").write_text("the quick brown fox. " * 200)
    build(tmp_path / "empty", tmp_path / "book.txt")
    (tmp_path / "short.jsonl").write_text("\n".join(f'{{"text": "text {i}"}}' for i in range(60)))
    build(tmp_path / "short", tmp_path / "short.jsonl", holdout_fraction=1e-9)
    for name, words in (("empty", "holds 0 tokens"), ("short", "tokens, too few for a window of")):
        config = config_of([str(tmp_path / name)], documents=documents, sequence_length=32)
        tokens = open_mixture(with_sequences(config, 1))
        assert tokens.heldout is None
        assert list(tokens.components[0].splits) == ["train"]
        (notice,) = tokens.notices
        assert words in notice
        if name == "empty":  # two are asked for: there are none, and that is said
            assert open_mixture(config).notices == [notice]
        else:
            with pytest.raises(DataError, match=r"too few for one window.*evaluate.sequences=0"):
                open_mixture(config)
    assert not open_mixture(config_of(stores)).notices


def with_sequences(config, sequences):
    evaluate = config.evaluate.model_copy(update={"sequences": sequences})
    return config.model_copy(update={"evaluate": evaluate})


def test_errors_name_the_key_that_decides(stores):
    nowhere = [stores[0], "nowhere"]
    with pytest.raises(
        DataError, match=r"^data\.blend\[1\]\.store = nowhere: no such folder\. Build"
    ):
        open_mixture(config_of(nowhere))
    with pytest.raises(DataError, match=r"^data\.store = nowhere: no such folder\. Build"):
        open_mixture(config_of(["nowhere"]))
    for key in ("split", "heldout_split"):
        asked = (
            rf"^data\.store = {stores[0]}, data\.{key} = nope: {stores[0]} has no split 'nope', "
        )
        with pytest.raises(DataError, match=asked + r"only train, heldout\. "):
            open_mixture(config_of(stores[:1], **{key: "nope"}))
