"""What every activity of a rank costs: assumed for a GPU, or measured on this machine.

A cost is a line: seconds = fixed + per token x tokens, for each kind of layer, run and activity. Simulator,
rehearsal and planner ask here and nowhere else.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import Field, TypeAdapter, ValidationError

from tttscale.config import Config
from tttscale.errors import ConfigError
from tttscale.kernels.learners import LEARNERS
from tttscale.model.architecture import TTTConfig
from tttscale.model.registry import names_of
from tttscale.plan.gpus import GPUS, Gpu, gpu_named
from tttscale.reading import read_json
from tttscale.scan.timeline import Activity, Run

_FORMAT = 1
_LONGEST_SOURCE = 1000
"""Characters; a longer source is cut when it is read."""
Seconds = Annotated[float, Field(ge=0, allow_inf_nan=False, strict=True)]
Rate = Annotated[float, Field(gt=0, allow_inf_nan=False, strict=True)]
Share = Annotated[float, Field(ge=0, le=1, strict=True)]
_NO_TOKENS = frozenset({Activity.SEND})
"""Activities whose cost does not grow with the chunk."""


@dataclass(frozen=True)
class Line:
    """Seconds of an activity: fixed + per_token x tokens."""

    fixed: Seconds
    per_token: Seconds

    def seconds(self, tokens: float) -> float:
        """Seconds at so many tokens."""
        return self.fixed + self.per_token * tokens

    @classmethod
    def through(cls, means: Mapping[int, float]) -> "Line":
        """Fit mean seconds by tokens; neither the fixed nor the growing part is negative.

        The squares of relative errors are least, so that short chunks count as much as long ones. One length
        alone is taken in proportion to its tokens; one of no tokens, as of messages, as it is.
        """
        if len(means) == 1:
            ((tokens, mean),) = means.items()
            return cls(0.0, mean / tokens) if tokens else cls(mean, 0.0)
        weights = {n: 1 / max(s, 1e-12) ** 2 for n, s in means.items()}
        total = sum(weights.values())
        center = sum(weights[n] * n for n in means) / total
        mean = sum(weights[n] * s for n, s in means.items()) / total
        spread = sum(weights[n] * (n - center) ** 2 for n in means)
        slope = sum(weights[n] * (n - center) * (s - mean) for n, s in means.items()) / spread
        if slope <= 0:
            return cls(mean, 0.0)
        if mean < slope * center:
            through = sum(weights[n] * n * s for n, s in means.items())
            return cls(0.0, through / sum(weights[n] * n * n for n in means))
        return cls(mean - slope * center, slope)


@dataclass(frozen=True)
class Wire:
    """A link between two ranks: seconds of a message = latency + bytes / bytes_per_second."""

    latency: Seconds
    bytes_per_second: Rate

    def seconds(self, size: float) -> float:
        """Seconds of a message of so many bytes, from the end of its send to its arrival."""
        return self.latency + size / self.bytes_per_second


@dataclass(frozen=True)
class StepCosts:
    """What a step costs besides its sweeps."""

    reduce: Wire
    """Summing gradients: latency, and bytes of gradients that a rank hands on per second."""
    gather: Wire
    """Collecting new parameters, likewise."""
    optimizer: Seconds
    """Seconds for each parameter that the rank updates."""
    overhead: Seconds
    """Seconds of anything else: records, the step's own bookkeeping."""

    def seconds(self, parameters: int, ranks: int, stage: int) -> dict[str, float]:
        """Seconds of one step by name (reduce, optimizer, gather, overhead).

        Args:
            parameters: of the whole model; gradients and parameters are fp32.
            ranks: of the whole job, among which the optimizer's work is divided from stage 1 on.
            stage: of ZeRO.
        """
        others = 4 * parameters * (ranks - 1) / ranks
        gather = self.gather.seconds(others) if ranks > 1 else 0.0
        return {
            "reduce": self.reduce.seconds(others) if ranks > 1 else 0.0,
            "optimizer": self.optimizer * parameters / (ranks if stage else 1),
            "gather": gather,
            "overhead": self.overhead,
        }


