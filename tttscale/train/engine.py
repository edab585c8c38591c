"""The only file that knows DeepSpeed: outer parameters, their optimizer, one reduction a step.

The sweeps backpropagate many chunks into the `.grad` of a plain model. DeepSpeed owns other Parameter
objects that share the same storage, so that none of its hooks fires during a sweep. At the end of the
step it sees exactly one backward, of the scalar sum over parameters of <parameter, gradient>, whose
gradient is the accumulated one. Hence one reduction a step at every ZeRO stage, and nothing depends on
how DeepSpeed counts micro-batches.

With stage 3 all parameters are below the persistence threshold: DeepSpeed gathers them once after each
optimizer step and keeps them until the next, since a gather per layer would make the wavefront serial.
"""

import contextlib
import io
import logging
import os
import time
import warnings
from typing import Any

import torch
from torch import Tensor, nn

from tttscale.comm.mesh import Mesh

_UNBOUNDED = 10**12
"""Elements: larger than any model here."""


class _Parameters(nn.Module):
    """The outer parameters as DeepSpeed sees them; it never runs a forward of the real model."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.values = nn.ParameterList(nn.Parameter(p.detach()) for p in model.parameters())

    def forward(self, grads: list[Tensor]) -> Tensor:
        """Sum of <parameter, gradient>; its gradient is `grads`."""
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
    ) -> None:
        """Hand the parameters over to DeepSpeed; collective.

        Args:
            model: fp32 parameters, equal on all ranks.
            mesh: all ranks take part in every reduction and in ZeRO's partition.
            zero_stage: 0 to 3.
            lr: AdamW's; `set_lr` changes it.
            betas: AdamW's.
            eps: AdamW's.
            weight_decay: on every parameter, as the paper trains.
            grad_clip: largest global gradient norm; 0: no clipping.
        """
        deepspeed = _import_deepspeed()
        self._model, self._mesh, self._stage = model, mesh, zero_stage
        module = _Parameters(model)
        optimizer = torch.optim.AdamW(
            module.parameters(), lr=lr, betas=betas, eps=eps, weight_decay=weight_decay
        )
        with _quiet():
            self._engine, *_ = deepspeed.initialize(
                model=module,
                optimizer=optimizer,
                config=_deepspeed_config(zero_stage, mesh.world_size, grad_clip),
                dist_init_required=False,
            )
        self.reduce_seconds = 0.0
        """Of the last step: from having all gradients to having their sums over the ranks."""
        if zero_stage < 3:  # stage 3 has scattered its values; ours still stand where they were
            self._share()

    def _share(self) -> None:
        """Let the model's parameters look at DeepSpeed's storage (it may have moved)."""
        for ours, theirs in zip(self._model.parameters(), self._engine.module.values, strict=True):
            assert theirs.shape == ours.shape, "a parameter is not gathered"
            ours.data = theirs.data

    def set_lr(self, lr: float) -> None:
        """Learning rate of the next step."""
        for group in self._engine.optimizer.param_groups:
            group["lr"] = lr

    def step(self, scale: float = 1.0) -> float:
        """Reduce the gradients (`scale` times their sum over all ranks), clip, update, clear; collective.

        Args:
            scale: 1 / tokens for the gradient of the mean loss.

        Returns:
            The global gradient norm before clipping.

        Raises:
            PeerError: another rank died meanwhile.
        """
        # DeepSpeed averages over the ranks; ours is a sum.
        grads = []
        for parameter in self._model.parameters():
            grad = parameter.grad if parameter.grad is not None else torch.zeros_like(parameter)
            grads.append(grad.contiguous().mul_(self._mesh.world_size * scale))
            parameter.grad = None
        with self._mesh.noticing("in the reduction of gradients"):
            self._reduce(grads)
            norm = self._norm_before_step()
            self._engine.step()
        self._share()
        return float(self._engine.get_global_grad_norm()) if norm is None else norm

    def skip(self) -> None:
        """Clear the gradients in place of a step; all ranks or none."""
        self._model.zero_grad()
        self.reduce_seconds = 0.0

    def _reduce(self, grads: list[Tensor]) -> None:
        product = self._engine(grads)
        grads.clear()
        began = self._now()
        self._engine.backward(product)
        self.reduce_seconds = self._now() - began if self._mesh.world_size > 1 else 0.0

    def _now(self) -> float:
        """In seconds, when the device has done what was asked of it."""
        if next(self._model.parameters()).is_cuda:
            torch.cuda.synchronize()
        return time.perf_counter()

    def _norm_before_step(self) -> float | None:
        """Stage 0 in fp32 reports no norm: take it from the reduced gradients."""
        if self._stage > 0:
            return None
        norms = [p.grad.norm() for p in self._engine.module.parameters() if p.grad is not None]
        return float(torch.stack(norms).norm())


def _deepspeed_config(stage: int, world_size: int, grad_clip: float) -> dict[str, Any]:
    """DeepSpeed's own configuration; GAS stays 1, since one backward is one step."""
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


def _import_deepspeed() -> Any:
    """Import DeepSpeed without its banner and without compiling anything."""
    os.environ.setdefault("DS_ACCELERATOR", "cuda" if torch.cuda.is_available() else "cpu")
    logging.getLogger("DeepSpeed").setLevel(logging.ERROR)
    with _quiet():
        import deepspeed
        import deepspeed.ops

    logging.getLogger("DeepSpeed").setLevel(logging.ERROR)
    # DeepSpeed calls collectives by names that torch is about to retire.
    warnings.filterwarnings("ignore", category=FutureWarning, module=r"torch\.distributed")
    # On a CPU it would compile a shared-memory all-reduce at first use; gloo does here.
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    deepspeed.init_distributed(dist_init_required=False, verbose=False)
    return deepspeed


@contextlib.contextmanager
def _quiet() -> Any:
    """Swallow what DeepSpeed prints; errors come as exceptions."""
    with contextlib.redirect_stdout(io.StringIO()):
        yield
