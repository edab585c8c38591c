"""One way to run a configuration on a number of GPUs: its time and its memory."""

from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, NamedTuple

from tttscale.config import Config
from tttscale.errors import ConfigError
from tttscale.plan.carries import Carries
from tttscale.plan.costs import Costs
from tttscale.plan.devices import Device
from tttscale.plan.memory import Machine, MemoryPlan, memory_plan, parameters_of
from tttscale.plan.rates import flops_per_token
from tttscale.plan.simulate import simulate
from tttscale.scan.layout import Kind, Layout
from tttscale.scan.schedule import Schedule
from tttscale.scan.timeline import Activity, Run

FREE_SHARE = 0.95
"""The share of a GPU's memory that may be planned; the rest is left to fragmentation."""
AUTO_SHARE = 0.5
"""The share of the free memory that `parallel.keep_chunks=auto` takes."""
_LAYER = (Activity.PROJECT, Activity.ADVANCE, Activity.READOUT, Activity.FINISH)
_MOST_LAYERS: dict[Kind, int] = {"striped": 6000, "contiguous": 1500}
"""Layers of chunks in one simulation (some 50 ms); longer sweeps are continued from two shorter ones."""
_MOST_SEQUENCES = 16
"""Sequences in one simulation of a long sweep."""
_LEAST_ROUNDS = 4
"""Chunks of a rank in a sequence that is shortened, at the least."""


@dataclass(frozen=True)
class Choice:
    """What a planner may choose."""

    sequence: int
    """parallel.sequence."""
    chunk_length: int
    layout: Kind
    kept: float
    """parallel.keep_chunks; a fraction is of one more chunk's layers."""
    stage: int
    """zero.stage."""

    def keys(self, before: "Choice") -> list[str]:
        """The overrides that lead here from another choice, without `keep_chunks`."""
        names = {
            "sequence": "parallel.sequence",
            "chunk_length": "parallel.chunk_length",
            "layout": "parallel.layout",
            "stage": "zero.stage",
        }
        return [
            f"{key}={getattr(self, name)}"
            for name, key in names.items()
            if getattr(self, name) != getattr(before, name)
        ]


@dataclass(frozen=True)
class Option:
    """A choice, and what it takes."""

    choice: Choice
    world: int
    replicas: int
    memory: MemoryPlan
    limit_bytes: int
    """Memory of a rank that may be planned."""
    step_seconds: float
    sweep_seconds: float
    parts: dict[str, float]
    """Seconds of reduction, optimizer, gathering and the rest."""
    sweeps_idle_fraction: float
    """The share of the sweeps in which ranks do not compute, messages included; a mean over the ranks.

    Not the `bubble_fraction` of a record, which is a share of the whole step."""
    exposed_messages_seconds: float
    """Seconds in which carries and their gradients hold up a rank; a mean over the ranks.

    Not the `exposed_comm_seconds` of a record, which has the waits for a rank that is behind and the
    reduction as well."""
    tokens_per_second: float
    mfu: float | None
    useful_ranks: int
    """Work of a sequence divided by its serial chain: more ranks would only wait."""
    own_chunks: int

    @property
    def fits(self) -> bool:
        """Whether memory suffices."""
        return self.memory.peak <= self.limit_bytes

    def json(self) -> dict[str, Any]:
        """Everything, for programs."""
        return {
            "parallel.sequence": self.choice.sequence,
            "parallel.chunk_length": self.choice.chunk_length,
            "parallel.layout": self.choice.layout,
            "parallel.keep_chunks": self.choice.kept,
            "zero.stage": self.choice.stage,
            "ranks": self.world,
            "replicas": self.replicas,
            "fits": self.fits,
            "limit_bytes": self.limit_bytes,
            "memory": self.memory.json(),
            "step_seconds": self.step_seconds,
            "sweep_seconds": self.sweep_seconds,
            "seconds": self.parts,
            "tokens_per_second": self.tokens_per_second,
            "mfu": self.mfu,
            "sweeps_idle_fraction": self.sweeps_idle_fraction,
            "exposed_messages_seconds": self.exposed_messages_seconds,
            "largest_useful_sequence_ranks": self.useful_ranks,
        }


class _Sweep(NamedTuple):
    """The sweeps of one replica, in seconds."""

    seconds: float
    busy: float
    """Compute of all ranks."""
    exposed: float
    """In which messages hold up a rank; a mean."""
    chain: float
    """The serial chain of a sequence."""

    def towards(self, other: "_Sweep", share: float) -> "_Sweep":
        """A point on the line from here to another."""
        return _Sweep(*(a + (b - a) * share for a, b in zip(self, other, strict=True)))


