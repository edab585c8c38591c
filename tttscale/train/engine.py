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
import json
import logging
import math
import os
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from tttscale.comm.mesh import Mesh
from tttscale.errors import LaunchError, NumericsError
from tttscale.packages import needed

_UNBOUNDED = 10**12
"""Elements: larger than any model here."""
MOMENTS = ("exp_avg", "exp_avg_sq")
"""What AdamW keeps for every element, by torch's names."""
LARGEST_NORM = 1e19
"""Of a gradient. AdamW and ZeRO square it in fp32, which ends at 3.4e38: beyond, each stage would do
something else with it (one forgets the gradient, one leaves the step out, one clips it to zero)."""


@dataclass(frozen=True)
class Fragment:
    """Consecutive elements of one parameter, and AdamW's moments of them."""

    name: str
    """The parameter's."""
    start: int
    """First element in the flattened parameter."""
    moments: dict[str, Tensor]
    """By the names of `MOMENTS`: fp32 [elements], views of the optimizer's own."""


class _Place(NamedTuple):
    """Where the moments of elements of a parameter lie on this rank."""

    name: str
    start: int
    length: int
    """In elements."""
    key: Tensor
    """What AdamW steps: a parameter, or a flat partition of many."""
    offset: int
    """Of the first element in the flattened `key`."""


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
        deepspeed = _import_deepspeed(next(model.parameters()).device.type)
        self._model, self._mesh, self._stage = model, mesh, zero_stage
        module = _Parameters(model)
        _leave_dynamo_out(torch.optim.Optimizer)
        self._adamw = optimizer = torch.optim.AdamW(
            module.parameters(), lr=lr, betas=betas, eps=eps, weight_decay=weight_decay
        )
        with _quiet():
            self._engine, *_ = deepspeed.initialize(
                model=module,
                optimizer=optimizer,
                config=_deepspeed_config(zero_stage, mesh.world_size, grad_clip),
                dist_init_required=False,
            )
        self.comm_seconds = 0.0
        """Of the last step: from having all gradients to having their sums over the ranks, and from having
        this rank's share of the new parameters to having all of them."""
        self._updated_at = 0.0
        optimizer.register_step_post_hook(self._note_update)
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
            NumericsError: the norm is not finite, or above `LARGEST_NORM`; raised on all ranks, at every
                stage, before anything has changed.
            PeerError: another rank died meanwhile.
        """
        self.comm_seconds = 0.0
        # DeepSpeed averages over the ranks; ours is a sum.
        grads = []
        for parameter in self._model.parameters():
            grad = parameter.grad if parameter.grad is not None else torch.zeros_like(parameter)
            grads.append(grad.contiguous().mul_(self._mesh.world_size * scale))
            parameter.grad = None
        with self._mesh.noticing("in the reduction of gradients"):
            self._reduce(grads)
            norm = self._norm()
            if not norm <= LARGEST_NORM:  # nor is NaN
                raise NumericsError(self._what_is_wrong())
        with self._mesh.noticing("in the update of parameters"):
            self._engine.step()
            if self._stage > 0:  # the shares are gathered as soon as the last one is updated
                self._communicated_since(self._updated_at)
        self._share()
        return norm

    def skip(self) -> None:
        """Clear the gradients in place of a step; all ranks or none."""
        self._model.zero_grad()
        self.comm_seconds = 0.0

    def updates(self) -> int:
        """How many steps AdamW has made; skipped ones do not count."""
        states = iter(self._adamw.state.values())
        return int(next(states, {}).get("step", 0))

    def fragments(self) -> list[Fragment]:
        """This rank's share of the moments: over all ranks every element once; [] before the first step.

        Which elements depends on the ZeRO stage and on the number of ranks.
        """
        if self.updates() == 0:
            return []
        places = (self._own_share(place) for place in self._places())
        return [self._fragment(place) for place in places if place.length]

    def restore(self, updates: int, fill: Callable[[Fragment], None]) -> None:
        """Go on as if `updates` steps had been made; the model's weights are those after them already.

        Args:
            updates: as `updates` gave it.
            fill: called for all that this rank keeps, to write into its moments.
        """
        if updates == 0:
            return
        places = list(self._places())
        for key in {id(place.key): place.key for place in places}.values():
            moments = {name: torch.zeros_like(key.detach()) for name in MOMENTS}
            self._adamw.state[key] = {"step": torch.tensor(float(updates)), **moments}
        for place in places:
            fill(self._fragment(place))

    def _fragment(self, place: _Place) -> Fragment:
        state, end = self._adamw.state[place.key], place.offset + place.length
        views = {name: state[name].view(-1)[place.offset : end] for name in MOMENTS}
        return Fragment(place.name, place.start, views)

    def _places(self) -> Iterator[_Place]:
        """Of all moments on this rank."""
        names = [name for name, _ in self._model.named_parameters()]
        for name, parameter in zip(names, self._engine.module.values, strict=True):
            if self._stage == 0:
                yield _Place(name, 0, parameter.numel(), parameter, 0)
            elif self._stage < 3:
                yield from self._place_in_partition(name, parameter)
            else:
                yield from self._place_of_stage_3(name, parameter)

    def _place_in_partition(self, name: str, parameter: Any) -> Iterator[_Place]:
        """Stages 1 and 2 cut all parameters in a row into as many pieces as there are ranks."""
        mapping = parameter._hp_mapping
        if mapping is not None:
            theirs, ours = mapping.lp_fragment_address, mapping.hp_fragment_address
            key = self._engine.optimizer.single_partition_of_fp32_groups[mapping.param_group_index]
            yield _Place(name, theirs.start, theirs.numel, key, ours.start)

    def _place_of_stage_3(self, name: str, parameter: Any) -> Iterator[_Place]:
        """Stage 3 cuts each parameter, with padding behind the last rank's piece."""
        optimizer = self._engine.optimizer
        group, offset, size = optimizer.grad_position[optimizer.get_param_id(parameter)]
        start = size * self._mesh.rank
        length = min(size, parameter.ds_numel - start)
        if length > 0:
            yield _Place(name, start, length, optimizer.fp32_partitioned_groups_flat[group], offset)

    def _own_share(self, place: _Place) -> _Place:
        """At stage 0 all ranks have all of it, and each is answerable for its part."""
        if self._stage > 0:
            return place
        rank, world = self._mesh.rank, self._mesh.world_size
        start, end = (place.length * r // world for r in (rank, rank + 1))
        return place._replace(start=start, length=end - start, offset=start)

    def _reduce(self, grads: list[Tensor]) -> None:
        product = self._engine(grads)
        grads.clear()
        began = self._now()
        self._engine.backward(product)
        self._communicated_since(began)

    def _communicated_since(self, began: float) -> None:
        self._updated_at = self._now()
        if self._mesh.world_size > 1:
            self.comm_seconds += self._updated_at - began

    def _note_update(self, *_: Any) -> None:
        """Called by AdamW after each step of its own: one for every flat partition."""
        self._updated_at = self._now()

    def _now(self) -> float:
        """In seconds, when the device has done what was asked of it."""
        if next(self._model.parameters()).is_cuda:
            torch.cuda.synchronize()
        return time.perf_counter()

    def _reduced(self) -> list[tuple[nn.Parameter, Tensor]]:
        """Parameters and their reduced gradients, or parts of both: over all ranks each element once.

        Only between a reduction and the step: DeepSpeed lets go of them there.
        """
        if self._stage == 0:
            mine = list(self._engine.module.values)[self._mesh.rank :: self._mesh.world_size]
            return [(p, p.grad) for p in mine if p.grad is not None]
        optimizer = self._engine.optimizer
        kept = optimizer.fp16_groups if self._stage == 3 else optimizer.params_in_partition
        pairs = []
        for i, parameters in enumerate(kept):
            # Behind them the last rank has padding.
            pairs += zip(parameters, optimizer.averaged_gradients[i], strict=False)
        return pairs

    def _norm(self) -> float:
        """Of the reduced gradient; infinite where its square overflows fp32. Collective."""
        own = float(torch.nn.utils.get_total_norm([grad for _, grad in self._reduced()]))
        began = self._now()
        squares = self._mesh.gather([own**2])
        self._communicated_since(began)
        return math.sqrt(float(squares.sum()))

    def _what_is_wrong(self) -> str:
        """With a gradient that cannot be used, and in which parameter most. Collective."""
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
    """The largest absolute value; infinite if one is no number."""
    size = float(torch.linalg.vector_norm(grad, math.inf)) if grad.numel() else 0.0
    return size if math.isfinite(size) else math.inf


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


def _import_deepspeed(device_type: str = "cpu") -> Any:
    """Import DeepSpeed for the run's device, without its banner and without compiling anything."""
    _settle_accelerator(device_type)
    logging.getLogger("DeepSpeed").setLevel(logging.ERROR)
    remedy = "Install it anew: pip install --force-reinstall --no-deps deepspeed"
    loading = needed("deepspeed", "training", remedy, LaunchError)
    with _quiet(), _uncompiled(), loading:
        import deepspeed
        import deepspeed.ops

        # `initialize` asks whether the optimizer is Muon, and Muon's file wants to be compiled.
        with contextlib.suppress(ImportError):
            import deepspeed.runtime.zero.muon.muon_optimizer

    logging.getLogger("DeepSpeed").setLevel(logging.ERROR)
    # DeepSpeed calls collectives by names that torch is about to retire.
    warnings.filterwarnings("ignore", category=FutureWarning, module=r"torch\.distributed")
    # On a CPU it would compile a shared-memory all-reduce at first use; gloo does here.
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    deepspeed.init_distributed(dist_init_required=False, verbose=False)
    return deepspeed


def _settle_accelerator(device_type: str) -> None:
    """Tell DeepSpeed where the run computes, before it asks the machine what there is.

    A host may have a GPU that the run does not use.
    """
    os.environ["DS_ACCELERATOR"] = device_type
    known: Any = sys.modules.get("deepspeed.accelerator.real_accelerator")
    if known is None or known.ds_accelerator is None:
        return
    if known.ds_accelerator.device_name() != device_type:
        known.ds_accelerator = None  # it was imported for another device before
        known.get_accelerator()


def _leave_dynamo_out(optimizer: type[torch.optim.Optimizer]) -> None:
    """Let an optimizer's methods run without torch's compiler, which would only be told to leave them alone.

    On its first call each of them imports all of the compiler for that, a second of a process's start, and
    keeps what comes of it as the function's `__dynamo_disable`: here the function itself.
    """
    for name in ("add_param_group", "zero_grad", "state_dict", "load_state_dict"):
        plain = getattr(getattr(optimizer, name), "__wrapped__", None)
        if plain is not None and not hasattr(plain, "__dynamo_disable"):
            setattr(plain, "__dynamo_disable", plain)


@contextlib.contextmanager
def _uncompiled() -> Iterator[None]:
    """What is decorated with torch.compile inside stays as it stands: nothing of it is ever called here.

    Only to decorate it, torch would import its whole compiler, a second of each process's start.
    """
    plain = torch.compile

    def as_it_stands(function: Any = None, **_: Any) -> Any:
        return as_it_stands if function is None else function

    torch.compile = as_it_stands  # pyright: ignore[reportAttributeAccessIssue]
    try:
        yield
    finally:
        torch.compile = plain


@contextlib.contextmanager
def _quiet() -> Any:
    """Swallow what DeepSpeed prints; errors come as exceptions."""
    with contextlib.redirect_stdout(io.StringIO()):
        yield
