"""One optimizer step, one evaluation: the loop's two verbs."""

import math
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
from tttscale.scan.losses import Losses
from tttscale.scan.reader import TokenSequence
from tttscale.scan.sweep import Sweeps
from tttscale.train import memory
from tttscale.train.engine import Engine
from tttscale.train.schedules import inner_lr_scale, learning_rate


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
        self.tokens = 0
        """With a loss, in all steps so far."""
        self._ended_at: float | None = None
        self._groups_seconds = 0.0

    def step(self, step: int, windows: WindowSource) -> dict[str, Any]:
        """Run optimizer step 1, 2, ... and return its record for metrics.jsonl.

        Raises:
            NumericsError: the loss or its gradient is not finite, and the parameters are untouched; or the
                update has made them no finite numbers. On all ranks.
            PeerError: another rank died.
        """
        began, between_seconds = self._begin()
        lr = learning_rate(self._config.train, step)
        self._engine.set_lr(lr)
        self._model.set_inner_lr_scale(inner_lr_scale(self._config.model, step))
        self._sweeps.forward(self._groups(step, windows))
        losses = self._sweeps.backward()
        everything, idle_seconds = self._of_replicas(losses.flat())
        loss, tokens = self._mean_loss(losses, everything, step)
        if step < self._config.train.steps:
            self._sweeps.prepare(self._groups(step + 1, windows))
        grad_norm = self._update(tokens, step)
        largest_weight = self._largest_weight()
        seconds = time.perf_counter() - began
        carries_seconds = self._sweeps.wait_seconds
        parts = [
            carries_seconds + idle_seconds,
            carries_seconds + self._engine.comm_seconds,
            self._groups_seconds + self._sweeps.data_seconds,
        ]
        # A GPU's clock is another than the host's, so a part may come out longer than the whole.
        parts = [min(part, seconds) for part in parts]
        peak_bytes = float(memory.peak_bytes(self._sweeps.device))
        rows = self._mesh.gather([seconds, *parts, peak_bytes, largest_weight])
        self._ended_at = time.perf_counter()
        self._check_weights(rows[:, -1], step, lr, grad_norm)
        self.tokens += int(tokens)
        return {
            "step": step,
            "loss": loss,
            "grad_norm": grad_norm,
            "lr": lr,
            "tokens": self.tokens,
            **_figures(rows, tokens),
            "between_seconds": between_seconds,
        }

    def _begin(self) -> tuple[float, float]:
        """Begin a step on all ranks at once.

        What one of them did since the last one (rank 0 writes records and draws plots) is then no part of
        how long the others wait in this one.

        Returns:
            The time now, and how long ago the last step ended; 0 for the first.
        """
        self._mesh.gather([0.0])
        began = time.perf_counter()
        self._groups_seconds = 0.0
        return began, 0.0 if self._ended_at is None else began - self._ended_at

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
        return Evaluation(float(sums.sum() / counts.sum()), positions)  # NaN without a token

    def _groups(self, step: int, windows: WindowSource) -> list[list[TokenSequence]]:
        """This replica's sequences of a step, `parallel.batch` side by side."""
        began = time.perf_counter()
        groups = sequence_groups(
            data_step(step, self._skipped),
            self._config.train.sequences_per_step,
            self._mesh.replicas,
            self._mesh.replica,
            self._config.parallel.batch,
        )
        found: list[list[TokenSequence]] = [
            [windows.sequence(index) for index in group] for group in groups
        ]
        self._groups_seconds += time.perf_counter() - began
        return found

    def _largest_weight(self) -> float:
        """The largest absolute value; not finite if any of them is not."""
        return float(torch.nn.utils.get_total_norm(self._model.parameters(), math.inf))

    def _check_weights(self, largest: Tensor, step: int, lr: float, grad_norm: float) -> None:
        if not largest.isfinite().all():
            raise NumericsError(
                f"step {step}: its update has made weights that are no finite numbers, with a learning rate "
                f"of {lr:.4g} and a gradient norm of {grad_norm:.4g}. They are not saved.",
                step,
                sound=step - 1,
            )

    def _of_replicas(self, own: Tensor) -> tuple[Tensor, float]:
        """A row for each replica, summed over its ranks; and how long the slowest rank was waited for."""
        rows = torch.zeros(self._mesh.replicas, len(own), dtype=torch.float64)
        rows[self._mesh.replica] = own
        began = time.perf_counter()
        self._mesh.sum_on_cpu(rows)
        return rows, time.perf_counter() - began if self._mesh.world_size > 1 else 0.0

    def _update(self, tokens: float, step: int) -> float:
        """Let the optimizer step; the gradient's norm. Nothing but padding teaches nothing: no step then."""
        if tokens == 0:
            self._engine.skip()
            return 0.0
        try:
            return self._engine.step(1.0 / tokens)
        except NumericsError as error:
            raise _before_update(step, str(error)) from None

    def _mean_loss(self, losses: Losses, everything: Tensor, step: int) -> tuple[float, float]:
        """The step's loss, summed in one order whatever the ranks: by sequence, then by chunk.

        Args:
            losses: to read a replica's row with.
            everything: what `_of_replicas` returned.
            step: for the message of an error.

        Returns:
            The mean over tokens, in nats (NaN without any), and the number of tokens.
        """
        sums, counts = [], []
        for replica, row in enumerate(everything):
            losses.load(row)
            self._check(losses, step, replica)
            sums.append(losses.sequence_sums.flatten())
            counts.append(losses.counts.sum())
        self.sequence_losses, tokens = torch.cat(sums), float(sum(counts))
        return _in_order(self.sequence_losses) / tokens if tokens else math.nan, tokens

    def _check(self, losses: Losses, step: int, replica: int) -> None:
        bad = (~losses.sums.isfinite()).nonzero()
        if len(bad):
            sequence, chunk, _ = bad[0].tolist()
            what = f"the loss of sequence {sequence} (replica {replica}) is not finite from chunk {chunk} on"
            raise _before_update(step, what)


def _before_update(step: int, what: str) -> NumericsError:
    """The weights that gave this are those after the step before; only the ones before that gave a loss."""
    message = f"step {step}: {what}. Parameters are as before this step."
    return NumericsError(message, step, sound=step - 2)


def _in_order(values: Tensor) -> float:
    total = 0.0
    for value in values.tolist():
        total += value
    assert not math.isnan(total)
    return total


def _figures(rows: Tensor, tokens: float) -> dict[str, Any]:
    """How a step went, over all ranks.

    All ranks begin it together, and it ends with the last of them: what the others wait for that one is idle,
    too. So every part lies in the interval that it is compared with.

    Args:
        rows: by rank: the seconds until it was done; of these idle, communicating, without tokens; bytes.
        tokens: with a loss, of all ranks.
    """
    seconds, idle, exposed, data, peak = rows.unbind(1)[:5]
    step_seconds = float(seconds.max())
    idle = idle + (step_seconds - seconds)
    return {
        "tokens_per_second": tokens / step_seconds,
        "step_seconds": step_seconds,
        "data_seconds": float(data.max()),
        "bubble_fraction": min(1.0, float(idle.mean()) / step_seconds),
        "exposed_comm_seconds": float(exposed.mean()),
        "peak_memory_bytes": int(peak.max()),
    }
