"""One optimizer step by DeepSpeed: outer parameters, their AdamW under ZeRO, one reduction a step.

The sweeps backpropagate many chunks into the `.grad` of a plain model. DeepSpeed owns other Parameter
objects that share the same storage, so that none of its hooks fires during a sweep. At the end of the
step it sees exactly one backward, of the scalar sum over parameters of <parameter, gradient>, whose
gradient is the accumulated one. Hence one reduction a step at every ZeRO stage, and nothing depends on
how DeepSpeed counts micro-batches.

With `sum_early` the sums over the ranks begin before that, under the last backward sweep, and DeepSpeed takes
the gradients without reducing them again.

With stage 3 all parameters are below the persistence threshold: DeepSpeed gathers them once after each
optimizer step and keeps them until the next, since a gather per layer would make the wavefront serial.
"""

import json
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from tttscale.comm.background_sums import BackgroundSums
from tttscale.comm.mesh import Mesh
from tttscale.errors import NumericsError
from tttscale.scan.final_gradients import FinalGradients
from tttscale.scan.timeline import Activity, Timeline
from tttscale.supervise.page import waiting
from tttscale.train.deepspeed_import import import_deepspeed, leave_dynamo_out, quiet
from tttscale.train.gradient_sums import GradientSums, Share
from tttscale.train.zero_fragments import Fragment, ZeroFragments

_UNBOUNDED = 10**12
"""Elements: larger than any model here."""
LARGEST_NORM = 1e19
"""Largest gradient norm that is used. AdamW and ZeRO square it in fp32, which ends at 3.4e38; beyond, each
stage would do something else (one forgets the gradient, one skips the step, one clips it to zero)."""


