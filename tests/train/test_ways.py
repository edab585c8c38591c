"""What a run says of how it computes: no slower way is taken in silence."""

import pytest
import torch

from tests.train.small import small_config
from tttscale.kernels import scan
from tttscale.kernels.torch_scan.linear import LinearScan
from tttscale.scan.keep_policy import ActivationPolicy
from tttscale.train.ways import kept, ways

CPU, GPU = torch.device("cpu"), torch.device("cuda", 0)


def shaped(dim, size, precision="bf16"):
    config = small_config(precision=precision)
    model = config.model.model_copy(
        update={"hidden_size": 2 * dim, "num_attention_heads": 2, "mini_batch_size": size}
    )
    return config.model_copy(update={"model": model})


@pytest.mark.parametrize(
    ("dim", "size", "capability", "said"),
    [
        (64, 16, 9, "Triton's kernels on cuda:0 (linear, head dim 64, mini-batches of 16, bf16)"),
        (
            64,
            8,
            9,
            "which is slower: Triton's kernel takes mini-batches of 16, 32 or 64 tokens, not 8",
        ),
        (160, 16, 9, "which is slower: Triton's kernel takes head dims up to 128, not 160"),
        (
            64,
            16,
            7,
            "which is slower: Triton's kernel needs a GPU of compute capability 8.0 or more",
        ),
    ],
)
def test_the_scan_of_a_gpu_is_said_with_its_reason(monkeypatch, dim, size, capability, said):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (capability, 0))
    line = ways(shaped(dim, size), GPU, True, 1)[0]
    assert line.startswith("scan: ")
    assert said in line
    taken = scan.choose_backend("auto", "linear", GPU, dim, size, torch.bfloat16)
    assert (taken.name == "torch") == ("slower" in line)


def test_every_kind_of_layer_is_said():
    config = shaped(8, 4, "fp32")
    pattern = "ttt-linear", "ttt-mlp", "tests.mixers.gated_delta:GatedDelta"
    update = {"model": config.model.model_copy(update={"pattern": pattern, "num_hidden_layers": 6})}
    lines = ways(config.model_copy(update=update), CPU, False, 1)
    assert [line.split(", head")[0] for line in lines[:2]] == [
        "scan: torch on cpu (linear",
        "scan: torch on cpu (mlp",
    ]
    assert lines[2] == "layers with code of their own: tests.mixers.gated_delta:GatedDelta"


def test_what_is_said_is_what_the_door_takes():
    """On this machine: the door's class for real tensors, and the line."""
    q = torch.zeros(1, 2, 4, 8)
    assert scan._scan_type("linear", "auto", q, 4) is LinearScan
    lines = ways(shaped(8, 4, "fp32"), CPU, False, 2)
    assert lines == [
        "scan: torch on cpu (linear, head dim 8, mini-batches of 4, fp32); Triton's kernels are for GPUs",
        "operators between products: eager (train.compile = auto, on a CPU)",
        "messages: over gloo, as ranks compute on CPUs",
    ]


def test_operators_as_they_stand_on_a_gpu_are_said_to_be_slower(monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    config = shaped(64, 16)
    off = config.train.model_copy(update={"compile": False})
    lines = ways(config.model_copy(update={"train": off}), GPU, False, 8)
    assert lines[1].endswith("slower on a GPU (train.compile = false)")
    assert lines[2] == "messages: over NCCL"
    assert "compiled by torch.compile" in ways(config, GPU, True, 1)[1]


def test_how_many_chunks_are_kept_is_said_where_it_was_found_out():
    config = small_config()
    policy = ActivationPolicy("auto", lambda: 0)
    assert kept(config, policy, 6) is None  # nothing is known before the first step
    policy.measured(range(2), 3 << 20, 2)
    assert "auto: 1 of 6 chunks" in kept(config, policy, 6)
    assert "3.00MiB each" in kept(config, policy, 6)
    assert "5 are computed twice" in kept(config, policy, 6)
    policy = ActivationPolicy("auto", lambda: 1 << 40)
    policy.measured(range(2), 3 << 20, 2)
    assert "auto: 6 of 6 chunks" in kept(config, policy, 6)
    assert kept(config, ActivationPolicy(2), 6) is None
