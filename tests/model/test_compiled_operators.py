"""`train.compile` changes nothing but rounding, is asked of the device, and says what it lacks."""

import os
import shutil
from types import SimpleNamespace

import pytest
import torch

from tests.pinned import is_pinned
from tests.train.small import small_config, small_windows
from tttscale.config.load import load_config
from tttscale.errors import LaunchError
from tttscale.kernels.ops.pointwise import EAGER
from tttscale.model import TTTConfig, TTTForCausalLM
from tttscale.model.layers import Layer, compile_operators
from tttscale.scan.keep_policy import ActivationPolicy
from tttscale.train import build

SHAPE = {"vocab_size": 50, "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
CONVOLUTIONS = {"share_qk": True, "use_gate": True, "pre_conv": True}
has_compiler = shutil.which(os.environ.get("CXX", "g++")) is not None


@pytest.mark.skipif(not has_compiler, reason="no C++ compiler")
@pytest.mark.parametrize("backbone", [CONVOLUTIONS, {}])
def test_equals_what_is_not_compiled(backbone):
    config = TTTConfig(**SHAPE, **backbone, intermediate_size=48)
    plain, compiled = (TTTForCausalLM(config, seed=0) for _ in range(2))
    compile_operators(compiled)
    layers = [m for m in compiled.modules() if isinstance(m, Layer)]
    assert layers
    assert all(m.operators is not EAGER for m in layers)
    for tokens in (48, 80):
        ids = torch.arange(tokens).unsqueeze(0) % 50
        for model in (plain, compiled):
            model.zero_grad()
            total, _ = model.head(model.blocks[0](model.embed(ids)), ids)
            total.backward()
        pairs = zip(plain.named_parameters(), compiled.named_parameters(), strict=True)
        for (name, a), (_, b) in pairs:
            torch.testing.assert_close(a.grad, b.grad, rtol=1e-4, atol=1e-5, msg=name)


@pytest.mark.skipif(not has_compiler, reason="no C++ compiler")
def test_warm_up_compiles_all_that_a_step_needs_and_leaves_nothing_behind():
    config = small_config(compile=True)
    device = torch.device("cpu")
    model = build.build_model(config, device)
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    alone = SimpleNamespace(transport=None)
    sweeps = build.build_sweeps(config, model, alone, sequences=1, batch=1)
    build.warm_up(sweeps)
    assert all(p.grad is None for p in model.parameters())
    assert all(torch.equal(p, before[n]) for n, p in model.named_parameters())
    compiled = torch._dynamo.utils.counters["stats"]["unique_graphs"]
    layout = sweeps.schedule.layout
    assert layout.length_tokens % layout.chunk_tokens, "the last chunk is to be a short one"
    losses = sweeps.forward([[small_windows(config).sequence(0)]])
    sweeps.backward()
    assert losses.sums.isfinite().all()
    # Chunks that keep their graph and those that do not run the same code.
    others = build.build_sweeps(
        config, model, alone, sequences=1, batch=1, keep=ActivationPolicy(layout.chunks)
    )
    again = others.forward([[small_windows(config).sequence(0)]])
    others.backward()
    assert torch.equal(again.sums, losses.sums)
    if is_pinned("torch"):  # 2.14 compiles two graphs more in its first step
        assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == compiled


def test_without_a_compiler(monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler")
    config = load_config("configs/quickstart.yaml", ["train.compile=true"])
    with pytest.raises(LaunchError, match=r"train\.compile = true.*no-such-compiler"):
        build.build_model(config, torch.device("cpu"))


@pytest.mark.parametrize(
    ("asked", "on_cpu", "on_gpu"),
    [("auto", False, True), ("true", True, True), ("false", False, False)],
)
def test_auto_is_for_gpus(asked, on_cpu, on_gpu):
    config = load_config("configs/quickstart.yaml", [f"train.compile={asked}"])
    assert build.wants_compile(config, torch.device("cpu")) is on_cpu
    assert build.wants_compile(config, torch.device("cuda")) is on_gpu
