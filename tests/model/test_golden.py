"""The whole model against the official implementation: logits, loss, every gradient, layer trace."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tttscale.model import TTTConfig, TTTForCausalLM

GOLDEN = Path(__file__).parents[1] / "golden"
MANIFEST = json.loads((GOLDEN / "manifest.json").read_text())
CASES = ["linear_base", "linear_mamba", "mlp_base", "mlp_mamba"]


def build(case):
    fields = MANIFEST["model"][case]["config"]
    model = TTTForCausalLM(TTTConfig(**fields))
    weights = load_file(GOLDEN / "model" / case / "weights.safetensors")
    weights["lm_head.weight"] = weights["model.embed_tokens.weight"]
    model.load_state_dict(weights)
    return model


@pytest.mark.parametrize("length", ["T80", "T75"])
@pytest.mark.parametrize("case", CASES)
def test_logits_loss_and_every_gradient(case, length):
    model, g = build(case), load_file(GOLDEN / "model" / case / f"{length}.safetensors")
    out = model(g["input_ids"], labels=g["labels"])
    assert (out.logits - g["logits"]).abs().max() <= 1e-5
    assert (out.loss - g["loss"]).abs() <= 2e-6
    out.loss.backward()
    parameters = dict(model.named_parameters())
    assert {f"grad.{name}" for name in parameters} == {k for k in g if k.startswith("grad.")}
    for name, parameter in parameters.items():
        assert (parameter.grad - g[f"grad.{name}"]).abs().max() <= 2e-6, name


@pytest.mark.parametrize("case", CASES)
def test_head_by_slices_equals_the_official_loss(case):
    model, g = build(case), load_file(GOLDEN / "model" / case / "T75.safetensors")
    labels = torch.full_like(g["labels"], -100)
    labels[:, :-1] = g["labels"][:, 1:]
    x = model.embed(g["input_ids"])
    for block in model.blocks:
        x = block(x)
    total, losses = model.head(x, labels)
    count = (labels != -100).sum()
    assert (total / count - g["loss"]).abs() <= 2e-6
    assert torch.allclose(losses.sum(), total)
    (total / count).backward()
    for name, parameter in model.named_parameters():
        assert (parameter.grad - g[f"grad.{name}"]).abs().max() <= 2e-6, name


@pytest.mark.parametrize("case", ["linear_base", "mlp_mamba"])
def test_blocks_follow_the_trace(case):
    model = build(case)
    g = load_file(GOLDEN / "model" / case / "trace_T75.safetensors")
    ids = load_file(GOLDEN / "model" / case / "T75.safetensors")["input_ids"]
    with torch.no_grad():
        x = model.embed(ids)
        assert torch.equal(x, g["embed"])
        for i, block in enumerate(model.blocks):
            x = block(x)
            assert (x - g[f"block{i}_out"]).abs().max() <= 1e-5
        assert (model.model.norm(x)[1] - g["final_norm_out"]).abs().max() <= 1e-5


@pytest.mark.parametrize("kind", ["linear", "mlp"])
def test_bf16_autocast_stays_close(kind):
    case = f"{kind}_mamba"
    model, g = build(case), load_file(GOLDEN / "model" / case / "T80.safetensors")
    with torch.autocast("cpu", torch.bfloat16):
        logits = model(g["input_ids"]).logits
    assert logits.dtype == torch.float32
    assert (logits - g["logits"]).abs().max() <= 0.08
    assert (logits - g["logits"]).pow(2).mean().sqrt() <= 0.014
