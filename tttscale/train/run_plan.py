"""The plan beside the run: told at its start, compared after some steps, and heeded if memory is short.

Nothing here may end a run but memory that will not suffice: whatever else fails is said in the plan's line.
Memory and time are predicted apart: a fault in one of them leaves the other as it is.
"""

import math
from dataclasses import dataclass

import psutil
import torch

from tttscale.comm.mesh import Mesh
from tttscale.config import Config
from tttscale.errors import ConfigError, LaunchError
from tttscale.observe import human
from tttscale.plan.chosen_costs import MEASURED, chosen_costs
from tttscale.plan.costs import Costs, StepCosts, Wire, assumed
from tttscale.plan.devices import known_device
from tttscale.plan.memory import Machine, MemoryPlan
from tttscale.plan.options import AUTO_SHARE, Choice, Model
from tttscale.plan.search import choice_of, smallest_change, with_kept
from tttscale.train.build import wants_compile
from tttscale.train.memory import available_bytes

COMPARED_STEPS = 3
"""After so many steps the run is compared with its plan."""
_SURE = 0.9
"""A run is refused if this share of what it is predicted to need is not there: predictions are not exact."""


@dataclass(frozen=True)
class Room:
    """Memory of a rank, in bytes."""

    taken: int
    """What it has already."""
    free: int
    """What it may still take."""

    @classmethod
    def of(cls, device: torch.device, local_ranks: int) -> "Room":
        """Ask the device, or the host and its control groups, of which each local rank has its share."""
        if device.type == "cuda":
            free, whole = torch.cuda.mem_get_info(device)
            cached = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
            return cls(whole - free - cached, free + cached)
        return cls(psutil.Process().memory_info().rss, available_bytes() // local_ranks)


@dataclass(frozen=True)
class _Prediction:
    model: Model
    choice: Choice
    """As configured; with `keep_chunks: auto` as many chunks as it will keep."""
    memory: MemoryPlan
    needed: MemoryPlan
    """With no more than one chunk that is kept because there is room."""


class RunPlan:
    """What the planner says of a run that is built and has not begun."""

    def __init__(
        self,
        config: Config,
        mesh: Mesh,
        device: torch.device,
        local_ranks: int,
        room: Room | None = None,
    ) -> None:
        """Plan it.

        Args:
            config: of the run.
            mesh: all ranks.
            device: of this rank.
            local_ranks: ranks of this host.
            room: memory of this rank; None: as it is now.
        """
        self._config, self._mesh, self._device = config, mesh, device
        self._local_ranks, self._seconds = local_ranks, list[float]()
        self.room = room or Room.of(device, local_ranks)
        self._costs, self._bad_costs = self._known_costs()
        self._found: _Prediction | str
        try:
            self._found = self._predicted()
        except Exception as error:  # layers may raise anything
            self._found = f"{type(error).__name__}: {error}"
        self._expected = self._expected_seconds()

    def _predicted(self) -> _Prediction:
        """Predict memory; it needs no costs, which only put changes in order."""
        config, world, on_gpu = self._config, self._mesh.world_size, self._device.type == "cuda"
        ordering = self._costs or _ordering(config, on_gpu)
        machine = Machine(on_gpu, on_gpu, wants_compile(config, self._device))
        limit = self.room.taken + self.room.free
        model = Model(config, ordering, machine, limit, None, self._local_ranks)
        asked = config.parallel.keep_chunks
        choice = choice_of(config, 1 if asked == "auto" else asked)
        needed = model.memory(choice, world)
        if asked == "auto":
            choice = with_kept(model, choice, world, AUTO_SHARE)
        return _Prediction(model, choice, model.memory(choice, world), needed)

    def _expected_seconds(self) -> float | str:
        """Predict a step's time, or return why it is unknown."""
        if isinstance(self._found, str) or self._costs is None:
            return self._bad_costs or "no costs.json of this model, and no known GPU"
        try:
            option = self._found.model.price(self._found.choice, self._mesh.world_size)
        except Exception as error:  # numbers of a file may be anything
            return f"it failed: {_one_line(error)}"
        return option.step_seconds

    def _known_costs(self) -> tuple[Costs | None, str]:
        """Return costs and why the working folder's are not used.

        They are those measured in the working folder, if they fit this run, or assumed of a known GPU.
        """
        bad = ""
        if MEASURED.is_file():
            try:
                return chosen_costs("measured", None, self._config), bad
            except Exception as error:  # a file of another model, or not one of costs at all
                bad = f"{MEASURED} is not used: {_one_line(error)}"
        if self._device.type == "cpu":
            return None, bad
        known = known_device(torch.cuda.get_device_name(self._device))
        try:
            return None if known is None else assumed(known.name, self._config), bad
        except Exception as error:
            return None, bad or f"nothing can be assumed: {_one_line(error)}"

    def line(self) -> str:
        """Return what is predicted, for the console."""
        found, time = self._found, f"step time unknown ({self._expected})"
        if isinstance(found, str):
            return f"plan: none, as it failed ({found})"
        if isinstance(self._expected, float):
            assert self._costs is not None
            rests = "measured" if self._costs.source.startswith("measured") else "assumed"
            why = f" ({self._bad_costs})" if self._bad_costs else ""
            time = f"{self._expected:.3g} s a step by {rests} costs{why}"
        if found.memory.unknown:
            return f"plan: {time}; peak memory unknown ({found.memory.unknown[0]})"
        kept = f" with {found.choice.kept:.4g} kept chunks" if found.choice.kept > 1 else ""
        return (
            f"plan: {time}; peak memory {_size(found.memory.peak)} a rank{kept}, "
            f"{_size(self.room.taken + self.room.free)} are there"
        )

    def check(self) -> str | None:
        """Refuse a run whose memory will not suffice; every rank calls this.

        Returns:
            A warning, if `train.ignore_memory` is set.

        Raises:
            LaunchError: on all ranks, if one of them has too little.
        """
        found, room = self._found, self.room
        known = isinstance(found, _Prediction) and not found.needed.unknown
        more = max(0, _at_least(found.needed) - room.taken) if known else 0  # type: ignore[union-attr]
        rows = self._mesh.gather([float(more), float(room.free)])
        short = [rank for rank, (need, free) in enumerate(rows.tolist()) if need * _SURE > free]
        if not short:
            return None
        need, free = rows[short[0]].tolist()
        text = f"memory: rank {short[0]} is predicted to need {_size(need)} more and has {_size(free)} free"
        if self._config.train.ignore_memory:
            return f"WARNING: {text}; it starts, as train.ignore_memory is set"
        raise LaunchError(
            f"{text}. {self._advice()}train.ignore_memory=true starts it as it is; `tttscale plan` shows "
            "what takes how much."
        )

    def _advice(self) -> str:
        found = self._found
        if isinstance(found, str):  # another rank is short
            return ""
        choice = choice_of(self._config, found.choice.kept)
        try:
            at_least = found.model.price(choice, self._mesh.world_size)
            change = smallest_change(found.model, at_least)
        except Exception:  # costs that cannot be computed with; the line has said so
            return ""
        if change is None:
            return "No shorter chunks, more sequence ranks or higher stage of ZeRO would fit. "
        keys, option = change
        return f"The smallest change that fits: {' '.join(keys)} ({_size(option.memory.peak)} a rank). "

    def compared(self, record: dict[str, float], kept: float) -> str | None:
        """Take a step's record; after the third say what came of the plan.

        Args:
            record: of the step, for metrics.jsonl.
            kept: chunks of a rank that keep their activations.

        Returns:
            A line for the console, once.
        """
        self._seconds.append(record["step_seconds"])
        if len(self._seconds) != COMPARED_STEPS or isinstance(self._found, str):
            return None
        found, parts = self._found, []
        seconds = min(self._seconds[1:])  # the first one also makes room and loads libraries
        if isinstance(self._expected, float):
            texts = f"{self._expected:.3g} s", f"{seconds:.3g} s"
            parts.append(_beside(self._expected, seconds, *texts))
        if not found.memory.unknown:
            choice = choice_of(self._config, kept)
            predicted = found.model.memory(choice, self._mesh.world_size)
            # A GPU's measured peak is what torch has allocated.
            expected = predicted.peak if self._device.type == "cpu" else predicted.tensors_peak
            if not self._has_saved(record):
                expected -= predicted.checkpoint_copy
            peak = record["peak_memory_bytes"]
            parts.append(_beside(expected, peak, _size(expected), _size(peak)))
        return f"plan after {COMPARED_STEPS} steps: {'; '.join(parts)}" if parts else None

    def _has_saved(self, record: dict[str, float]) -> bool:
        """Return whether a checkpoint was due before the last of the compared steps."""
        every = self._config.checkpoint.every
        return every > 0 and any(
            (record["step"] - n) % every == 0 for n in range(1, COMPARED_STEPS)
        )


def _at_least(needed: MemoryPlan) -> int:
    """Return the peak of a rank that saves without a copy."""
    return needed.peak - needed.checkpoint_copy


def _ordering(config: Config, on_gpu: bool) -> Costs:
    """Return costs that only put changes in order; empty ones if nothing can be assumed of a layer."""
    try:
        return assumed("h200" if on_gpu else "cpu", config)
    except Exception:
        free = Wire(0.0, math.inf)
        return Costs("none", (), {}, {}, free, free, StepCosts(free, free, 0.0, 0.0))


def _beside(expected: float, measured: float, one: str, other: str) -> str:
    return f"{one} predicted, {other} measured ({expected / measured:.2f} of it)"


def _one_line(error: Exception) -> str:
    kind = "" if isinstance(error, ConfigError) else f"{type(error).__name__}: "
    return kind + " ".join(str(error).split())


def _size(size: float) -> str:
    return f"{human(size, 1024)}B"
