import json
from collections import Counter
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.data.conftest import build
from tests.train.small import small_config
from tttscale.config import Config
from tttscale.config.shares import SLOTS, slot_counts
from tttscale.data import ArraySplit, ByteTokenizer, Windows
from tttscale.data.provenance import check_provenance, write_provenance
from tttscale.data.windows.blend import Blend
from tttscale.data.windows.mixture import open_mixture
from tttscale.data.windows.order import sequence_groups
from tttscale.errors import ConfigError, DataError
from tttscale.train.build import check_same_stores

WEIGHTS = st.lists(st.floats(0.2, 100), min_size=1, max_size=6)
SEEDS = st.integers(0, 2**63)


def windows(count, offset=0):
    """`count` windows of two tokens, which are their own offsets."""
    tokens = np.arange(offset, offset + 2 * count + 1)
    return Windows(ArraySplit([tokens]), 2, seed=3, mini_batch_tokens=1)


def blend_of(weights, seed):
    return Blend([windows(5 + j, 1000 * j) for j in range(len(weights))], weights, seed)


@settings(max_examples=100, deadline=None)
@given(weights=st.lists(st.floats(1e-9, 1e9), min_size=1, max_size=20))
def test_slots_are_the_weights_to_less_than_one(weights):
    counts = slot_counts(weights)
    assert sum(counts) == SLOTS
    exact = np.array(weights) / sum(weights) * SLOTS
    assert (abs(counts - exact) < 1 + 1e-6).all()
    assert slot_counts([weight * 2 for weight in weights]) == counts


@settings(max_examples=25, deadline=None)
@given(weights=WEIGHTS, seed=SEEDS, block=st.integers(0, 10**6))
def test_every_block_takes_each_part_exactly_and_every_prefix_nearly(weights, seed, block):
    blend = blend_of(weights, seed)
    places = [blend.locate(block * SLOTS + slot) for slot in range(SLOTS)]
    for part, slots in enumerate(blend.slots):
        own = [local for j, local in places if j == part]
        assert own == [*range(block * slots, (block + 1) * slots)]
        taken = np.cumsum([j == part for j, _ in places])
        numbers = np.arange(1, SLOTS + 1)
        # A prefix is one run of 2**k aligned slots per bit of its length, and each of them has one
        # point in every 2**-k of the range: less than one too many or too few at either end.
        ones = np.array([int(n).bit_count() for n in numbers])
        assert (abs(taken - numbers * slots / SLOTS) < 2 * ones).all()


def test_any_stretch_of_a_run_is_close_to_the_weights():
    blend = blend_of([5, 2, 1], seed=11)
    for begin in range(0, 3 * SLOTS, 777):
        found = Counter(blend.locate(begin + i)[0] for i in range(64))
        assert found == pytest.approx({0: 40, 1: 16, 2: 8}, abs=5)


@settings(max_examples=25, deadline=None)
@given(weights=WEIGHTS, seed=SEEDS, step=st.integers(1, 10**6))
def test_ranks_and_earlier_calls_do_not_matter(weights, seed, step):
    def taken(replicas, batch):
        blend = blend_of(weights, seed)
        split = [sequence_groups(step, 24, replicas, r, batch) for r in range(replicas)]
        sequences = [blend.sequence(i) for share in split for group in share for i in group]
        return [sequence.chunk(0, 2).ids.tolist() for sequence in sequences]

    assert taken(1, 1) == taken(4, 3) == taken(12, 2) == taken(1, 24)


def test_each_part_has_epochs_of_its_own():
    blend = blend_of([3, 1], seed=0)
    seen = {0: [], 1: []}
    for index in range(SLOTS):
        seen[blend.locate(index)[0]].append(blend.sequence(index).chunk(0, 2).ids.tolist())
    for part, count in ((0, 5), (1, 6)):
        times = Counter(map(tuple, seen[part])).values()
        assert len(times) == count
        assert max(times) - min(times) <= 1


@pytest.mark.parametrize("count", [50, 457, 3000])
def test_no_window_comes_again_before_all_of_its_store_came(count):
    blend = Blend([windows(count), windows(7)], [1, 1], seed=0)
    places = [blend.locate(index) for index in range(4 * count + 20)]
    taken = [blend.components[0].sequence(local).number for one, local in places if one == 0]
    for epoch in (taken[:count], taken[count : 2 * count]):
        assert sorted(epoch) == [*range(count)]


