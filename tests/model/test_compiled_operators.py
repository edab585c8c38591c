"""`train.compile` changes nothing but rounding, and says what it lacks."""

import os
import shutil

import pytest
import torch

from tttscale.config.load import load_config
from tttscale.errors import LaunchError
from tttscale.model import TTTConfig, TTTForCausalLM
from tttscale.model.layers import (
    RMSNorm,
    SwiGLU,
    compile_operators,
    gated,
    rms_normalised,
)
from tttscale.train.setup import build_model

SHAPE = {"vocab_size": 50, "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}


@pytest.mark.skipif(shutil.which(os.environ.get("CXX", "g++")) is None, reason="no C++ compiler")
def test_equals_what_is_not_compiled():
    config = TTTConfig(**SHAPE, intermediate_size=48)
    plain, compiled = (TTTForCausalLM(config, seed=0) for _ in range(2))
    compile_operators(compiled)
    changed = [m for m in compiled.modules() if isinstance(m, RMSNorm | SwiGLU)]
    assert len(changed) == 4
    assert not [m for m in changed if m.operator in (rms_normalised, gated)]
    for tokens in (48, 80):
        ids = torch.arange(tokens).unsqueeze(0) % 50
        for model in (plain, compiled):
            model.zero_grad()
            model(ids, ids).loss.backward()
        pairs = zip(plain.named_parameters(), compiled.named_parameters(), strict=True)
        for (name, a), (_, b) in pairs:
            torch.testing.assert_close(a.grad, b.grad, rtol=1e-4, atol=1e-6, msg=name)


def test_without_a_compiler(monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler")
    config = load_config("configs/quickstart.yaml", ["train.compile=true"])
    with pytest.raises(LaunchError, match=r"train\.compile = true.*no-such-compiler"):
        build_model(config, torch.device("cpu"))
