"""The model of transformers computes what ours computes: bit for bit, whole and in pieces, with gradients."""

import copy

import pytest
import torch

pytest.importorskip("transformers")

from tests.hf.helpers import greedy, left_padded, tiny_pair, wrapped
from tests.mixers.gated_delta import GatedDelta
from tests.scan.helpers import tiny_config, tiny_model
from tttscale.errors import ConfigError
from tttscale.hf import TTTCache, TTTConfig, TTTForCausalLM
from tttscale.hf.library import CACHE
from tttscale.model import mixer
from tttscale.model.decoder import Decoder

IDS = torch.randint(0, 23, (3, 21), generator=torch.Generator().manual_seed(6))
CUTS = [[21], [1] * 21, [8, 8, 5], [5, 3, 11, 2], [3, 18]]
SHAPES = [
    {},
    {"kind": "mlp"},
    {"backbone": "transformer"},
    {"kind": "mlp", "backbone": "transformer", "tie_word_embeddings": False},
]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
def test_logits_loss_and_gradients_are_ours_bit_for_bit(shape, dtype):
    core, model = tiny_pair(dtype=dtype, **shape)
    labels = IDS.masked_fill(IDS % 5 == 0, -100)
    ours, theirs = core(IDS, labels), model(IDS, labels=labels)
    assert torch.equal(theirs.logits, ours.logits)
    assert torch.equal(theirs.loss, ours.loss)
    assert CACHE not in theirs
    ours.loss.backward()
    theirs.loss.backward()
    gradients = {name: p.grad for name, p in core.named_parameters()}
    assert gradients.keys() == {name for name, _ in model.named_parameters()}
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter.grad, gradients[name]), name


@pytest.mark.parametrize("cuts", CUTS, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_with_a_cache_any_pieces_are_one_forward(shape, cuts):
    core, model = tiny_pair(**shape)
    decoder, cache, found = Decoder(core, rows=3), None, []
    for piece in IDS.split(cuts, dim=1):
        out = model(piece, cache=cache, use_cache=True)
        cache = out[CACHE]
        found.append(out.logits)
        assert torch.equal(out.logits, decoder.read_all(piece))
    assert (torch.cat(found, 1) - core(IDS).logits).abs().max() < 1e-12
    assert cache.get_seq_length() == 21
    assert cache.state.positions == [21] * 3


@pytest.mark.parametrize("use_cache", [True, False])
def test_left_padding_changes_no_bit(use_cache):
    _, model = tiny_pair("mlp", dtype=torch.float32)
    prompts = [[3, 1, 4, 1, 5], [9, 2, 6], [5, 3, 5, 8, 9, 7, 9, 3, 1]]
    ids, mask = left_padded(prompts)
    logits = model(ids, attention_mask=mask, use_cache=use_cache).logits
    for row, prompt in enumerate(prompts):
        alone = model(torch.tensor([prompt]), use_cache=use_cache).logits[0]
        assert torch.equal(logits[row, -len(prompt) :], alone)


def test_padding_on_the_right_as_in_training():
    _, model = tiny_pair()
    lengths = [20, 13, 4]
    mask = (torch.arange(21) < torch.tensor(lengths)[:, None]).long()
    out = model(IDS, attention_mask=mask, labels=IDS)
    total = 0
    for row, length in enumerate(lengths):
        alone = model(IDS[row : row + 1, :length], labels=IDS[row : row + 1, :length])
        assert (out.logits[row, :length] - alone.logits[0]).abs().max() < 1e-12
        assert (out.logits[row, length:] - alone.logits[0, -1]).abs().max() < 1e-12
        total += alone.loss * (length - 1)
    assert (out.loss - total / (sum(lengths) - 3)).abs() < 1e-12


def test_losses_are_divided_by_what_the_trainer_counts():
    _, model = tiny_pair()
    mean = model(IDS, labels=IDS).loss
    total = model(IDS, labels=IDS, num_items_in_batch=torch.tensor(7)).loss
    assert (total * 7 - mean * 60).abs() < 1e-10


def test_the_last_columns_only():
    _, model = tiny_pair()
    whole = model(IDS).logits
    assert torch.equal(model(IDS, logits_to_keep=4).logits, whole[:, -4:])
    assert torch.equal(model(IDS, logits_to_keep=torch.tensor([2, 5])).logits, whole[:, [2, 5]])
    for keep in (1, 3):
        out = model(IDS, logits_to_keep=keep, use_cache=True).logits
        assert out.shape == (3, keep, 23)
        assert (out - whole[:, -keep:]).abs().max() < 1e-12


def test_labels_after_a_cache():
    _, model = tiny_pair()
    cache = TTTCache()
    model(IDS[:, :10], cache=cache)
    out = model(IDS[:, 10:], cache=cache, labels=IDS[:, 10:])
    wanted = torch.nn.functional.cross_entropy(
        model(IDS).logits[:, 10:-1].flatten(0, 1), IDS[:, 11:].flatten()
    )
    assert (out.loss - wanted).abs() < 1e-12


def test_a_tuple():
    _, model = tiny_pair()
    loss, logits = model(IDS, labels=IDS, return_dict=False)
    assert torch.equal(logits, model(IDS).logits)
    assert loss.dim() == 0


def test_the_configuration_may_ask_for_caches():
    _, model = tiny_pair(use_cache=True)
    assert isinstance(model(IDS)[CACHE], TTTCache)
    assert CACHE not in model(IDS, use_cache=False)
    model(IDS, labels=IDS).loss.backward()  # with labels there is a graph


def test_weights_come_from_the_global_generator():
    config = TTTConfig(**tiny_config().model_dump())
    models = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        models.append(TTTForCausalLM(config))
    weights = [model.model.layers[0].seq_modeling_block.W1 for model in models]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])
    assert not torch.equal(TTTForCausalLM(config).lm_head.weight, models[2].lm_head.weight)