@dataclass(frozen=True)
class Costs:
    """Costs of one rank's activities, for one model, batch and precision."""

    source: str
    """What the numbers rest on, in a sentence for people."""
    kinds: tuple[str, ...]
    """The kind of each layer, first to last."""
    layers: Mapping[str, Mapping[str, Line]]
    """Kind -> "run.activity" -> cost. A recomputation costs as much as a forward run if it is not named.
    "alone.run.activity", if named, is the cost where no other rank waits: a scan's phases then take turns."""
    ends: Mapping[str, Line]
    """"run.embed" and "run.head" -> cost."""
    same_host: Wire
    between_hosts: Wire
    step_seconds: StepCosts
    splits: Mapping[str, Mapping[str, Share]] = field(default_factory=dict)
    """"forward" or "backward" -> part -> the share of PROJECT that comes before this part is exchanged, for
    all parts but the last; unknown parts divide it evenly."""
    facts: Mapping[str, Any] = field(default_factory=dict)
    """Whatever explains the numbers: assumptions, or residuals of the fit."""

    def seconds(
        self, run: Run, activity: Activity, tokens: int, layer: int, alone: bool = False
    ) -> float:
        """Seconds of one activity in one run of a chunk.

        Args:
            run: forward, recompute or backward.
            activity: EMBED, PROJECT, ADVANCE, SEND (one message), READOUT, FINISH or HEAD.
            tokens: of the chunk, in each of the sequences that go side by side.
            layer: index of the layer; of no account for EMBED and HEAD.
            alone: no other rank waits for what this run hands over (see `program.is_alone`).
        """
        lines = self.ends
        if activity not in (Activity.EMBED, Activity.HEAD):
            lines = self.layers[self.kinds[layer]]
        line = (lines.get(f"alone.{run}.{activity}") if alone else None) or lines.get(
            f"{run}.{activity}"
        )
        if line is None and run is Run.RECOMPUTE:
            line = lines.get(f"{Run.FORWARD}.{activity}")
        return 0.0 if line is None else line.seconds(0 if activity in _NO_TOKENS else tokens)

    def share_before(self, run: Run, parts: tuple[str, ...], index: int) -> float:
        """The share of PROJECT that comes before the exchange of a part, in the order of this run.

        Args:
            run: in which the layer is.
            parts: of the layer, in the order of its forward.
            index: of the part; all but the last part are exchanged inside PROJECT.
        """
        backward = run is Run.BACKWARD
        known = self.splits.get("backward" if backward else "forward", {})
        even = (len(parts) - 1 - index if backward else index + 1) / len(parts)
        return known.get(parts[index], even)

    def wire_seconds(self, size: float, same_host: bool) -> float:
        """From the end of the send of so many bytes to their arrival."""
        return (self.same_host if same_host else self.between_hosts).seconds(size)

    def to_json(self) -> str:
        """As text, for a file that `load` reads."""
        return json.dumps({"format": _FORMAT, "costs": asdict(self)}, indent=1) + "\n"

    @classmethod
    def from_json(cls, value: Any) -> Self:
        """Take what was parsed from such a text.

        Raises:
            ValueError: it is something else.
        """
        if not isinstance(value, dict) or value.get("format") != _FORMAT:
            raise ValueError(f"not costs of this version (format {_FORMAT})")
        try:
            costs = TypeAdapter(cls).validate_python(value.get("costs"))
        except ValidationError as error:
            raise ValueError(_words(error)) from None
        if unknown := set(costs.kinds) - set(costs.layers):
            raise ValueError(f"kinds: no costs of {sorted(unknown)}")
        if not costs.kinds:
            raise ValueError("kinds = []: expected the kind of at least one layer")
        for kind in costs.kinds:
            if not any(line.fixed or line.per_token for line in costs.layers[kind].values()):
                raise ValueError(
                    f"layers.{kind}: no activity costs anything, expected forward.advance and others"
                )
        return replace(costs, source=_printable(costs.source))