class _Parameters(nn.Module):
    """The outer parameters as DeepSpeed sees them; it never runs a forward of the real model."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.values = nn.ParameterList(nn.Parameter(p.detach()) for p in model.parameters())

    def forward(self, grads: list[Tensor]) -> Tensor:
        """Return the sum of <parameter, gradient>, whose gradient is `grads`."""
        products = [
            torch.dot(p.view(-1), g.view(-1)) for p, g in zip(self.values, grads, strict=True)
        ]
        return torch.stack(products).sum()


class Engine:
    """AdamW under ZeRO for a model whose gradients were accumulated by the sweeps."""

    def __init__(
        self,
        model: nn.Module,
        mesh: Mesh,
        *,
        zero_stage: int,
        lr: float,
        betas: tuple[float, float],
        eps: float,
        weight_decay: float,
        grad_clip: float,
        overlap_reduction: bool = False,
    ) -> None:
        """Give the parameters to DeepSpeed; every rank calls this.

        Args:
            model: fp32 parameters, equal on all ranks.
            mesh: all ranks take part in every reduction and in ZeRO's partition.
            zero_stage: 0 to 3.
            lr: AdamW's; `set_lr` changes it.
            betas: AdamW's.
            eps: AdamW's.
            weight_decay: on every parameter, as the paper trains.
            grad_clip: largest global gradient norm; 0: no clipping.
            overlap_reduction: `sum_early` is possible (several ranks, stages 0 to 2).
        """
        deepspeed = import_deepspeed(next(model.parameters()).device.type)
        self._model, self._mesh, self._stage = model, mesh, zero_stage
        module = _Parameters(model)
        leave_dynamo_out(torch.optim.Optimizer)
        optimizer = torch.optim.AdamW(
            module.parameters(), lr=lr, betas=betas, eps=eps, weight_decay=weight_decay
        )
        with quiet(), waiting():
            self._engine, *_ = deepspeed.initialize(
                model=module,
                optimizer=optimizer,
                config=_deepspeed_config(zero_stage, mesh.world_size, grad_clip),
                dist_init_required=False,
            )
        self._moments = ZeroFragments(
            [name for name, _ in model.named_parameters()],
            list(self._engine.module.values),
            optimizer,
            self._engine.optimizer,
            stage=zero_stage,
            rank=mesh.rank,
            world_size=mesh.world_size,
        )
        self._background: BackgroundSums | None = None
        self._sums: GradientSums | None = None
        if overlap_reduction:
            assert zero_stage < 3
            self._background = BackgroundSums(mesh, next(model.parameters()).device)
        self.timeline: Timeline | None = None
        """Told when gradients are summed over the ranks, parameters updated and collected."""
        optimizer.register_step_pre_hook(lambda *_: self._begin(Activity.OPTIMIZER))
        if zero_stage > 0:  # the shares are gathered as soon as the last one is updated
            optimizer.register_step_post_hook(lambda *_: self._begin(Activity.GATHER))
        if zero_stage < 3:  # stage 3 has scattered its values; ours are unchanged
            self._share()

    def _share(self) -> None:
        """Let the model's parameters share DeepSpeed's storage (it may have moved)."""
        for ours, theirs in zip(self._model.parameters(), self._engine.module.values, strict=True):
            assert theirs.shape == ours.shape, "a parameter is not gathered"
            ours.data = theirs.data

    def set_lr(self, lr: float) -> None:
        """Set the learning rate of the next step."""
        for group in self._engine.optimizer.param_groups:
            group["lr"] = lr

    def sum_early(self, final: FinalGradients) -> None:
        """From now on begin the sums over the ranks as soon as gradients are final, where that is done.

        Every backward sweep is followed by a `step` or a `skip` then.

        Args:
            final: of the sweeps that make the gradients.
        """
        if self._background is None:
            return
        shares: list[list[Share]] = [[(None, p.numel())] for p in self._model.parameters()]
        if self._stage > 0:
            shares = [list(owners) for owners in self._moments.owners()]
        by_parameter = dict(zip(self._model.parameters(), shares, strict=True))
        self._sums = GradientSums(
            final.groups, by_parameter, self._background, self._mesh.world_size
        )
        final.sink = self._sums.begin

    def step(self, scale: float = 1.0) -> float:
        """Reduce the gradients (`scale` times their sum over all ranks), clip, update and clear them.

        Every rank calls this.

        Args:
            scale: 1 / tokens for the gradient of the mean loss.

        Returns:
            The global gradient norm before clipping.

        Raises:
            NumericsError: the norm is not finite, or above `LARGEST_NORM`; raised on all ranks, at every
                stage, before anything has changed.
            PeerError: another rank died.
        """
        self._begin(Activity.OPTIMIZER)
        divisor = self._await_sums()
        summed = divisor is not None
        # DeepSpeed averages over the ranks; ours is a sum.
        divisor = divisor or self._mesh.world_size
        grads = []
        for parameter in self._model.parameters():
            grad = parameter.grad if parameter.grad is not None else torch.zeros_like(parameter)
            grads.append(grad.contiguous().mul_(divisor * scale))
            parameter.grad = None
        with self._mesh.noticing("in the reduction of gradients"):
            self._reduce(grads, summed)
            norm = self._norm()
            if not norm <= LARGEST_NORM:  # nor is NaN
                raise NumericsError(self._fault())
        with self._mesh.noticing("in the update of parameters"):
            self._engine.step()
        self._begin(Activity.OTHER)
        self._share()
        return norm

    def skip(self) -> None:
        """Clear the gradients in place of a step, or after one that has failed; all ranks or none."""
        self._await_sums()
        self._model.zero_grad()
        optimizer = self._engine.optimizer
        optimizer.zero_grad()  # DeepSpeed has them if a step has failed: it would add the next ones
        if self._stage > 0:
            optimizer.averaged_gradients = {}

    def updates(self) -> int:
        """Return how many steps AdamW has made; skipped ones do not count."""
        return self._moments.updates()

    def fragments(self) -> list[Fragment]:
        """Return this rank's share of the moments: over all ranks every element once.

        Which elements depends on the ZeRO stage and on the number of ranks; none before the first step.
        """
        return self._moments.own()

    def restore(self, updates: int, fill: Callable[[Fragment], None]) -> None:
        """Continue as if `updates` steps had been made; the model's weights are those after them already.

        Args:
            updates: as `updates` returned it.
            fill: called for all that this rank keeps, to write into its moments.
        """
        self._moments.restore(updates, fill)

    def _await_sums(self) -> int | None:
        """Wait for sums that began early; return by what they are divided, None if there were none."""
        if self._sums is None:
            return None
        self._begin(Activity.REDUCE)
        divisor = self._sums.wait()
        self._begin(Activity.OPTIMIZER)
        return divisor

    def _reduce(self, grads: list[Tensor], summed: bool) -> None:
        product = self._engine(grads)
        grads.clear()
        if summed:
            with self._taking_sums():
                self._engine.backward(product)
            return
        self._begin(Activity.REDUCE)
        self._engine.backward(product)
        self._begin(Activity.OPTIMIZER)

    @contextmanager
    def _taking_sums(self) -> Iterator[None]:
        """Let DeepSpeed take gradients as they are: stage 0 all of them, 1 and 2 those in its partition."""
        if self._stage == 0:
            assert self._engine.enable_backward_allreduce, "DeepSpeed reduces in another way"
            self._engine.enable_backward_allreduce = False
            try:
                yield
            finally:
                self._engine.enable_backward_allreduce = True
            return
        taken: list[int] = []
        self._engine.optimizer.average_tensor = lambda flat, *_: taken.append(flat.numel())
        try:
            yield
        finally:
            del self._engine.optimizer.average_tensor
        elements = sum(p.numel() for p in self._model.parameters())
        assert sum(taken) == elements, "DeepSpeed reduces in another way"

    def _begin(self, activity: Activity) -> None:
        """Tell the timeline, after waiting for the device: these activities are timed by the host."""
        if self.timeline is None:
            return
        if next(self._model.parameters()).is_cuda:
            torch.cuda.synchronize()
        alone = self._mesh.world_size == 1 and activity in (Activity.REDUCE, Activity.GATHER)
        self.timeline.begin(Activity.OPTIMIZER if alone else activity)

    def _reduced(self) -> list[tuple[nn.Parameter, Tensor]]:
        """Return parameters and their reduced gradients, or parts of both: over all ranks each element once.

        They exist only between the reduction and the step, where DeepSpeed frees them.
        """
        if self._stage == 0:
            mine = list(self._engine.module.values)[self._mesh.rank :: self._mesh.world_size]
            return [(p, p.grad) for p in mine if p.grad is not None]
        optimizer = self._engine.optimizer
        kept = optimizer.fp16_groups if self._stage == 3 else optimizer.params_in_partition
        pairs = []
        for i, parameters in enumerate(kept):
            # After them the last rank has padding.
            pairs += zip(parameters, optimizer.averaged_gradients[i], strict=False)
        return pairs

    def _norm(self) -> float:
        """Return the norm of the reduced gradient; infinite where its square overflows fp32. Collective."""
        own = float(torch.nn.utils.get_total_norm([grad for _, grad in self._reduced()]))
        self._begin(Activity.REDUCE)
        squares = self._mesh.gather([own**2])
        self._begin(Activity.OPTIMIZER)
        return math.sqrt(float(squares.sum()))

    def _fault(self) -> str:
        """Say why the gradient cannot be used and which parameter has its largest element. Collective."""
        names = {
            id(theirs): name
            for (name, _), theirs in zip(
                self._model.named_parameters(), self._engine.module.values, strict=True
            )
        }
        own = [(_size(grad), names[id(parameter)]) for parameter, grad in self._reduced()]
        texts = self._mesh.gather_texts(json.dumps(max(own, default=(0.0, ""))))
        size, name = max(json.loads(text) for text in texts)
        if not math.isfinite(size):
            return f"the gradient is not finite, though the loss is. It is that of {name}"
        return (
            "the gradient is too large, though the loss is finite: its norm is above "
            f"{LARGEST_NORM:.0e}, and its square not in the range of fp32. The largest element, {size:.3g}, "
            f"is one of {name}"
        )


def _size(grad: Tensor) -> float:
    """Return the largest absolute value; infinite if one is not finite."""
    size = float(torch.linalg.vector_norm(grad, math.inf)) if grad.numel() else 0.0
    return size if math.isfinite(size) else math.inf


def _deepspeed_config(stage: int, world_size: int, grad_clip: float) -> dict[str, Any]:
    """Return DeepSpeed's own configuration; gradient accumulation stays 1, since one backward is one step."""
    zero: dict[str, Any] = {
        "stage": stage,
        "overlap_comm": False,
        "contiguous_gradients": True,
        "round_robin_gradients": False,
    }
    if stage == 3:
        zero |= {
            "stage3_param_persistence_threshold": _UNBOUNDED,
            "stage3_model_persistence_threshold": _UNBOUNDED,
            "stage3_max_live_parameters": _UNBOUNDED,
            "stage3_max_reuse_distance": _UNBOUNDED,
        }
    return {
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": 1,
        "train_batch_size": world_size,
        "gradient_clipping": grad_clip,
        "zero_optimization": zero,
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
        "communication_data_type": "fp32",
        "steps_per_print": _UNBOUNDED,
        "wall_clock_breakdown": False,
    }
