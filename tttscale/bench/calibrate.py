"""`tttscale bench step --calibrate`: what a model's activities cost on this machine, for `--gpu measured`.

The real sweeps run on one rank. Once every neighbour is another rank, which is imitated: messages are there
at once, so nothing is waited for, but a scan's phases run as they do when a peer waits. Once the rank is
alone. On one CPU thread the thread's own CPU time is taken, which other programs hardly change; else the
clock's.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch

from tttscale.bench import report
from tttscale.bench.companions import Companions
from tttscale.bench.cost_fit import Fit, Samples, fit
from tttscale.cluster.ranks import discover
from tttscale.comm.messages import message
from tttscale.config import Config
from tttscale.errors import ConfigError
from tttscale.files import write_text
from tttscale.model import TTTForCausalLM
from tttscale.model.ports import Carried, Part
from tttscale.model.registry import names_of
from tttscale.observe.spans import Span
from tttscale.observe.timeline import Held
from tttscale.plan.chosen_costs import what_costs_depend_on
from tttscale.plan.costs import Costs, Line, StepCosts, Wire
from tttscale.plan.gpus import GPUS
from tttscale.plan.rehearse import Tokens
from tttscale.scan.keep_policy import ActivationPolicy
from tttscale.scan.layout import Layout
from tttscale.scan.noted_transport import NotedTransport
from tttscale.scan.schedule import CarryKey
from tttscale.scan.sweep import Sweeps
from tttscale.train import build
from tttscale.train.engine import Engine
from tttscale.writable import check_file, writing

_CHUNKS = 7
"""Chunks of a sequence on two ranks: this one has four, and two of them have neighbours on both sides."""
_ALONE_CHUNKS = 3


def calibrate(config: Config, out: Path, repeats: int, at_once: int = 1) -> str:
    """Measure, write OUT, and return a table.

    Args:
        config: of the run; its model, precision, batch, threads and chunk length count, and not its data.
        out: file that `--costs` and `--gpu measured` read.
        repeats: steps at each of three chunk lengths.
        at_once: ranks of this host that compute at the same time; on CPUs they slow each other.

    Raises:
        ConfigError: the chunk length cannot be halved twice, the file cannot be written, or several ranks
            at once were asked for on a GPU.
    """
    lengths = _lengths(config)
    check_file(out, "--costs")
    ranks = discover({})
    device = build.choose_device(config, ranks)
    if at_once > 1 and device.type != "cpu":
        raise ConfigError(f"--at-once {at_once}: GPUs compute side by side; leave it out")
    config = alone(config)
    build.prepare_host(config, ranks, device)
    mesh = build.connect(config, ranks, device)
    build.choose_products(mesh, device, None)
    try:
        model = build.build_model(config, device)
        machine = Machine(config, model, device)
        samples = Samples()
        with Companions(config, lengths[0], at_once - 1):
            machine.sweep(
                lengths, Samples()
            )  # the first time memory is new, and some things are made
            for _ in range(repeats):
                machine.sweep(lengths, samples)
        step = machine.step(build.build_engine(config, model, mesh), repeats)
    finally:
        mesh.close()
    found = fit(samples)
    costs = costs_of(config, found, samples, step, machine, lengths, at_once)
    with writing(out, "--costs"):
        write_text(out, costs.to_json())
    return f"{_table(found, lengths)}\n\n{costs.source}\n{out}"


def _lengths(config: Config) -> list[int]:
    """The run's chunk length, a half and a quarter of it, as far as they are multiples of the mini-batch."""
    unit, chunk = config.alignment, min(config.parallel.chunk_length, config.data.sequence_length)
    lengths = sorted(
        {max(unit, chunk // share // unit * unit) for share in (1, 2, 4)}, reverse=True
    )
    if len(lengths) < 2:
        raise ConfigError(
            f"parallel.chunk_length = {chunk} is one mini-batch of {unit} tokens, and costs are measured at "
            "several lengths; set it to 4 mini-batches or more"
        )
    return lengths


def alone(config: Config) -> Config:
    """Return the configuration as a job of one process."""
    parallel = config.parallel.model_copy(update={"sequence": 1, "transport": "torch"})
    return config.model_copy(update={"parallel": parallel})


class _Stopwatch:
    """A timeline (`scan.timeline.Timeline`) on a clock of one's choice."""

    traces = True

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._marks: list[tuple[Any, ...]] = []

    def begin(
        self, activity: str, run: Any = None, task: Any = None, layer: int = -1, part: str = ""
    ) -> None:
        """Note when an activity begins."""
        self._marks.append((self._clock(), activity, run, task, layer, part))

    def note_read(self, began: float, ended: float, sequence: int, chunk: int) -> None:
        """Reads are made by another thread."""

    def take(self) -> Held:
        """Sums are not needed."""
        return Held()

    def take_spans(self) -> list[Span]:
        """Everything since this was last called."""
        marks, self._marks = [*self._marks, (self._clock(), "other", None, None, -1, "")], []
        spans = []
        for (began, activity, run, task, layer, part), after in pairwise(marks):
            place = (-1, -1) if task is None else (task.sequence, task.chunk)
            spans.append(Span(began, after[0], str(activity), str(run or ""), *place, layer, part))
        return spans


class _Echo:
    """A transport whose other rank is always done: messages are there at once, what is sent is dropped."""

    rank, size = 0, 2

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._parts: dict[Carried, Part] = {}

    def irecv(self, key: CarryKey, source: int, carried: Carried) -> "_Echo._Here":
        """Small numbers, the same for all messages of a form."""
        if carried not in self._parts:
            self._parts[carried] = tuple(
                0.01 * torch.randn(shape, dtype=carried.dtype, device=self._device)
                for shape in carried.shapes
            )
        return _Echo._Here(self._parts[carried])

    def isend(self, key: CarryKey, target: int, part: Part) -> None:
        """Pack the message, as every transport does."""
        message(key, part, self._device)

    def flush(self) -> None:
        """Everything has left."""

    @dataclass(frozen=True)
    class _Here:
        part: Part

        def wait(self) -> Part:
            """It is here."""
            return self.part


class RandomTokens:
    """A sequence of random tokens."""

    def __init__(self, length: int, vocabulary: int) -> None:
        self._ids = np.random.default_rng(0).integers(0, vocabulary, length + 1)

    def chunk(self, begin: int, end: int) -> Tokens:
        """Tokens begin..end."""
        return Tokens(self._ids[begin:end], self._ids[begin + 1 : end + 1])


@dataclass(frozen=True)
class StepTimes:
    """Seconds of a step besides its sweeps."""

    optimizer: float
    """For each parameter."""
    overhead: float


class Machine:
    """This machine with a model on it, and what its sweeps take."""

    def __init__(self, config: Config, model: TTTForCausalLM, device: torch.device) -> None:
        self.config, self.model, self.device = config, model, device
        self.kinds = tuple(names_of(config.architecture()))
        self.by_cpu_time = device.type == "cpu" and torch.get_num_threads() == 1
        self.clock = time.thread_time if self.by_cpu_time else time.perf_counter

    def sweep(self, lengths: list[int], samples: Samples) -> None:
        """Run sweeps once at each chunk length, and take in their chunks that have both neighbours."""
        for tokens in lengths:
            middle = dict.fromkeys(range(2, _CHUNKS - 1, 2), tokens)
            samples.add(self._spans(tokens, _CHUNKS, 2), middle, self.kinds)
            samples.add(self._spans(tokens, _ALONE_CHUNKS, 1), {1: tokens}, self.kinds, "alone.")

    def _spans(self, tokens: int, chunks: int, ranks: int) -> list[Span]:
        layout, batch = (
            Layout("striped", chunks * tokens, tokens, ranks),
            self.config.parallel.batch,
        )
        echo = _Echo(self.device) if ranks > 1 else None
        sweeps: Any = Sweeps(
            self.model,
            layout,
            echo,
            batch=batch,
            keep=ActivationPolicy(0),
            autocast=torch.bfloat16 if self.config.train.precision == "bf16" else None,
        )
        sequence = RandomTokens(layout.length_tokens, self.config.model.vocab_size)
        groups = [[sequence] * batch]
        if self.device.type == "cuda":  # its own timeline takes events on the stream
            sweeps.timeline.start_trace()
            sweeps.forward(groups)
            sweeps.backward()
            return sweeps.timeline.end_trace()[0]
        stopwatch = sweeps.timeline = _Stopwatch(self.clock)
        if echo is not None:
            sweeps.transport = NotedTransport(echo, stopwatch)
        sweeps.forward(groups)
        sweeps.backward()
        return stopwatch.take_spans()

    def step(self, engine: Engine, repeats: int) -> StepTimes:
        """Update the parameters a few times with gradients of zero."""
        parameters = list(self.model.parameters())
        seconds = []
        for _ in range(max(2, repeats)):
            for parameter in parameters:
                parameter.grad = torch.zeros_like(parameter)
            began = self.clock()
            engine.step()
            if self.device.type == "cuda":
                torch.cuda.synchronize()
            seconds.append(self.clock() - began)
        count = sum(parameter.numel() for parameter in parameters)
        return StepTimes(median(seconds[1:]) / count, 0.0)


def costs_of(
    config: Config,
    found: Fit,
    samples: Samples,
    step: StepTimes,
    machine: Machine,
    lengths: list[int],
    at_once: int = 1,
) -> Costs:
    """What was measured, as costs."""
    layers: dict[str, dict[str, Line]] = {kind: {} for kind in dict.fromkeys(machine.kinds)}
    ends: dict[str, Line] = {}
    for (kind, name), line in found.lines.items():
        (layers[kind] if kind else ends)[name] = line
    # Where a chunk is kept its first run builds the graph, and has the head, as a recomputation does.
    for prefix in ("", "alone."):
        if f"{prefix}recompute.head" in ends:
            ends[f"{prefix}forward.head"] = ends[f"{prefix}recompute.head"]
    splits: dict[str, dict[str, float]] = {"forward": {}, "backward": {}}
    for (run, part), shares in samples.shares.items():
        splits[run][part] = median(shares)
    kind = "cpu" if machine.device.type == "cpu" else "h100"
    wires = GPUS[kind]
    near, far = Wire(*wires.same_host), Wire(*wires.between_hosts)
    how = "CPU time of one thread" if machine.by_cpu_time else "the clock's time"
    beside = f", {at_once} ranks at once" if at_once > 1 else ""
    totals = ", ".join(f"{100 * found.totals[n]:+.1f} %" for n in lengths)
    return Costs(
        source=(
            f"measured on {_device(machine.device)}, {how}{beside}, chunks of "
            f"{', '.join(f'{n:,}' for n in lengths)} tokens (all activities together, line against means: "
            f"{totals}); the wire is assumed: {near.bytes_per_second / 1e9:g} GB/s in a host, "
            f"{far.bytes_per_second / 1e9:g} GB/s between hosts"
        ),
        kinds=machine.kinds,
        layers=layers,
        ends=ends,
        same_host=near,
        between_hosts=far,
        step_seconds=StepCosts(
            Wire(50e-6, wires.between_hosts[1]),
            Wire(50e-6, wires.between_hosts[1]),
            step.optimizer,
            step.overhead,
        ),
        splits=splits,
        facts={
            "of": what_costs_depend_on(config),
            "circumstances": report.circumstances(),
            "device": _device(machine.device) if machine.device.type == "cuda" else "cpu",
            "threads": torch.get_num_threads(),
            "at_once": at_once,
            "residuals": {f"{k}.{n}".lstrip("."): e for (k, n), e in found.residuals.items()},
        },
    )


def _device(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else report.machine()


def _table(found: Fit, lengths: list[int]) -> str:
    rows = [
        {
            "layer": kind or "model",
            "activity": name,
            "fixed, us": f"{1e6 * line.fixed:.1f}",
            "us per token": f"{1e6 * line.per_token:.3f}",
            f"at {lengths[0]:,}, ms": f"{1e3 * line.seconds(lengths[0]):.3f}",
            "largest residual": f"{100 * found.residuals[kind, name]:+.1f} %",
        }
        for (kind, name), line in sorted(found.lines.items())
    ]
    return report.table(rows)
