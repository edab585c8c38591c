"""One optimizer step, one evaluation: the loop's two verbs."""

import math
import resource
import time
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from tttscale.comm.mesh import Mesh
from tttscale.config import Config
from tttscale.data.order import data_step, sequence_groups
from tttscale.data.windows import WindowSource
from tttscale.errors import NumericsError
from tttscale.model import TTTForCausalLM
from tttscale.scan.batch import TokenSequence
from tttscale.scan.losses import Losses
from tttscale.scan.sweep import Sweeps
from tttscale.train.engine import Engine
from tttscale.train.schedules import inner_lr_scale, learning_rate

_KIB = 1024


@dataclass
class Evaluation:
    """A held-out loss, and how it falls along the context."""

    loss: float
    """Mean over unmasked tokens, nats."""
    positions: dict[str, Any]
    """edges, loss, count by position bucket."""


class Trainer:
    """Steps of one rank; all ranks call the same methods in the same order."""

    def __init__(
        self, config: Config, mesh: Mesh, model: TTTForCausalLM, sweeps: Sweeps, engine: Engine
    ) -> None:
        self._config, self._mesh = config, mesh
        self._model, self._sweeps, self._engine = model, sweeps, engine
        self._skipped = config.data.skipped

    def step(self, step: int, windows: WindowSource) -> dict[str, Any]:
        """Run optimizer step 1, 2, ... and return its record for metrics.jsonl.

        Raises:
            NumericsError: the loss is not finite; the parameters are untouched.
        """
        began = time.perf_counter()
        lr = learning_rate(self._config.train, step)
        self._engine.set_lr(lr)
        self._model.set_inner_lr_scale(inner_lr_scale(self._config.model, step))
        self._sweeps.forward(self._groups(step, windows))
        tokens = self._total(self._sweeps.tokens)
        losses = self._sweeps.backward(1.0 / max(tokens, 1.0))
        loss = self._mean_loss(losses, step)
        if step < self._config.train.steps:
            self._sweeps.prepare(self._groups(step + 1, windows))
        reducing = time.perf_counter()
        grad_norm = self._engine.step()
        reduce_seconds = time.perf_counter() - reducing
        seconds = time.perf_counter() - began
        waits = self._mesh.gather(
            [self._sweeps.wait_seconds, self._sweeps.data_seconds, _peak_bytes()]
        )
        bubble = float(waits[:, 0].mean()) / seconds
        return {
            "step": step,
            "loss": loss,
            "grad_norm": grad_norm,
            "lr": lr,
            "tokens": self._config.train.sequences_per_step
            * self._config.data.sequence_length
            * step,
            "tokens_per_second": tokens / seconds,
            "step_seconds": seconds,
            "data_seconds": float(waits[:, 1].max()),
            "bubble_fraction": bubble,
            "exposed_comm_seconds": float(waits[:, 0].mean()) + reduce_seconds,
            "peak_memory_bytes": int(waits[:, 2].max()),
        }

    def evaluate(self, windows: WindowSource, sweeps: Sweeps | None, sequences: int) -> Evaluation:
        """Held-out loss of the first windows in text order; every replica takes its share."""
        mine = range(self._mesh.replica, sequences, self._mesh.replicas)
        edges, flat = Losses.empty(1, 1, 1, windows.sequence_tokens).edges, None
        if sweeps is not None:
            self._model.set_inner_lr_scale(1.0)
            losses = sweeps.forward([[windows.window(i)] for i in mine], train=False)
            flat = torch.cat([losses.position_sums, losses.position_counts])
        buckets = len(edges) - 1
        total = self._mesh.sum_on_cpu(
            torch.zeros(2 * buckets, dtype=torch.float64) if flat is None else flat
        )
        sums, counts = total[:buckets], total[buckets:]
        means = (sums / counts.clamp(min=1)).tolist()
        positions = {"edges": edges, "loss": means, "count": counts.tolist()}
        return Evaluation(float(sums.sum() / counts.sum().clamp(min=1)), positions)

    def _groups(self, step: int, windows: WindowSource) -> list[list[TokenSequence]]:
        """This replica's sequences of a step, `parallel.batch` side by side."""
        groups = sequence_groups(
            data_step(step, self._skipped),
            self._config.train.sequences_per_step,
            self._mesh.replicas,
            self._mesh.replica,
            self._config.parallel.batch,
        )
        return [[windows.sequence(index) for index in group] for group in groups]

    def _total(self, value: float) -> float:
        return float(self._mesh.sum_on_cpu(torch.tensor([value], dtype=torch.float64)))

    def _mean_loss(self, losses: Losses, step: int) -> float:
        """The step's loss, summed in one order whatever the ranks: by sequence, then by chunk."""
        own = losses.flat()
        everything = torch.zeros(self._mesh.replicas, len(own), dtype=torch.float64)
        everything[self._mesh.replica] = own
        self._mesh.sum_on_cpu(everything)
        sums, counts = [], []
        for row in everything:
            losses.load(row)
            sums.append(losses.sequence_sums.flatten())
            counts.append(losses.counts.sum())
            self._check(losses, step, len(sums) - 1)
        self.sequence_losses = torch.cat(sums)
        return _in_order(self.sequence_losses) / max(float(sum(counts)), 1.0)

    def _check(self, losses: Losses, step: int, replica: int) -> None:
        bad = (~losses.sums.isfinite()).nonzero()
        if len(bad):
            sequence, chunk, _ = bad[0].tolist()
            raise NumericsError(
                f"step {step}: the loss of sequence {sequence} (replica {replica}) is not finite from "
                f"chunk {chunk} on. Parameters are as before this step. Lower train.lr or "
                "model.ttt_base_lr, or raise train.warmup_steps or model.inner_lr_warmup_steps."
            )


def _in_order(values: Tensor) -> float:
    total = 0.0
    for value in values.tolist():
        total += value
    assert not math.isnan(total)
    return total


def _peak_bytes() -> int:
    """Largest memory so far: the GPU's where there is one, else the process's resident set."""
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        return torch.cuda.max_memory_allocated()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * _KIB
