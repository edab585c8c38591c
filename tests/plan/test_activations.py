"""Bytes of a chunk's graph: the closed forms against what autograd saves in real models."""

import pytest
import torch

from tests.plan.test_flops import CONFIGS, Undecided
from tests.scan.helpers import tiny_config
from tttscale.model import TTTForCausalLM
from tttscale.model.registry import names_of
from tttscale.plan.activations import Shape, block_bytes, head_bytes
from tttscale.scan.keep_policy import SavedBytes


def saved_bytes(config, rows, tokens, autocast):
    model = TTTForCausalLM(config)
    ids = torch.randint(0, config.vocab_size, (rows, tokens))
    with SavedBytes(model.parameters()) as saved, torch.autocast("cpu", torch.bfloat16, autocast):
        x = model.embed(ids)
        for block in model.blocks:
            x = block(x)
        model.head(x, ids)
    return saved.total


@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize(("rows", "tokens"), [(1, 256), (2, 150)])
@pytest.mark.parametrize("name", CONFIGS)
def test_a_model(name, rows, tokens, autocast):
    config, shape = CONFIGS[name], Shape(rows, tokens, 2 if autocast else 4)
    blocks = [block_bytes(config, layer, shape) for layer in names_of(config)]
    assert saved_bytes(config, rows, tokens, autocast) == sum(blocks) + head_bytes(config, shape)