def test_order_of_parts_is_frozen():
    """A change here would make resumed runs read other windows than they said they would."""
    blend = blend_of([2, 1, 1], seed=7)
    assert [blend.locate(i) for i in range(8)] == FROZEN


def test_held_out_windows_take_turns():
    blend = Blend([windows(3), windows(2, 1000)], [9, 1], seed=0)
    assert blend.count == 5
    firsts = [int(blend.window(i).chunk(0, 1).ids[0]) for i in range(5)]
    assert firsts == [0, 1000, 2, 1002, 4]
    assert Blend([windows(2), windows(3)], [1, 1], seed=0).count == 4


@pytest.fixture
def stores(tmp_path, corpus):
    other = tmp_path / "other.jsonl"
    texts = [f"other text {i} " * (i % 5 + 3) for i in range(30)]
    other.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    build(tmp_path / "a", corpus, holdout_fraction=0.3)
    build(tmp_path / "b", other, holdout_fraction=0.3)
    return [str(tmp_path / name) for name in "ab"]


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


def test_the_record_of_a_run(stores, tmp_path, corpus):
    config = config_of(stores)
    tokens = open_mixture(config)
    write_provenance(tmp_path, tokens)
    record = json.loads((tmp_path / "data.json").read_text())
    first = record["stores"][0]
    info = tokens.components[0].store.info
    assert (first["store"], first["weight"]) == (stores[0], 2)
    assert first["fingerprint"] == info.fingerprint
    assert first["splits"]["heldout"] == {
        "name": "heldout",
        "tokens": info.splits["heldout"].tokens,
    }
    check_provenance(tmp_path, tokens)
    (tmp_path / "a").rename(tmp_path / "moved")
    moved = [str(tmp_path / "moved"), stores[1]]
    check_provenance(tmp_path, open_mixture(config_of(moved)))
    build(tmp_path / "a", corpus, holdout_fraction=0.2)
    other = open_mixture(config)
    old, new = info.fingerprint, other.components[0].store.fingerprint
    with pytest.raises(DataError, match=rf"trained on .*/a with fingerprint {old}.*/a has .*{new}"):
        check_provenance(tmp_path, other)
    with pytest.raises(
        DataError, match=r"2 store\(s\), .*/a, .*/b, but .* names 1, .*data\.blend=\.\."
    ):
        check_provenance(tmp_path, open_mixture(config_of(stores[1:])))
    with pytest.raises(DataError, match=r"split train with weight 2\.0.* has split heldout"):
        check_provenance(tmp_path, open_mixture(config_of(moved, split="heldout")))


def test_a_record_that_is_no_record(stores, tmp_path):
    tokens = open_mixture(config_of(stores))
    with pytest.raises(DataError, match=r"data\.json: No such file.*config\.yaml to do without"):
        check_provenance(tmp_path, tokens)
    for text in ("", "{", '{"stores": 3}', "\xff"):
        (tmp_path / "data.json").write_text(text)
        with pytest.raises(DataError, match=r"data\.json: damaged: "):
            check_provenance(tmp_path, tokens)


class OneRankDiffers(SimpleNamespace):
    """A mesh of three ranks, the last of which opened another second store."""

    def gather(self, values):
        import torch

        rows = torch.tensor([values] * 3, dtype=torch.float64)
        rows[2, 1] += self.difference
        return rows


def test_a_rank_with_another_store_is_named(stores):
    tokens = open_mixture(config_of(stores))
    check_same_stores(OneRankDiffers(difference=0), tokens)  # type: ignore[arg-type]
    with pytest.raises(DataError) as caught:
        check_same_stores(OneRankDiffers(difference=1), tokens)  # type: ignore[arg-type]
    mine = tokens.components[1].store.fingerprint[:12]
    assert f"data.blend[1].store = {stores[1]}: the store of rank 2 " in str(caught.value)
    assert f"differs from rank 0's ({mine}...)" in str(caught.value)


FROZEN = [(2, 0), (0, 0), (1, 0), (0, 1), (2, 1), (0, 2), (1, 1), (0, 3)]
