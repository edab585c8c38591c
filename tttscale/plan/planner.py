"""`tttscale plan`: what a configuration takes on a number of GPUs, and what would be better."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import psutil

from tttscale.config import Config
from tttscale.plan.chosen_costs import chosen_costs
from tttscale.plan.costs import Costs
from tttscale.plan.devices import DEVICES, Device, known_device
from tttscale.plan.flops import SweepFlops, sweep_flops
from tttscale.plan.memory import Machine
from tttscale.plan.options import Choice, Model, Option, check_split, limit_of
from tttscale.plan.rates import peak_flops
from tttscale.plan.search import (
    asked_option,
    best_option,
    chunk_lengths,
    neighbours,
    smallest_change,
    splits,
)

_NODES = (1, 2, 4, 8)
"""Numbers of nodes in the table, beside the one asked for."""
_CONTEXTS = (0.25, 1, 4)
"""Contexts in the plot, in the configured one's length."""
_MOST_RANKS = 256


@dataclass(frozen=True)
class Target:
    """What is planned for."""

    nodes: int
    per_node: int
    gpu: str
    """Name that `--gpu` takes."""
    device: Device | None
    """None for a CPU."""
    host_bytes: int
    """Memory of a CPU host."""

    @property
    def world(self) -> int:
        """Ranks."""
        return self.nodes * self.per_node

    @property
    def limit_bytes(self) -> int:
        """Memory of a rank that may be planned."""
        return limit_of(self.device, self.host_bytes, self.per_node)


@dataclass(frozen=True)
class Plan:
    """What came of it."""

    config: Config
    target: Target
    costs: Costs
    model: Model
    """What prices choices."""
    asked: Option
    flops: SweepFlops
    """FLOPs of one replica's step, as it is configured."""
    best: Option | None
    """None if nothing fits."""
    change: tuple[list[str], Option] | None
    """If the configuration does not fit: the smallest change that does."""
    alternatives: list[tuple[str, Option]]
    """One key away, by what they take."""
    nodes: list[tuple[int, Option | None]]
    """The best choice on each number of nodes; None where nothing fits, or the step cannot be divided."""

    def json(self) -> dict[str, Any]:
        """Everything, for programs."""
        change = None
        if self.change is not None:
            change = {"overrides": self.change[0], **self.change[1].json()}
        return {
            "run": self.config.run.name,
            "nodes": self.target.nodes,
            "gpus_per_node": self.target.per_node,
            "gpu": self.target.gpu,
            "costs": self.costs.source,
            "parameters": self.model.parameters,
            "model_flops_per_token": None if self.flops.unknown else self.flops.model_per_token,
            "hardware_flops_per_token": None
            if self.flops.unknown
            else self.flops.hardware_per_token,
            "asked": self.asked.json(),
            "smallest_change": change,
            "best": None if self.best is None else self.best.json(),
            "alternatives": [{"override": key, **o.json()} for key, o in self.alternatives],
            "by_nodes": [{"nodes": n, "best": o and o.json()} for n, o in self.nodes],
        }


def target_of(nodes: int, per_node: int, gpu: str, costs: Costs) -> Target:
    """What `--nodes`, `--gpus-per-node` and `--gpu` mean."""
    name = str(costs.facts.get("device", gpu))  # where costs were measured
    device = DEVICES.get(name.lower()) or known_device(name)
    return Target(nodes, per_node, name, device, psutil.virtual_memory().total)


def model_of(config: Config, costs: Costs, target: Target) -> Model:
    """What prices the choices of a configuration."""
    peak = peak_flops(config, "cpu")  # what the configuration says of an unknown device
    if peak is None and target.device is not None:
        peak = target.device.peak_flops(config.train.precision)
    machine = Machine.of(config, target.device is not None)
    return Model(config, costs, machine, target.limit_bytes, peak, target.per_node)


def plan(config: Config, nodes: int, per_node: int, gpu: str, costs_file: Path | None) -> Plan:
    """Plan a run.

    Args:
        config: of the run.
        nodes: hosts.
        per_node: GPUs, and so ranks, of each.
        gpu: a name in `gpus.GPUS`, or "measured".
        costs_file: costs that were measured; None: assumed ones.

    Raises:
        ConfigError: the run cannot be split over so many ranks, the GPU is unknown, or the file does not fit.
        MixerError: a layer cannot be made.
    """
    check_split(config, nodes, per_node)
    costs = chosen_costs(gpu, costs_file, config)
    target = target_of(nodes, per_node, gpu, costs)
    model = model_of(config, costs, target)
    asked = asked_option(model, target.world)
    change = None if asked.fits else smallest_change(model, asked)
    around = sorted(neighbours(model, asked), key=lambda pair: pair[1].step_seconds)
    best = best_option(model, target.world, asked)
    return Plan(
        config=config,
        target=target,
        costs=costs,
        model=model,
        asked=asked,
        flops=sweep_flops(
            config.architecture(), model.layout(asked.choice, target.world), asked.choice.kept
        ),
        best=best,
        change=change,
        alternatives=around,
        nodes=[(n, best if n == nodes else _on_nodes(model, n)) for n in _numbers(nodes)],
    )


def _numbers(nodes: int) -> list[int]:
    return sorted({*(n for n in _NODES if n <= 4 * nodes), nodes, 2 * nodes})


def _on_nodes(model: Model, nodes: int) -> Option | None:
    world = nodes * model.ranks_per_host
    return best_option(model, world, priced=2) if splits(model.config, world) else None


def times_by_ranks(model: Model) -> dict[int, list[tuple[int, float]]]:
    """Seconds of one sequence's sweeps by context and by ranks, each with the best chunk length."""
    found: dict[int, list[tuple[int, float]]] = {}
    for factor in _CONTEXTS:
        tokens = round(model.config.data.sequence_length * factor)
        section = model.config.data.model_copy(update={"sequence_length": tokens})
        train = model.config.train.model_copy(
            update={"sequences_per_step": model.config.parallel.batch}
        )
        config = model.config.model_copy(update={"data": section, "train": train})
        other = replace(model, config=config, _sweeps={}, _works={})
        ranks, points = 1, []
        while ranks <= _MOST_RANKS:
            best = _fastest(other, ranks)
            if best is None:
                break
            points.append((ranks, best))
            ranks *= 2
        found[tokens] = points
    return found


def _fastest(model: Model, ranks: int) -> float | None:
    choices = [
        Choice(ranks, chunk, "striped", 1, 1) for chunk in chunk_lengths(model.config, ranks)
    ]
    likely = min(choices, key=lambda choice: model.estimate(choice, ranks), default=None)
    return None if likely is None else model.price(likely, ranks).sweep_seconds
