"""One measurement of a TTT layer in a process of its own: seconds and peak memory of forward + backward.

Run as `python -m tttscale.bench.layer_worker WHO KIND HEADS TOKENS REPEATS [OFFICIAL]`; WHO is ours,
official or official-tuned, OFFICIAL the path of the official implementation's ttt.py. Prints one JSON object.
"""

import importlib.util
import json
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tttscale.model import TTTConfig
from tttscale.model.chunk import WHOLE
from tttscale.model.ports import NULL_PORTS
from tttscale.model.sequence_layer import build_mixer, reset
from tttscale.model.ttt_layer import TTTLayer
from tttscale.train.memory import tune_allocator

HEAD_DIM = 64
_KIB = 1024


def config_of(kind: str, heads: int) -> TTTConfig:
    """One layer with heads of 64, Transformer backbone."""
    fields = {
        "hidden_size": HEAD_DIM * heads,
        "num_attention_heads": heads,
        "num_hidden_layers": 1,
        "intermediate_size": 2 * HEAD_DIM * heads,
        "ttt_layer_type": kind,
        "ttt_base_lr": 1.0 if kind == "linear" else 0.1,
    }
    return TTTConfig(**fields)


def load_official(path: Path) -> Any:
    """Import the official ttt.py from where the user has it."""
    spec = importlib.util.spec_from_file_location("official_ttt", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def our_layer(kind: str, heads: int) -> TTTLayer:
    """Our layer, initialised from a fixed seed."""
    config = config_of(kind, heads)
    layer = build_mixer(f"ttt-{kind}", config)
    assert isinstance(layer, TTTLayer)
    with torch.no_grad():
        reset(layer, torch.Generator().manual_seed(0), "torch")
    return layer


def official_layer(kind: str, heads: int, path: Path) -> Any:
    """The official layer with the weights of ours."""
    official, config = load_official(path), config_of(kind, heads)
    fields = config.model_dump(exclude={"scan_checkpoint_group_size"})
    layer_type = official.TTTLinear if kind == "linear" else official.TTTMLP
    layer = layer_type(official.TTTConfig(**fields), layer_idx=0)
    missing = layer.load_state_dict(our_layer(kind, heads).state_dict(), strict=False)
    assert not missing.unexpected_keys, missing
    return layer


def calls(who: str, kind: str, heads: int, path: Path | None) -> tuple[Any, Callable[..., Tensor]]:
    """(layer, whole layer as a function of x)."""
    if who == "ours":
        layer = our_layer(kind, heads)
        return layer, lambda x: layer(x, WHOLE, NULL_PORTS)
    assert path is not None
    layer = official_layer(kind, heads, path)
    return layer, lambda x: layer(x, position_ids=torch.arange(x.shape[1])[None])


def scan_calls(who: str, layer: Any, x: Tensor) -> Callable[[], Tensor]:
    """The scan alone: everything between the q, k, v projections and the post-norm."""
    heads, size = x.shape[2] // HEAD_DIM, 16
    generator = torch.Generator().manual_seed(2)
    qkv = [torch.randn(x.shape, generator=generator) for _ in range(3)]
    split = [t.unflatten(-1, (heads, HEAD_DIM)).transpose(1, 2).requires_grad_() for t in qkv]
    if who == "ours":

        def ours() -> Tensor:
            logits = layer.operators.linear(x, layer.learnable_ttt_lr_weight[:, 0])
            rates, tokens = layer._learning_rates(logits, WHOLE), (t.transpose(1, 2) for t in split)
            return layer._scan(*tokens, rates, WHOLE, NULL_PORTS["state"])

        return ours

    def official() -> Tensor:
        inputs = dict(zip(("XQ", "XK", "XV"), split, strict=True)) | {"X": x}
        tokens = layer.get_ttt_inputs(inputs, size, None)
        return layer.ttt(tokens, size, None)[0]

    return official


def measure(call: Callable[[], Tensor], repeats: int) -> tuple[float, int]:
    """Best seconds of forward + backward, and bytes that the first one added to the peak."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * _KIB
    call().sum().backward()
    added = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * _KIB - before
    best = float("inf")
    for _ in range(repeats):
        began = time.perf_counter()
        call().sum().backward()
        best = min(best, time.perf_counter() - began)
    return best, added


def main(who: str, kind: str, heads: int, tokens: int, repeats: int, path: Path | None) -> None:
    """Measure and print."""
    if (
        who != "official"
    ):  # as its users run it; "official-tuned" has the allocator settings of ours
        tune_allocator()
    who = who.removesuffix("-tuned")
    torch.set_num_threads(1)
    layer, call = calls(who, kind, heads, path)
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(1, tokens, HEAD_DIM * heads, generator=generator).requires_grad_()
    with torch.no_grad():
        digest = call(x[:, :256]).double().norm().item()
    call(x[:, :256]).sum().backward()  # libraries loaded, buffers made
    scan_seconds, scan_bytes = measure(scan_calls(who, layer, x), repeats)
    layer_seconds, _ = measure(lambda: call(x), repeats)
    result = {
        "layer_seconds": layer_seconds,
        "scan_seconds": scan_seconds,
        "scan_peak_bytes": scan_bytes,
        "output_norm": digest,
    }
    print(json.dumps(result))


if __name__ == "__main__":
    words = sys.argv[1:]
    official_path = Path(words[5]) if len(words) > 5 else None
    main(words[0], words[1], int(words[2]), int(words[3]), int(words[4]), official_path)
