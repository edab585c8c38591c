"""One optimizer step and one evaluation, as the loop calls them."""

import math
import time
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from tttscale.comm.mesh import Mesh
from tttscale.config import Config
from tttscale.data.windows.order import data_step, sequence_groups
from tttscale.data.windows.window import WindowSource
from tttscale.errors import NumericsError
from tttscale.model import TTTForCausalLM
from tttscale.observe.timeline import Held
from tttscale.plan.rates import step_rates
from tttscale.scan.losses import Losses
from tttscale.scan.reader import TokenSequence
from tttscale.scan.sweep import Sweeps
from tttscale.scan.timeline import Activity
from tttscale.supervise.page import Phase, enter, waiting
from tttscale.train import memory
from tttscale.train.engine import Engine
from tttscale.train.figures import step_figures, work_tokens
from tttscale.train.non_finite import CarryRows, StepError, check_losses
from tttscale.train.origin import origin
from tttscale.train.schedules import inner_lr_scale, learning_rate


@dataclass
class Evaluation:
    """A held-out loss, in all and by position in the context."""

    loss: float
    """Mean over unmasked tokens, nats."""
    positions: dict[str, Any]
    """Edges, losses and token counts of the position buckets."""


class Trainer:
    """Steps of one rank; all ranks call the same methods in the same order."""

    def __init__(
        self, config: Config, mesh: Mesh, model: TTTForCausalLM, sweeps: Sweeps, engine: Engine
    ) -> None:
        self._config, self._mesh = config, mesh
        self._model, self._sweeps, self._engine = model, sweeps, engine
        self._skipped = config.data.skipped
        self.tokens = 0
        """Tokens with a loss in all steps so far."""
        self.timeline = engine.timeline = sweeps.timeline
        engine.sum_early(sweeps.final_gradients)
        self._ended_at: float | None = None
        device = sweeps.device
        self._device_name = torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"

    def step(self, step: int, windows: WindowSource) -> dict[str, Any]:
        """Run optimizer step 1, 2, ... and return its record for metrics.jsonl.

        Raises:
            StepError: the loss, a carry or a gradient cannot be used, and the parameters are unchanged; it
                says where that began. On all ranks.
            NumericsError: the update has made parameters that are not finite. On all ranks.
            PeerError: another rank died.
        """
        try:
            return self._step(step, windows)
        except StepError as error:
            self._engine.skip()
            if error.origin:
                raise
            enter(Phase.STEP, step)  # the step is computed again: its time begins again
            found = origin(self._sweeps, self._mesh, self._groups(step, windows))
            raise StepError(step, error.what, found) from None

    def _step(self, step: int, windows: WindowSource) -> dict[str, Any]:
        began, between_seconds = self._begin()
        lr = learning_rate(self._config.train, step)
        self._engine.set_lr(lr)
        self._model.set_inner_lr_scale(inner_lr_scale(self._config.model, step))
        groups, work = self._groups(step, windows), work_tokens(self._sweeps)
        sweeps_began = time.perf_counter()
        self._sweeps.forward(groups)
        losses = self._sweeps.backward()
        self._finish_device()
        sweeps_seconds = time.perf_counter() - sweeps_began
        limit = self._config.train.inner_norm_limit
        carries = CarryRows(self._sweeps.norms, self._mesh, limit)
        everything = self._gather_replicas(losses.flat(), carries)
        loss, tokens = self._mean_loss(losses, everything, step)
        carries.check(step)
        if step < self._config.train.steps:
            self._sweeps.prepare(self._groups(step + 1, windows))
        grad_norm = self._update(tokens, step)
        largest_weight = self._largest_weight()
        seconds = time.perf_counter() - began
        held = Held(*(min(part, seconds) for part in self.timeline.take()))
        peak_bytes = float(memory.peak_bytes(self._sweeps.device))
        rows = self._mesh.gather([seconds, *held, peak_bytes, sweeps_seconds, work, largest_weight])
        self.timeline.mark_step(step, began, began + seconds)
        self._ended_at = time.perf_counter()
        self._check_weights(rows[:, -1], step, lr, grad_norm)
        self.tokens += int(tokens)
        figures = step_figures(rows, tokens)
        return {
            "step": step,
            "loss": loss,
            "grad_norm": grad_norm,
            "lr": lr,
            "tokens": self.tokens,
            **figures,
            **carries.figures(),
            **step_rates(
                self._config,
                tokens,
                figures["step_seconds"],
                self._mesh.world_size,
                self._device_name,
            ),
            "between_seconds": between_seconds,
        }

    def _begin(self) -> tuple[float, float]:
        """Begin a step on all ranks at once.

        The others' wait for what one rank did between steps (rank 0 writes records and draws plots) is then
        no part of the step.

        Returns:
            The time now, and the seconds since the last step ended; 0 for the first.
        """
        self.timeline.begin(Activity.IDLE)
        self._mesh.gather([0.0])
        self.timeline.begin(Activity.OTHER)
        self.timeline.take()
        began = time.perf_counter()
        return began, 0.0 if self._ended_at is None else began - self._ended_at

    def _finish_device(self) -> None:
        """Wait until the device has done the sweeps; the optimizer needs their gradients now."""
        if self._sweeps.device.type == "cuda":
            with waiting():  # its streams may wait for other ranks
                torch.cuda.synchronize(self._sweeps.device)

    def evaluate(self, windows: WindowSource, sweeps: Sweeps | None, sequences: int) -> Evaluation:
        """Return the held-out loss of the first windows in text order; every replica takes its share."""
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
        """Return this replica's sequences of a step, `parallel.batch` side by side."""
        self.timeline.begin(Activity.DATA)
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
        self.timeline.begin(Activity.OTHER)
        return found

    def _largest_weight(self) -> float:
        """Return the largest absolute value; not finite if any weight is not."""
        return float(torch.nn.utils.get_total_norm(self._model.parameters(), math.inf))

    def _check_weights(self, largest: Tensor, step: int, lr: float, grad_norm: float) -> None:
        if not largest.isfinite().all():
            raise NumericsError(
                f"step {step}: its update has made weights that are not finite, with a learning rate "
                f"of {lr:.4g} and a gradient norm of {grad_norm:.4g}. They are not saved.",
                step,
                sound=step - 1,
            )

    def _gather_replicas(self, own: Tensor, carries: CarryRows) -> Tensor:
        """Sum a tensor over the ranks of each replica, one row for each; waits for the slowest rank.

        What the ranks say of their carries travels in the same sum.
        """
        rows = torch.zeros(self._mesh.replicas, len(own), dtype=torch.float64)
        rows[self._mesh.replica] = own
        both = torch.cat([rows.flatten(), carries.flat()])
        if self._mesh.world_size > 1:
            self.timeline.begin(Activity.IDLE)
        self._mesh.sum_on_cpu(both)
        self.timeline.begin(Activity.OTHER)
        carries.load(both[rows.numel() :])
        return both[: rows.numel()].view_as(rows)

    def _update(self, tokens: float, step: int) -> float:
        """Update the parameters, or skip that if the step held only padding; return the gradient's norm."""
        if tokens == 0:
            self._engine.skip()
            return 0.0
        try:
            return self._engine.step(1.0 / tokens)
        except NumericsError as error:
            raise StepError(step, str(error)) from None

    def _mean_loss(self, losses: Losses, everything: Tensor, step: int) -> tuple[float, float]:
        """Return the step's loss, summed in the same order for any number of ranks: by sequence, by chunk.

        Args:
            losses: an object to read a replica's row with.
            everything: what `_gather_replicas` returned.
            step: for the message of an error.

        Returns:
            The mean over tokens, in nats (NaN without any), and the number of tokens.
        """
        sums, counts = [], []
        for replica, row in enumerate(everything):
            losses.load(row)
            check_losses(losses, step, replica)
            sums.append(losses.sequence_sums.flatten())
            counts.append(losses.counts.sum())
        tokens = float(sum(counts))
        return _sum_in_order(torch.cat(sums)) / tokens if tokens else math.nan, tokens


def _sum_in_order(values: Tensor) -> float:
    total = 0.0
    for value in values.tolist():
        total += value
    assert not math.isnan(total)
    return total