def _words(error: ValidationError) -> str:
    """Say of the first fault which key it is, what was found there, and what is expected."""
    first = error.errors()[0]
    place = ".".join(map(str, first["loc"])) or "costs"
    if first["type"] == "missing":
        return f"{place}: {first['msg']}"
    expected = first["msg"].replace("Input should be", "expected")
    return f"{place} = {first['input']!r:.60}: {expected}"


def _printable(text: str) -> str:
    """One line that cannot steer a terminal, of bounded length."""
    text = "".join(c if c.isprintable() else " " for c in text)
    return text if len(text) <= _LONGEST_SOURCE else f"{text[:_LONGEST_SOURCE]}..."


def load(path: Path) -> Costs:
    """Read what `tttscale bench step --calibrate` has written.

    Raises:
        ConfigError: there is no such file, or it holds something else.
    """
    advice = "Write one with `tttscale bench step --calibrate CONFIG`."
    value = read_json(path, error=ConfigError, advice=advice)
    try:
        return Costs.from_json(value)
    except ValueError as problem:
        raise ConfigError(f"{path}: {problem}. {advice}") from None


def assumed(gpu: str, config: Config) -> Costs:
    """Costs on a GPU that is not at hand.

    Args:
        gpu: a name in `gpus.GPUS`.
        config: of the run: its model, precision and batch.

    Raises:
        ConfigError: nothing is assumed of this GPU.
    """
    device = gpu_named(gpu)
    return _Assumptions(device, config).costs()


