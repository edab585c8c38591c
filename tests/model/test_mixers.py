"""Models of several kinds of layers, a user's own among them: split, saved and loaded."""

import json

import pytest
import torch

from tests.mixers.gated_delta import GatedDelta
from tests.scan.helpers import (
    random_tokens,
    relative,
    sweep,
    tiny_config,
    tiny_model,
    whole_pass,
)
from tttscale.errors import CheckpointError
from tttscale.model import (
    TTTConfig,
    TTTForCausalLM,
    mixer,
    recv_state,
    send_state,
)
from tttscale.model.pretrained import load_weights

OWN = "tests.mixers.gated_delta:GatedDelta"
MAMBA = {"share_qk": True, "use_gate": True, "pre_conv": True}
MIXED = {"pattern": (OWN, "ttt-mlp", "ttt-linear"), "options": {"ttt-mlp": {"base_lr": 0.1}}}


@pytest.mark.parametrize("kind", ["striped", "contiguous"])
def test_a_mixed_model_is_split_bitwise_and_equals_its_whole_pass(kind):
    config = tiny_config(layers=4, **MIXED)
    tokens = [random_tokens(45, seed=1)]
    alone, _ = sweep(config, [tokens], kind=kind)
    expected, expected_grads = whole_pass(tiny_model(config), tokens)
    assert relative(alone.sequence_sums[0], torch.tensor(expected, dtype=torch.float64)) < 1e-12
    for ranks, keep in ((2, 0), (3, 2)):
        losses, grads = sweep(config, [tokens], ranks=ranks, kind=kind, keep=keep)
        assert torch.equal(losses.sums, alone.sums)
        for name, grad in grads.items():
            assert relative(grad, expected_grads[name]) < 1e-12, name


def test_a_pattern_of_the_official_layer_is_the_official_model():
    plain = tiny_config("mlp", layers=3)
    named = tiny_config("mlp", layers=3, pattern=("ttt-mlp",))
    for name, value in TTTForCausalLM(plain).state_dict().items():
        assert torch.equal(TTTForCausalLM(named).state_dict()[name], value), name


class Narrow(GatedDelta):
    """Hands its memory on in bf16, as keys and values would be."""

    def carry(self, batch, tokens):
        return {"memory": super().carry(batch, tokens)["memory"]._replace(dtype=torch.bfloat16)}

    def forward(self, h, chunk, ports):
        (h,), past = recv_state(ports["memory"], h)
        mean = h.mean((1, 2), keepdim=True)
        shape = self.carry(len(h), 1)["memory"].shapes[0]
        if past is not None:
            h = h + past[0].to(h.dtype).mean((1, 2, 3))[:, None, None]
        part = (mean.view(-1, 1, 1, 1).expand(shape).to(torch.bfloat16),)
        return self.out(send_state(ports["memory"], h, part)) + 0 * (
            self.qkv.weight.sum() + self.gates.weight.sum()
        )


def test_a_part_of_another_dtype_is_split_bitwise():
    config = tiny_config(backbone="transformer", pattern=("narrow-for-test",))
    mixer("narrow-for-test")(Narrow)
    alone, _ = sweep(config, [[random_tokens(45)]])
    for ranks in (2, 3):
        losses, _ = sweep(config, [[random_tokens(45)]], ranks=ranks)
        assert torch.equal(losses.sums, alone.sums)


# ---- weights in and out ------------------------------------------------------------------------


def test_a_mixed_model_is_saved_and_loaded(tmp_path):
    model = TTTForCausalLM(tiny_config(layers=3, **MIXED))
    model.save_pretrained(tmp_path)
    again = TTTForCausalLM.from_pretrained(tmp_path)
    assert again.config == model.config
    assert all(torch.equal(again.state_dict()[n], w) for n, w in model.state_dict().items())


def test_options_without_a_pattern_are_saved_too(tmp_path):
    model = TTTForCausalLM(tiny_config(options={"ttt-linear": {"base_lr": 0.25}}))
    model.save_pretrained(tmp_path)
    again = TTTForCausalLM.from_pretrained(tmp_path)
    assert again.config == model.config
    assert again.carry_layers[0].seq_modeling_block.base_lr == 0.25
    with pytest.raises(
        CheckpointError, match=r'options = {"ttt-linear": .*set model.options={"ttt-'
    ):
        load_weights(TTTForCausalLM(tiny_config()), tmp_path)


def test_weights_of_unknown_layers_are_compared_and_not_imported(tmp_path):
    """What their config.json says is all that is needed to say what to set."""
    TTTForCausalLM(tiny_config()).save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"pattern": ["this:Foo"]}))
    with pytest.raises(CheckpointError, match=r'set model.pattern=\["this:Foo"\]'):
        load_weights(TTTForCausalLM(tiny_config()), tmp_path)


def test_a_pattern_does_not_hide_that_a_folder_claims_too_many_layers(tmp_path):
    TTTForCausalLM(tiny_config(pattern=("ttt-linear",))).save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"num_hidden_layers": 10**9}))
    with pytest.raises(CheckpointError, match="parameters or more"):
        TTTForCausalLM.from_pretrained(tmp_path)


def test_official_files_do_not_know_of_patterns(tmp_path):
    TTTForCausalLM(tiny_config()).save_pretrained(tmp_path)
    fields = json.loads((tmp_path / "config.json").read_text())
    assert not {"pattern", "options"} & fields.keys()
    assert (
        TTTConfig(**{k: v for k, v in fields.items() if k in TTTConfig.model_fields}).pattern
        is None
    )


def test_a_model_folder_imports_no_code(tmp_path):
    TTTForCausalLM(tiny_config()).save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"pattern": ["this:Foo"]}))
    with pytest.raises(CheckpointError, match="import this first if you trust it"):
        TTTForCausalLM.from_pretrained(tmp_path)
