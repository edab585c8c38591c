"""One optimizer step of a preset through the chunked sweeps, in a process of its own; one JSON object.

Run as `python -m tttscale.bench.gpu_step PRESET TOKENS CHUNK DEVICE`. bf16, random tokens, one sequence, one
rank, torch's AdamW without DeepSpeed. On a CPU: a tiny model in fp32.
"""

import json
import sys
import time
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from tttscale.model.architecture import TTTConfig, preset_fields
from tttscale.model.language_model import TTTForCausalLM
from tttscale.scan.carry import CarryLayout
from tttscale.scan.layout import Layout
from tttscale.scan.memory import KeepPolicy
from tttscale.scan.schedule import Schedule
from tttscale.scan.sweep import Sweeps


@dataclass
class _Range:
    ids: np.ndarray
    labels: np.ndarray
    starts: tuple[int, ...] = ()
    padded: np.ndarray | None = None


class RandomSequence:
    """Token ids without meaning; the cost does not depend on them."""

    def __init__(self, tokens: int, vocabulary: int) -> None:
        self.text = np.random.default_rng(0).integers(0, vocabulary, tokens + 1)

    def chunk(self, begin: int, end: int) -> _Range:
        """Tokens begin..end and their labels."""
        return _Range(self.text[begin:end], self.text[begin + 1 : end + 1])


def architecture(name: str, device: str) -> TTTConfig:
    """The preset, or on a CPU a model of its kind that is small enough."""
    if device == "cuda":
        return TTTConfig(**preset_fields(name))
    tiny = {"vocab_size": 64, "hidden_size": 32, "intermediate_size": 64}
    return TTTConfig(
        **{**preset_fields(name), **tiny, "num_hidden_layers": 2, "num_attention_heads": 2}
    )


def measure(name: str, tokens: int, chunk: int, device: str) -> dict[str, Any]:
    """Seconds and memory of the second of two steps."""
    config = architecture(name, device)
    model = TTTForCausalLM(config).to(device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=device == "cuda")
    layout = Layout("striped", tokens, chunk)
    parts = tuple(CarryLayout.of(config, 1, torch.float32).parts)
    autocast = torch.bfloat16 if device == "cuda" else None
    sweeps = Sweeps(
        model,
        Schedule(layout, config.num_hidden_layers, parts),
        keep=KeepPolicy(1),
        autocast=autocast,
    )
    groups = [[RandomSequence(tokens, config.vocab_size)]]

    def step() -> float:
        sweeps.forward(groups)
        losses = sweeps.backward(1 / tokens)
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        return float(losses.sums.sum()) / tokens

    step()
    if device == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
    began = time.perf_counter()
    loss = step()
    if device == "cuda":
        torch.cuda.synchronize()
    seconds = time.perf_counter() - began
    return {
        "preset": name if device == "cuda" else f"{name} (tiny, on a CPU)",
        "parameters": sum(p.numel() for p in model.parameters()),
        "tokens": tokens,
        "chunk": chunk,
        "step_seconds": seconds,
        "tokens_per_second": tokens / seconds,
        "peak_bytes": torch.cuda.max_memory_allocated() if device == "cuda" else 0,
        "loss": loss,
        "scan_share": _scan_share(step, device) if tokens <= 32768 else None,
    }


def _scan_share(step: Any, device: str) -> float | None:
    """Part of the device's time that the serial kernels of the scans take."""
    if device != "cuda":
        return None
    activity = torch.profiler.ProfilerActivity.CUDA
    with torch.profiler.profile(activities=[activity]) as profile:
        step()
        torch.cuda.synchronize()
    times = {e.key: e.self_device_time_total for e in profile.key_averages()}
    serial = sum(t for name, t in times.items() if name.startswith("advance"))
    return serial / max(sum(times.values()), 1e-9)


if __name__ == "__main__":
    words = sys.argv[1:]
    print(json.dumps(measure(words[0], int(words[1]), int(words[2]), words[3])))