@pytest.mark.parametrize("tied", [True, False])
def test_a_vocabulary_of_another_size(tied):
    core, model = tiny_pair(tie_word_embeddings=tied)
    before = model(IDS).logits
    model.resize_token_embeddings(30)
    assert model.config.vocab_size == 30
    after = model(IDS).logits
    assert after.shape[-1] == 30
    assert (after[..., :23] - before).abs().max() < 1e-12
    assert (model.lm_head.weight is model.model.embed_tokens.weight) is tied
    assert torch.isfinite(model(IDS + 7).logits).all()
    assert model.core.config.vocab_size == 30
    assert core.config.vocab_size == 23


def test_a_copy_is_its_own():
    _, model = tiny_pair()
    before = model(IDS).logits
    other = copy.deepcopy(model)
    with torch.no_grad():
        other.model.layers[0].seq_modeling_block.W1.add_(1)
    assert torch.equal(model(IDS).logits, before)
    assert not torch.equal(other(IDS).logits, before)


def test_the_core_is_the_same_model():
    core, model = tiny_pair()
    assert model.core.config == core.config
    assert model.core.lm_head is model.lm_head
    assert (
        model.core.generate(IDS[:, :5], max_new_tokens=4).ids
        == core.generate(IDS[:, :5], max_new_tokens=4).ids
    )


def test_a_layer_of_ones_own():
    mixer("hf-delta")(GatedDelta)
    core = tiny_model(tiny_config("linear", pattern=["hf-delta", "ttt-linear"]))
    model = wrapped(core)
    assert torch.equal(model(IDS).logits, core(IDS).logits)
    assert greedy(model, IDS, 5) == core.generate(IDS, max_new_tokens=5).ids


def test_a_layer_without_an_import_is_not_imported_for_a_file():
    config = TTTConfig(**tiny_config().model_dump() | {"pattern": ["antigravity:Layer"]})
    with pytest.raises(ConfigError, match="import antigravity first if you trust it"):
        TTTForCausalLM(config)
