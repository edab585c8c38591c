"""States in files: the same afterwards, only for the model and tokenizer that they are of, small."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tests.mixers.gated_delta import GatedDelta
from tests.trained import byte_model
from tttscale.config.load import load_config
from tttscale.data.tokenizers.tokenizer import ByteTokenizer
from tttscale.errors import CheckpointError, NumericsError
from tttscale.generate import fingerprints, load_state, save_state
from tttscale.model import TTTForCausalLM, mixer
from tttscale.model.sequence_layer import build_mixer
from tttscale.tensors import open_tensors, write_tensors

BYTES = ByteTokenizer()
ROOT = Path(__file__).parents[2]
PROMPTS = [[3, 1, 4, 1, 5, 9], [2, 7, 1, 8]]


@pytest.fixture(params=["linear", "mlp"])
def saved(request, tmp_path):
    model = byte_model(request.param)
    of = fingerprints(model, BYTES)
    state = model.generate(PROMPTS, max_new_tokens=0).state
    save_state(tmp_path / "s", state, of)
    return model, of, state, tmp_path / "s"


def test_a_state_comes_back_bit_for_bit(saved):
    model, of, state, path = saved
    found = load_state(path, model, of)
    assert found.positions == state.positions
    for a, b in zip(found.layers, state.layers, strict=True):
        assert a.keys() == b.keys()
        assert all(torch.equal(x, y) for name in a for x, y in zip(a[name], b[name], strict=True))
    assert torch.equal(found.logits, state.logits)
    greedy = model.generate(PROMPTS, max_new_tokens=9).ids
    assert model.generate(None, max_new_tokens=9, state=found).ids == greedy
    options = {"max_new_tokens": 9, "temperature": 1.0}
    wanted = model.generate([[5], [6]], state=state, **options).ids
    path.unlink()  # what was loaded is not mapped from the file
    assert model.generate([[5], [6]], state=found, **options).ids == wanted


def test_a_layer_of_ones_own(tmp_path):
    class Threes(GatedDelta):
        @classmethod
        def alignment(cls, config, options):
            return 3

    mixer("saved-threes")(Threes)
    model = byte_model(pattern=["saved-threes", "ttt-linear"])
    of = fingerprints(model)
    for length in (1, 3, 4):
        state = model.generate([PROMPTS[0][:length]], max_new_tokens=0).state
        save_state(tmp_path / "s", state, of)
        found = load_state(tmp_path / "s", model, of)
        ids = [PROMPTS[0][length:]]
        wanted = model.generate([PROMPTS[0]], max_new_tokens=5).ids
        assert model.generate(ids, max_new_tokens=5, state=found).ids == wanted


def test_another_model_or_tokenizer_is_refused_with_both_named(saved):
    model, of, _, path = saved
    other = byte_model(model.config.ttt_layer_type)
    with torch.no_grad():
        other.model.norm.weight[0] += 1e-6
    ours, theirs = fingerprints(other, BYTES)["model"], of["model"]
    assert ours != theirs
    with pytest.raises(CheckpointError, match=rf"of another model: .*{theirs}.*{ours}"):
        load_state(path, other, fingerprints(other, BYTES))
    with pytest.raises(CheckpointError, match=rf"of another tokenizer: .*{BYTES.digest}.*none"):
        load_state(path, model, fingerprints(model))


def test_the_fingerprint_sees_configuration_dtype_and_values():
    model, again = byte_model(), byte_model()
    first = fingerprints(model)["model"]
    assert fingerprints(again)["model"] == first
    again.config = again.config.model_copy(update={"ttt_base_lr": 0.5})
    assert fingerprints(again)["model"] != first
    assert fingerprints(byte_model().bfloat16())["model"] != first


def rewritten(path, change):
    with open_tensors(path) as file:
        tensors = {name: file.read(name).clone() for name in file.shapes}
        metadata = {k: v for k, v in file.metadata.items() if k != "format"}
    change(tensors, metadata)
    write_tensors(path, tensors, metadata)


STATE = "layers.0.state.0"
BROKEN = {
    "no state": (lambda t, m: m.clear(), "is no state of a model"),
    "newer": (lambda t, m: m.update(tttscale_state="2"), "format '2', written by tttscale"),
    "no positions": (lambda t, m: t.pop("positions"), "it has no positions"),
    "positions that cannot be": (lambda t, m: t["positions"].zero_(), r"the positions \[0, 0\]"),
    "a layer too many": (lambda t, m: t.update({"layers.2.state.0": t[STATE]}), "layers.2.state.0"),
    "another name": (lambda t, m: t.update({"x": t[STATE].clone()}), "a tensor 'x'"),
    "an unknown part": (lambda t, m: t.update({"layers.0.x.0": t[STATE].clone()}), "layer 0: 'x'"),
    "a tensor is missing": (lambda t, m: t.pop(STATE), "'state' lacks a tensor"),
    "another shape": (lambda t, m: t.update({STATE: t[STATE][:, :1]}), "'state' has the shapes"),
    "other logits": (lambda t, m: t.update(logits=t["logits"][:, :9].clone()), "its logits have"),
    "no numbers": (lambda t, m: t["logits"].fill_(torch.inf), "logits holds .* not finite"),
    "another value": (
        lambda t, m: t[STATE].view(-1)[3:4].add_(1e-3),
        "not those that were written",
    ),
    "other positions": (lambda t, m: t["positions"].sub_(1), "not those that were written"),
    "other likely tokens": (lambda t, m: t["logits"].neg_(), "not those that were written"),
    "without its logits": (lambda t, m: t.pop("logits"), "not those that were written"),
    "no digest": (lambda t, m: m.pop("content"), "not those that were written"),
    "not finite": (lambda t, m: t[STATE].fill_(torch.nan), "layers.0.state.0 holds .* not finite"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_file_that_is_not_what_was_written(saved, name):
    model, of, _, path = saved
    change, words = BROKEN[name]
    rewritten(path, change)
    with pytest.raises(CheckpointError, match=words):
        load_state(path, model, of)


def test_a_state_that_could_not_be_loaded_is_not_saved(saved):
    _, of, state, path = saved
    before, other = path.read_bytes(), state.copy()
    other.layers[1]["state"][0][0, 0, 0, 0] = torch.nan
    with pytest.raises(
        NumericsError, match=r"layers.1.state.0 holds .* not finite.*--dtype float32"
    ):
        save_state(path, other, of)
    assert path.read_bytes() == before


def test_a_file_without_logits(saved):
    model, of, state, path = saved
    save_state(path, replace(state, logits=None), of)
    assert load_state(path, model, of).logits is None


def test_a_part_that_is_missing(saved):
    model, _, _, path = saved
    state = model.generate([list(range(1, 9))], max_new_tokens=0).state
    save_state(path, state, fingerprints(model, BYTES))
    count = len(state.layers[1]["state"])
    rewritten(path, lambda t, m: [t.pop(f"layers.1.state.{i}") for i in range(count)])
    with pytest.raises(CheckpointError, match="layer 1 lacks 'state'"):
        load_state(path, model, fingerprints(model, BYTES))


def test_a_file_that_is_cut(saved):
    model, of, _, path = saved
    path.write_bytes(path.read_bytes()[:-7])
    with pytest.raises(CheckpointError, match="is damaged"):
        load_state(path, model, of)


def test_at_the_end_of_a_mini_batch_no_sums_are_written(saved):
    model, of, _, path = saved
    sizes = {}
    for length in (7, 8):  # K = 4
        state = model.generate([[1] * length], max_new_tokens=0).state
        save_state(path, replace(state, logits=None), of)
        sizes[length] = path.stat().st_size
        with open_tensors(path) as file:
            assert any(".sums." in name for name in file.shapes) == (length == 7)
    assert sizes[8] < 0.75 * sizes[7]


@pytest.mark.parametrize(("learner", "mebibytes"), [("linear", 12.2), ("mlp", 96.9)])
def test_a_million_tokens_of_a_1_3b_model_are_as_small(learner, mebibytes):
    """By its shapes: nothing of this size is made."""
    config = load_config(ROOT / "configs/ttt-linear-1.3b-1Mi.yaml").architecture()
    config = config.model_copy(update={"ttt_layer_type": learner})
    with torch.device("meta"):
        layer = build_mixer(f"ttt-{learner}", config)
        shapes = layer.carry(1, 1 << 20)["state"].shapes
        tensors = [torch.empty(shape) for shape in shapes]
    total = config.num_hidden_layers * sum(t.nbytes for t in tensors)
    assert total / 2**20 == pytest.approx(mebibytes, abs=0.05)


def test_the_header_says_whose_it_is(saved):
    _, of, _, path = saved
    data = path.read_bytes()
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    assert header["__metadata__"] | of == header["__metadata__"]
    assert header["positions"]["dtype"] == "I64"
    assert TTTForCausalLM.__name__ not in str(header)
