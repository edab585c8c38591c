"""The cache: rows chosen and repeated, copies that stay as they are, and what it refuses."""

import copy

import pytest
import torch

pytest.importorskip("transformers")

from tests.hf.helpers import tiny_pair, wrapped
from tests.trained import byte_model
from tttscale.data.tokenizers.tokenizer import ByteTokenizer
from tttscale.errors import ConfigError
from tttscale.generate import fingerprints, load_state, save_state
from tttscale.hf import TTTCache

IDS = torch.randint(0, 23, (3, 9), generator=torch.Generator().manual_seed(2))


@pytest.fixture(scope="module")
def model():
    return tiny_pair()[1]


@pytest.fixture
def cache(model):
    cache = TTTCache()
    model(IDS, cache=cache)
    return cache


def after(model, cache, tokens):
    return model(torch.tensor(tokens)[:, None], cache=cache).logits[:, 0]


def wanted(model, rows, tokens):
    ids = torch.cat([IDS[rows], torch.tensor(tokens)[:, None]], dim=1)
    return model(ids).logits[:, -1]


@pytest.mark.parametrize(
    ("change", "rows"),
    [
        (lambda cache: cache.reorder_cache(torch.tensor([2, 0, 0])), [2, 0, 0]),
        (lambda cache: cache.batch_select_indices(torch.tensor([1])), [1]),
        (lambda cache: cache.batch_select_indices(torch.tensor([True, False, True])), [0, 2]),
        (lambda cache: cache.batch_repeat_interleave(2), [0, 0, 1, 1, 2, 2]),
    ],
)
def test_rows(model, cache, change, rows):
    change(cache)
    tokens = list(range(len(rows)))
    assert (after(model, cache, tokens) - wanted(model, rows, tokens)).abs().max() < 1e-12


@pytest.mark.parametrize("duplicate", [TTTCache.copy, copy.copy, copy.deepcopy])
def test_copies_are_their_own(model, cache, duplicate):
    other = duplicate(cache)
    first = after(model, cache, [1, 2, 3])
    after(model, cache, [4, 4, 4])
    assert other.get_seq_length() == 9
    assert cache.get_seq_length() == 11
    assert torch.equal(after(model, other, [1, 2, 3]), first)


def test_reset(model, cache):
    cache.reset()
    assert cache.get_seq_length() == 0
    assert torch.equal(model(IDS, cache=cache).logits, model(IDS, use_cache=True).logits)


def test_before_the_first_token():
    cache = TTTCache()
    cache.reorder_cache(torch.tensor([0]))
    cache.batch_select_indices(torch.tensor([0]))
    cache.batch_repeat_interleave(2)
    assert cache
    assert cache.get_seq_length() == 0
    assert cache.get_max_cache_shape() == -1
    assert not cache.is_compileable


def test_tokens_cannot_be_forgotten(cache):
    cache.crop(9)
    cache.crop(20)
    for length in (8, -1):
        with pytest.raises(ConfigError, match=r"cannot forget its last tokens.*Keep a copy\(\)"):
            cache.crop(length)
    with pytest.raises(ConfigError, match="no keys and values"):
        cache.update(None, None, 0)


def test_other_rows_and_other_models(model, cache):
    with pytest.raises(ConfigError, match="the cache has 3 rows, and input_ids 2"):
        model(IDS[:2], cache=cache)
    assert cache.get_seq_length() == 9
    deeper = tiny_pair(layers=3)[1]
    with pytest.raises(ConfigError, match="a model of 2 layers, and this has 3"):
        deeper(IDS, cache=cache)


def test_a_state_from_a_file_is_continued(tmp_path):
    core, tokenizer = byte_model(), ByteTokenizer()
    model = wrapped(core)
    prompt, question = list(b"read once, "), list(b"ask")
    state = core.generate([prompt], max_new_tokens=0).state
    save_state(tmp_path / "s", state, fingerprints(core, tokenizer))
    loaded = load_state(tmp_path / "s", model.core, fingerprints(model.core, tokenizer))
    options = {"max_new_tokens": 6, "do_sample": False, "pad_token_id": 0, "eos_token_id": None}
    for _ in range(2):  # the state stays as it is
        out = model.generate(torch.tensor([question]), cache=TTTCache(loaded), **options)
        assert (
            out[0, len(question) :].tolist()
            == core.generate([prompt + question], max_new_tokens=6).ids[0]
        )
    assert loaded.positions == [len(prompt)]