class _Assumptions:
    """From a GPU's figures and a model's shape to costs."""

    def __init__(self, gpu: Gpu, config: Config) -> None:
        self.gpu, self.config, self.model = gpu, config, config.architecture()
        self.rows = config.parallel.batch
        self.rate = gpu.bf16_flops if config.train.precision == "bf16" else gpu.fp32_flops

    def costs(self) -> Costs:
        """Put the assumed costs of all layers together."""
        names = tuple(names_of(self.model))
        foreign = sorted({name for name in names if _learner(name) is None})
        return Costs(
            source=self._source(foreign),
            kinds=names,
            layers={name: self._layer(name) for name in dict.fromkeys(names)},
            ends=self._ends(),
            same_host=Wire(*self.gpu.same_host),
            between_hosts=Wire(*self.gpu.between_hosts),
            step_seconds=StepCosts(
                Wire(50e-6, self.gpu.between_hosts[1]),
                Wire(50e-6, self.gpu.between_hosts[1]),
                # AdamW reads and writes 28 bytes a parameter.
                optimizer=28 / self.gpu.memory_bandwidth,
                overhead=self.gpu.step_overhead,
            ),
            splits=_splits(self.model),
            facts={"gpu": self.gpu.name},
        )

    def _source(self, foreign: list[str]) -> str:
        clock, gpu = self.gpu.chip.clock_hz / 1e9, self.gpu
        text = (
            f"assumed for {gpu.name}: products at {self.rate / 1e12:.3g} TFLOP/s (with {gpu.half_tokens} "
            f"tokens half of it), {gpu.launch * 1e6:g} us of launches a block, serial scans as predicted "
            f"from compiled code at {clock:g} GHz, {gpu.same_host[1] / 1e9:g} GB/s inside a host and "
            f"{gpu.between_hosts[1] / 1e9:g} GB/s between hosts; nothing was measured"
        )
        return f"{text}; {', '.join(foreign)}: costed as ttt-linear" if foreign else text

    def _products(self, parameters: float) -> Line:
        """Products of all tokens with so many parameters, forward; half of the rate at half_tokens."""
        per_token = 2 * parameters * self.rows / self.rate
        return Line(per_token * self.gpu.half_tokens / self.rows, per_token)

    def _layer(self, name: str) -> dict[str, Line]:
        model, gpu = self.model, self.gpu
        learner = _learner(name) or "linear"
        width, launch = model.hidden_size, gpu.launch
        square = width * width
        projections = (2 if model.share_qk else 3) + int(model.use_gate)
        project = self._products(projections * square)
        readout = self._products(square)
        finish = self._products(3 * width * model.intermediate_size)
        chains, beside = gpu.chip.chain_cycles[learner], gpu.chip.parallel_cycles[learner]
        advance, back = (self._chain(cycles) for cycles in chains)
        # The parallel kernels of a scan: a quarter forward, half of the rest on either side of the chain.
        scan = self._parallel(beside)
        return {
            "forward.project": _sum(Line(launch * 0.4, 0), project),
            "forward.advance": advance,
            "forward.readout": _sum(Line(launch * 0.3, 0), readout, _times(scan, 0.25)),
            "forward.finish": _sum(Line(launch * 0.3, 0), finish),
            "backward.finish": _sum(Line(launch * 0.6, 0), _times(finish, 2)),
            "backward.readout": _sum(
                Line(launch * 0.6, 0), _times(readout, 2), _times(scan, 0.375)
            ),
            "backward.advance": back,
            "backward.project": _sum(
                Line(launch * 0.8, 0), _times(project, 2), _times(scan, 0.375)
            ),
        }

    def _chain(self, cycles: float) -> Line:
        """A kernel that goes from mini-batch to mini-batch, one program for each head of each sequence."""
        model, gpu = self.model, self.gpu
        waves = math.ceil(self.rows * model.num_attention_heads / gpu.chip.multiprocessors)
        # Products of a mini-batch take longer with its tokens and with the head, its latencies do not.
        size = max(1.0, model.mini_batch_size / 16) * max(1.0, model.head_dim / 64)
        seconds = waves * cycles * size / gpu.chip.clock_hz
        return Line(gpu.launch * 0.15, seconds / model.mini_batch_size)

    def _parallel(self, cycles: float) -> Line:
        """Kernels that are parallel over the tokens; cycles of the GPU for 16 tokens of 32 heads of 64."""
        features = self.rows * self.model.hidden_size / (32 * 64)
        return Line(0, cycles / 16 * features / self.gpu.chip.clock_hz)

    def _ends(self) -> dict[str, Line]:
        model = self.model
        logits = self._products(model.hidden_size * model.vocab_size)
        launch = Line(self.gpu.launch, 0)
        embed = Line(0, 8 * self.rows * model.hidden_size / self.gpu.memory_bandwidth)
        # Where a chunk's graph is built, the loss forms its gradients with it: three products.
        return {
            "forward.embed": embed,
            "backward.embed": _times(embed, 2),
            "forward.head": _sum(launch, _times(logits, 3)),
            "backward.head": launch,
        }


def _learner(name: str) -> str | None:
    """The inner learner of a layer of this package, None for any other."""
    learner = name.removeprefix("ttt-")
    return learner if name.startswith("ttt-") and learner in LEARNERS else None


def _splits(model: TTTConfig) -> dict[str, dict[str, float]]:
    """Where inside PROJECT tails are exchanged: norms before, projections between, convolutions after."""
    products = (2 if model.share_qk else 3) + int(model.use_gate)
    convolution = 0.1
    first = 0.05 if model.pre_conv else 0.0
    before = 1 - convolution * 4 / (products + 1)
    return {
        "forward": {"pre_conv": first, "qk_conv": before},
        "backward": {"pre_conv": 1 - first, "qk_conv": 1 - before},
    }


def _sum(*lines: Line) -> Line:
    return Line(sum(line.fixed for line in lines), sum(line.per_token for line in lines))


def _times(line: Line, factor: float) -> Line:
    return Line(line.fixed * factor, line.per_token * factor)


__all__ = ["GPUS", "Costs", "Line", "StepCosts", "Wire", "assumed", "load"]
