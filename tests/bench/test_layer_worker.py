"""One measurement of a layer: the same layer in every process, and somebody else's from its own file."""

import json

import pytest
import torch

from tttscale.bench import layer_worker
from tttscale.bench.layer_worker import calls, config_of, measure, official_layer, our_layer

OFFICIAL = '''
"""The names that the official file has, around our layer."""
import torch
from tttscale.model import TTTConfig
from tttscale.model.chunk import WHOLE
from tttscale.model.ports import NULL_PORTS
from tttscale.model.sequence_layer import build_mixer

class TTTLinear(torch.nn.Module):
    kind = "linear"
    def __init__(self, config, layer_idx):
        super().__init__()
        inner = build_mixer(f"ttt-{self.kind}", config)
        self._inner = [inner]
        for name, parameter in inner.named_parameters():
            self.register_parameter(name.replace(".", "_"), parameter)
    def load_state_dict(self, state, strict):
        return self._inner[0].load_state_dict(state, strict)
    def forward(self, x, position_ids):
        assert position_ids.tolist() == [list(range(x.shape[1]))]
        return self._inner[0](x, WHOLE, NULL_PORTS)

class TTTMLP(TTTLinear):
    kind = "mlp"
'''


@pytest.mark.parametrize(("kind", "rate"), [("linear", 1.0), ("mlp", 0.1)])
def test_heads_of_64_and_the_papers_rate(kind, rate):
    config = config_of(kind, 3)
    assert (config.head_dim, config.hidden_size, config.num_hidden_layers) == (64, 192, 1)
    assert (config.ttt_layer_type, config.ttt_base_lr) == (kind, rate)


def test_every_process_has_the_same_layer():
    first = our_layer("linear", 1).state_dict()
    torch.manual_seed(7)
    second = our_layer("linear", 1).state_dict()
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize("kind", ["linear", "mlp"])
def test_the_official_layer_has_our_weights(kind, tmp_path):
    path = tmp_path / "ttt.py"
    path.write_text(OFFICIAL)
    x = torch.randn(1, 32, 64, generator=torch.Generator().manual_seed(0))
    (_, ours), (_, theirs) = (calls(who, kind, 1, path) for who in ("ours", "official"))
    with torch.no_grad():
        assert torch.equal(ours(x), theirs(x))


def test_a_layer_of_other_parameters_is_not_measured(tmp_path):
    path = tmp_path / "ttt.py"
    path.write_text(OFFICIAL + "\nTTTLinear.load_state_dict = torch.nn.Module.load_state_dict\n")
    with pytest.raises(AssertionError, match=r"post_norm\.weight"):
        official_layer("linear", 1, path)


def test_the_best_of_several_passes_counts(monkeypatch):
    times = iter([0.0, 5.0, 10.0, 12.0, 20.0, 29.0])
    monkeypatch.setattr(layer_worker.time, "perf_counter", lambda: next(times))
    x = torch.ones(3, requires_grad=True)
    seconds, added = measure(lambda: 2 * x, 3)
    assert seconds == 2.0
    assert added >= 0
    assert x.grad is not None
    assert x.grad.tolist() == [8.0] * 3  # one to warm up, and three that are timed


def test_what_is_printed(monkeypatch, capsys):
    monkeypatch.setattr(layer_worker, "tune_allocator", lambda: None)
    monkeypatch.setattr(torch, "set_num_threads", lambda _: None)
    layer_worker.main("ours", "linear", 1, tokens=32, repeats=1, path=None)
    found = json.loads(capsys.readouterr().out)
    names = {"layer_seconds", "scan_seconds", "scan_peak_bytes", "output_norm"}
    assert found.keys() == names
    assert 0 < found["scan_seconds"] < 60
    assert found["output_norm"] > 0
