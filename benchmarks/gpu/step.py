"""Optimizer steps of a preset through the chunked sweeps, in a process of its own; a row of JSON each.

Run as `python -m benchmarks.gpu.step PRESET[+plain] DEVICE CHUNK [TOKENS ...]`; without TOKENS it only
compiles what a step needs. bf16, random tokens, one sequence, one rank, torch's AdamW without DeepSpeed.
After the first length's row comes one that says where its time goes. On a CPU: a tiny model in fp32.
"""

import statistics
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from benchmarks.problems import device_microseconds
from tttscale.bench import report
from tttscale.model.architecture import TTTConfig, preset_fields
from tttscale.model.language_model import TTTForCausalLM
from tttscale.model.layers import compile_operators
from tttscale.scan.keep_policy import ActivationPolicy
from tttscale.scan.layout import Layout
from tttscale.scan.sweep import Sweeps

_PLAIN = "+plain"
"""Ending of a preset's name: without train.compile, which is the default on a GPU."""
_TIMED_TOKENS = 98_304
"""Short lengths are repeated, until about so many tokens are timed."""
_BLOCK_REPEATS = 7


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
        self.cuda = device == "cuda"
        self.config = architecture(name.removesuffix(_PLAIN), device)
        with torch.device(device):  # a 1.3B model takes a CPU ten seconds
            self.model = TTTForCausalLM(self.config)
        if self.cuda and not name.endswith(_PLAIN):
            compile_operators(self.model)
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-4, fused=self.cuda)
        self.step(self._sweeps(2 * chunk), 2 * chunk)

    def rows(self, lengths: list[int]) -> Iterator[dict[str, Any]]:
        """Seconds and memory of a step of each length; where the first one's time goes."""
        for number, tokens in enumerate(lengths):
            row = self.measure(tokens)
            yield {"what": "step", **self._about(tokens), **row}
            if number == 0:
                yield {"what": "profile", **self._about(tokens), **self.profile(tokens, row)}

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
        """Seconds (the median of short ones) and memory of a step."""
        sweeps, taken, loss = self._sweeps(tokens), [], 0.0
        self._synchronize()
        if self.cuda:
            torch.cuda.reset_peak_memory_stats()
        for _ in range(max(1, min(3, _TIMED_TOKENS // tokens))):
            began = time.perf_counter()
            loss = self.step(sweeps, tokens)
            self._synchronize()
            taken.append(time.perf_counter() - began)
        seconds = statistics.median(taken)
        return {
            "step_seconds": seconds,
            "tokens_per_second": tokens / seconds,
            "peak_bytes": torch.cuda.max_memory_allocated() if self.cuda else 0,
            "loss": loss,
        }

    def profile(self, tokens: int, row: dict[str, Any]) -> dict[str, Any]:
        """Find where the time of a step of so many tokens goes; `row` says how long it took."""
        found: dict[str, Any] = {"step_seconds": row["step_seconds"], **self._of_a_block()}
        if not self.cuda:
            return found
        sweeps = self._sweeps(tokens)
        found["host_waits"] = self._host_waits(sweeps, tokens)
        times = device_microseconds(lambda: self.step(sweeps, tokens))
        total = max(sum(times.values()), 1e-9)
        serial = sum(t for name, t in times.items() if name.startswith("advance"))
        longest = sorted(times.items(), key=lambda item: -item[1])[:12]
        return found | {
            "kernel_seconds": total / 1e6,
            "busy_share": total / 1e6 / row["step_seconds"],
            "serial_share": serial / total,
            "longest_ms": {name[:80]: t / 1e3 for name, t in longest},
        }

    def _about(self, tokens: int) -> dict[str, Any]:
        return {
            "preset": self.name if self.cuda else f"{self.name} (tiny, on a CPU)",
            "parameters": sum(p.numel() for p in self.model.parameters()),
            "tokens": tokens,
            "chunk": self.chunk,
        }

    def _sweeps(self, tokens: int) -> Sweeps:
        layout = Layout("striped", tokens, self.chunk)
        return Sweeps(
            self.model,
            layout,
            keep=ActivationPolicy(1),
            autocast=torch.bfloat16 if self.cuda else None,
        )

    def _of_a_block(self) -> dict[str, float]:
        """Milliseconds that a chunk and layer takes, over all three passes: the host's, and until it is done.

        A block has fewer launches than a device keeps waiting, so the host's share is not held up by it.
        """
        x = torch.randn(1, self.chunk, self.config.hidden_size, device=self.device)
        x.requires_grad_()
        block, d_out = self.model.blocks[0], torch.ones_like(x)
        precision = torch.autocast("cuda", torch.bfloat16) if self.cuda else nullcontext()

        def again() -> None:
            with torch.no_grad(), precision:
                block(x)

        def both() -> None:
            with precision:
                out = block(x)
            out.backward(d_out)

        times = [self._host_and_all(call) for call in (again, both)]
        self.optimizer.zero_grad()
        host, whole = (sum(column) for column in zip(*times, strict=True))
        return {"host_ms_of_a_block": host, "ms_of_a_block": whole}

    def _host_and_all(self, call: Callable[[], None]) -> tuple[float, float]:
        taken = []
        for _ in range(_BLOCK_REPEATS):
            self._synchronize()
            began = time.perf_counter()
            call()
            returned = time.perf_counter()
            self._synchronize()
            taken.append(((returned - began) * 1e3, (time.perf_counter() - began) * 1e3))
        host, whole = zip(*taken, strict=True)
        return statistics.median(host), statistics.median(whole)

    def _synchronize(self) -> None:
        if self.cuda:
            torch.cuda.synchronize()

    def _host_waits(self, sweeps: Sweeps, tokens: int) -> int:
        """How often a step made the host wait for the device; its end has to, once or twice."""
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
    for found in steps.rows(list(map(int, words[3:]))):
        report.emit(found)
