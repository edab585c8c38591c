"""Optimizer steps of a preset through the chunked sweeps, in a process of its own; one JSON list.

Run as `python -m tttscale.bench.gpu_step PRESET[+plain] DEVICE CHUNK TOKENS ...`. bf16, random tokens, one
sequence, one rank, torch's AdamW without DeepSpeed. On a CPU: a tiny model in fp32.
"""

import json
import sys
import time
import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from tttscale.bench.problems import device_microseconds
from tttscale.model.architecture import TTTConfig, preset_fields
from tttscale.model.language_model import TTTForCausalLM
from tttscale.model.layers import compile_operators
from tttscale.scan.carry import CarryLayout
from tttscale.scan.layout import Layout
from tttscale.scan.memory import KeepPolicy
from tttscale.scan.schedule import Schedule
from tttscale.scan.sweep import Sweeps

_PLAIN = "+plain"
"""Ending of a preset's name: without train.compile, which is the default on a GPU."""


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


class Steps:
    """A model, its optimizer, and steps of any length; the first step compiles what all need."""

    def __init__(self, name: str, device: str, chunk: int) -> None:
        self.name, self.device, self.chunk = name, device, chunk
        self.config = architecture(name.removesuffix(_PLAIN), device)
        self.model = TTTForCausalLM(self.config).to(device)
        if device == "cuda" and not name.endswith(_PLAIN):
            compile_operators(self.model)
        fused = device == "cuda"
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-4, fused=fused)
        self.step(self._sweeps(2 * chunk), 2 * chunk)

    def _sweeps(self, tokens: int) -> Sweeps:
        layout = Layout("striped", tokens, self.chunk)
        parts = tuple(CarryLayout.of(self.config, 1, torch.float32).parts)
        return Sweeps(
            self.model,
            Schedule(layout, self.config.num_hidden_layers, parts),
            keep=KeepPolicy(1),
            autocast=torch.bfloat16 if self.device == "cuda" else None,
        )

    def step(self, sweeps: Sweeps, tokens: int) -> float:
        """One optimizer step; its mean loss."""
        sweeps.forward([[RandomSequence(tokens, self.config.vocab_size)]])
        losses = sweeps.backward()
        for parameter in self.model.parameters():
            assert parameter.grad is not None
            parameter.grad.div_(tokens)
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad()
        return float(losses.sums.sum()) / tokens

    def measure(self, tokens: int) -> dict[str, Any]:
        """Seconds and memory of a step."""
        sweeps, cuda = self._sweeps(tokens), self.device == "cuda"
        if cuda:
            torch.cuda.synchronize()
            torch.cuda.reset_peak_memory_stats()
        began = time.perf_counter()
        loss = self.step(sweeps, tokens)
        if cuda:
            torch.cuda.synchronize()
        seconds = time.perf_counter() - began
        return {
            "preset": self.name if cuda else f"{self.name} (tiny, on a CPU)",
            "parameters": sum(p.numel() for p in self.model.parameters()),
            "tokens": tokens,
            "chunk": self.chunk,
            "step_seconds": seconds,
            "tokens_per_second": tokens / seconds,
            "peak_bytes": torch.cuda.max_memory_allocated() if cuda else 0,
            "loss": loss,
            "serial_share": self._serial_share(sweeps, tokens) if tokens <= 32768 else None,
            "host_waits": self._host_waits(sweeps, tokens) if tokens <= 32768 else None,
        }

    def _serial_share(self, sweeps: Sweeps, tokens: int) -> float | None:
        """Part of the device's time that the serial kernels of the scans take."""
        if self.device != "cuda":
            return None
        times = device_microseconds(lambda: self.step(sweeps, tokens))
        serial = sum(t for name, t in times.items() if name.startswith("advance"))
        return serial / max(sum(times.values()), 1e-9)

    def _host_waits(self, sweeps: Sweeps, tokens: int) -> int | None:
        """How often a step made the host wait for the device; its end has to, once or twice."""
        if self.device != "cuda":
            return None
        with warnings.catch_warnings(record=True) as seen:
            warnings.simplefilter("always")
            torch.cuda.set_sync_debug_mode("warn")
            try:
                self.step(sweeps, tokens)
            finally:
                torch.cuda.set_sync_debug_mode("default")
        return sum("synchroniz" in str(warning.message) for warning in seen)


if __name__ == "__main__":
    words = sys.argv[1:]
    steps = Steps(words[0], words[1], int(words[2]))
    print(json.dumps([steps.measure(int(tokens)) for tokens in words[3:]]))