@dataclass
class Model:
    """A configuration, and all that is needed to price a choice for it."""

    config: Config
    costs: Costs
    machine: Machine
    limit_bytes: int
    peak_flops: float | None
    ranks_per_host: int
    _sweeps: dict[tuple[Layout, float], _Sweep] = field(default_factory=dict)
    _works: dict[int, "_Work"] = field(default_factory=dict)

    @cached_property
    def carries(self) -> Carries:
        """Carries at the configuration's chunk length.

        Parts whose size depends on that length are as long in all choices.
        """
        return Carries(self.config)

    @cached_property
    def parameters(self) -> int:
        """Numbers of the model."""
        return parameters_of(self.carries, self.config)

    def configured(self, choice: Choice) -> Config:
        """The configuration with a choice's keys."""
        parallel = {
            "sequence": choice.sequence,
            "chunk_length": choice.chunk_length,
            "layout": choice.layout,
            "keep_chunks": choice.kept,
        }
        changed = {
            "parallel": self.config.parallel.model_copy(update=parallel),
            "zero": self.config.zero.model_copy(update={"stage": choice.stage}),
        }
        return self.config.model_copy(update=changed)

    def memory(self, choice: Choice, world: int) -> MemoryPlan:
        """Plan the memory of the rank that needs most."""
        config = self.configured(choice)
        return memory_plan(config, world, self.machine, self.carries, choice.kept)

    def layout(self, choice: Choice, world: int) -> Layout:
        """Return how one replica's sequences of a step are laid out."""
        share = self.config.train.sequences_per_step // (world // choice.sequence)
        places = max(1, share // self.config.parallel.batch)
        length = self.config.data.sequence_length
        return Layout(choice.layout, length, choice.chunk_length, choice.sequence, places)

    def price(self, choice: Choice, world: int) -> Option:
        """Simulate a choice."""
        layout = self.layout(choice, world)
        own = -(-layout.chunks // choice.sequence) * layout.sequences
        sweep = self._sweep(layout, min(choice.kept, own))
        parts = self.costs.step_seconds.seconds(self.parameters, world, choice.stage)
        step = sweep.seconds + sum(parts.values())
        tokens = self.config.train.sequences_per_step * layout.length_tokens
        of_token, mfu = flops_per_token(self.config), None
        if self.peak_flops is not None and of_token is not None:
            mfu = of_token * tokens / step / (world * self.peak_flops)
        return Option(
            choice=choice,
            world=world,
            replicas=world // choice.sequence,
            memory=self.memory(choice, world),
            limit_bytes=self.limit_bytes,
            step_seconds=step,
            sweep_seconds=sweep.seconds,
            parts=parts,
            sweeps_idle_fraction=max(0.0, 1 - sweep.busy / (choice.sequence * sweep.seconds)),
            exposed_messages_seconds=sweep.exposed,
            tokens_per_second=tokens / step,
            mfu=mfu,
            useful_ranks=_useful_ranks(layout, sweep),
            own_chunks=own,
        )

    def estimate(self, choice: Choice, world: int) -> float:
        """Seconds of a step from sums alone: the work divided evenly or the serial chain, and the ramp."""
        layout = self.layout(choice, world)
        if choice.chunk_length not in self._works:
            self._works[choice.chunk_length] = _work(self.costs, choice.chunk_length)
        work = self._works[choice.chunk_length]
        own = -(-layout.chunks // layout.ranks) * layout.sequences
        again = max(0, own - choice.kept) * work.again
        # The wave reaches the last rank, and comes back, one advance a hop.
        even = own * (work.through + work.head) + again + (layout.ranks - 1) * work.chain
        chain = layout.chunks * work.chain + work.through
        others = self.costs.step_seconds.seconds(self.parameters, world, choice.stage)
        return max(even, chain) + sum(others.values())

    def _sweep(self, layout: Layout, kept: float) -> _Sweep:
        """Return the sweeps of one replica whose ranks each keep so many chunks."""
        if (layout, kept) not in self._sweeps:
            self._sweeps[layout, kept] = self._shortened(layout, kept)
        return self._sweeps[layout, kept]

    def _shortened(self, layout: Layout, kept: float) -> _Sweep:
        """Simulate; a long sweep is continued from shorter ones, as each round of chunks takes as long."""
        layers = self.config.architecture().num_hidden_layers
        most = _MOST_LAYERS[layout.kind]
        if layout.chunks * layers * layout.sequences <= most:
            return self._run(layout, kept)
        if layout.sequences > _MOST_SEQUENCES:
            less, more = _MOST_SEQUENCES // 2, _MOST_SEQUENCES
            few = [replace(layout, sequences=count) for count in (less, more)]
            short, long = (self._sweep(one, _kept_of(layout, kept, one)) for one in few)
            return short.towards(long, (layout.sequences - less) / (more - less))
        rounds = layout.chunks // layout.ranks
        less, more = _shorter(rounds, most // (layout.ranks * layers * layout.sequences))
        if more >= rounds:  # short already
            return self._run(layout, kept)
        few = [_without_rounds(layout, rounds - count) for count in (less, more)]
        short, long = (self._run(one, _kept_of(layout, kept, one)) for one in few)
        return short.towards(long, (rounds - less) / (more - less))

    def _run(self, layout: Layout, kept: float) -> _Sweep:
        found = simulate(
            Schedule(layout, self.carries.parts),
            self.carries.bytes,
            self.costs,
            kept=kept,
            ranks_per_host=self.ranks_per_host,
        )
        exposed = sum(found.exposed_seconds) / layout.ranks
        return _Sweep(found.seconds, sum(found.busy_seconds), exposed, found.chain_seconds)


class _Work(NamedTuple):
    """Seconds of one chunk."""

    through: float
    """All layers forward and back, without what is computed again."""
    again: float
    """Forward once more."""
    head: float
    chain: float
    """Advance of the slowest layer, there and back."""


def _work(costs: Costs, chunk: int) -> _Work:
    layers = range(len(costs.kinds))

    def layer_seconds(run: Run) -> float:
        return sum(costs.seconds(run, a, chunk, layer) for layer in layers for a in _LAYER)

    def chain_seconds(layer: int) -> float:
        runs = (Run.FORWARD, Run.BACKWARD)
        return sum(costs.seconds(run, Activity.ADVANCE, chunk, layer) for run in runs)

    return _Work(
        layer_seconds(Run.FORWARD) + layer_seconds(Run.BACKWARD),
        layer_seconds(Run.RECOMPUTE),
        costs.seconds(Run.FORWARD, Activity.HEAD, chunk, 0),
        max(map(chain_seconds, layers)),
    )


def _useful_ranks(layout: Layout, sweep: _Sweep) -> int:
    """So many ranks' share of a sequence's work takes as long as its serial chain."""
    work = sweep.busy / layout.sequences
    return min(layout.chunks, max(1, int(work / sweep.chain))) if sweep.chain else layout.chunks


def _shorter(rounds: int, affordable: int) -> tuple[int, int]:
    """Return two numbers of rounds to continue from."""
    more = min(max(affordable, _LEAST_ROUNDS), rounds)
    return more // 2, more


def _own(layout: Layout) -> int:
    """Count the chunks of the rank that has most, in all sequences."""
    return -(-layout.chunks // layout.ranks) * layout.sequences


def _kept_of(layout: Layout, kept: float, shorter: Layout) -> float:
    """Return how many chunks a shorter sweep keeps: the same share of those after the first."""
    own, fewer = _own(layout), _own(shorter)
    return kept if kept <= 1 else 1 + (kept - 1) * (fewer - 1) / (own - 1)


def _without_rounds(layout: Layout, rounds: int) -> Layout:
    """Shorten a sequence by so many chunks of each rank; what is left over of the last round stays."""
    length = layout.length_tokens - rounds * layout.ranks * layout.chunk_tokens
    return replace(layout, length_tokens=length)


def check_split(config: Config, nodes: int, per_node: int) -> None:
    """Check that the configuration can be split over so many ranks.

    Raises:
        ConfigError: it cannot; the message names the keys.
    """
    world, ranks, batch = nodes * per_node, config.parallel.sequence, config.parallel.batch
    asked = config.train.sequences_per_step
    where = f"--nodes {nodes} x --gpus-per-node {per_node} = {world} ranks"
    possible = [
        r for r in range(1, world + 1) if not world % r and not asked % (world // r * batch)
    ]
    hint = (
        f"Set parallel.sequence to one of {', '.join(map(str, possible))}"
        if possible
        else f"Set train.sequences_per_step={batch}, or a multiple of it"
    )
    if world % ranks:
        raise ConfigError(
            f"{where} cannot be divided into replicas of parallel.sequence = {ranks}. {hint}, or plan for "
            "other nodes."
        )
    replicas = world // ranks
    if asked % (replicas * batch):
        raise ConfigError(
            f"{where} are {replicas} replicas of parallel.sequence = {ranks}, and train.sequences_per_step = "
            f"{asked} is not a multiple of {replicas} x parallel.batch {batch}. {hint}, or "
            f"train.sequences_per_step={-(-asked // (replicas * batch)) * replicas * batch}."
        )


def limit_of(device: Device | None, host_bytes: int, per_node: int) -> int:
    """Memory of a rank that may be planned: of its GPU, or its share of the host's."""
    if device is not None:
        return int(device.memory_bytes * FREE_SHARE)
    return int(host_bytes * FREE_SHARE / per_node)
