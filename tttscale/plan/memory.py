"""Memory of a rank: what lives through a step, what a chunk's computation adds, and the largest sum of both.

Bytes that tensors take are sums of what `activations`, the carries' declarations and the optimizer's
partition say. On a CPU a process takes more: interpreter and libraries, and holes in the C library's heap,
which are a share of what was allocated and freed, found by measurement (benchmarks/trust_memory.md).
"""

import math
from dataclasses import asdict, dataclass, replace
from typing import Any

from tttscale.config import Config
from tttscale.model.registry import kinds_of, mixer_class, names_of
from tttscale.plan.activations import (
    WIDE,
    Shape,
    block_bytes,
    head_bytes,
    transient_bytes,
)
from tttscale.plan.carries import Carries
from tttscale.scan.carry_store import boundary_bytes
from tttscale.scan.layout import Layout
from tttscale.scan.sweep import AHEAD_LAYERS

MIB = 2**20
BUCKET_BYTES = 4 * 500_000_000
"""DeepSpeed's buffer through which gradients are reduced (its default `reduce_bucket_size`)."""
GPU_CONTEXT_BYTES = 1536 * MIB
"""Assumed: CUDA's context, its libraries' workspaces and NCCL's buffers, outside torch's allocator."""
CPU_BASE_BYTES = 446 * MIB
"""Measured: a training process without its tensors, its libraries' own allocations included."""


@dataclass(frozen=True)
class MemoryPlan:
    """Bytes of the rank that needs most; all but the sums."""

    parameters: int
    """fp32."""
    gradients: int
    """fp32, summed over chunks during the sweeps."""
    optimizer: int
    """AdamW's moments and ZeRO's own copies: this rank's share."""
    casts: int
    """Parameters in the compute dtype, during the sweeps."""
    carries: int
    """Stored for chunks that are computed again, and on their way."""
    live_chunk: int
    """Activations of one chunk."""
    kept_chunks: int
    """Activations of all kept chunks."""
    layer_inputs: int
    """Contiguous ranks: the stream of every own chunk in front of every layer."""
    transients: int
    """Beside a chunk's activations, for a while."""
    bucket: int
    """The reduction's buffer."""
    checkpoint_copy: int
    """On a CPU: what checkpoints are written from in the background, on the rank that writes the weights. A
    rank that has no room for it saves without, so it is no reason to refuse a run."""
    sweeps_peak: int
    """The most during the sweeps."""
    update_peak: int
    """The most during reduction and update."""
    base: int
    """Bytes of the process without tensors."""
    sweeps_holes: int
    """Holes that the sweeps leave in the heap of a CPU's process."""
    update_holes: int
    """Holes that reduction and update leave there."""
    unknown: tuple[str, ...] = ()
    """Why the activations of some layers are not known, and are missing above."""

    @property
    def tensors_peak(self) -> int:
        """The most that tensors take at once."""
        return self.checkpoint_copy + max(self.sweeps_peak, self.update_peak)

    @property
    def peak(self) -> int:
        """The most that the rank takes: on a GPU of its memory, on a CPU resident."""
        sweeps, update = self.sweeps_peak + self.sweeps_holes, self.update_peak + self.update_holes
        return self.base + self.checkpoint_copy + max(sweeps, update)

    @property
    def holes(self) -> int:
        """What the peak has beside tensors and base."""
        return self.peak - self.base - self.tensors_peak

    def json(self) -> dict[str, Any]:
        """All fields, and the sums."""
        return asdict(self) | {"tensors_peak": self.tensors_peak, "peak": self.peak}


@dataclass(frozen=True)
class Machine:
    """What a rank computes on."""

    gpu: bool
    triton: bool = False
    """The scan runs on Triton's kernels."""
    compiled: bool = False
    """Operators between products are compiled."""

    @classmethod
    def of(cls, config: Config, gpu: bool) -> "Machine":
        """Return what `train` would compute on."""
        asked = config.train.compile
        return cls(gpu, triton=gpu, compiled=gpu if asked == "auto" else bool(asked))


def parameters_of(carries: Carries, config: Config) -> int:
    """Count the numbers of the whole model."""
    shape = config.architecture()
    embedding = shape.vocab_size * shape.hidden_size
    matrices = embedding if shape.tie_word_embeddings else 2 * embedding
    return matrices + shape.hidden_size + sum(parameters_by_layer(carries, config))


def parameters_by_layer(carries: Carries, config: Config) -> list[int]:
    """Count the numbers of each block, first to last."""
    blocks = carries.blocks
    each = {name: sum(p.numel() for p in blocks[name].parameters()) for name in blocks}
    return [each[name] for name in names_of(config.architecture())]


def checkpoint_copy_bytes(config: Config, world: int, gpu: bool, parameters: int) -> int:
    """Return what rank 0's copy for a checkpoint in the background takes of the memory it computes in.

    Args:
        config: of the run.
        world: ranks of the job; each has its share of the two moments.
        gpu: the copy is in the host's memory.
        parameters: of the model.
    """
    if gpu or not config.checkpoint.background or config.checkpoint.every == 0:
        return 0
    return WIDE * (parameters + 2 * parameters // world)


def memory_plan(
    config: Config, world: int, machine: Machine, carries: Carries, kept: float
) -> MemoryPlan:
    """Plan the rank that needs most.

    Args:
        config: of the run.
        world: ranks of the job.
        machine: what each computes on.
        carries: the run's.
        kept: chunks of each rank whose activations are kept.
    """
    return _Planner(config, world, machine, carries, kept).plan()


@dataclass(frozen=True)
class _Stage:
    """Tasks of the backward sweep that accumulate the same gradients: all striped ones, or a layer's.

    All fields are bytes.
    """

    task: int
    """Activations of one task."""
    kept: int
    """Activations of all kept tasks."""
    gradients: int
    """Those that the first task adds."""
    freed: int = 0
    """Inputs of layers that earlier stages have used up."""


class _Planner:
    def __init__(
        self, config: Config, world: int, machine: Machine, carries: Carries, kept: float
    ) -> None:
        self.config, self.world, self.machine, self.carries = config, world, machine, carries
        self.shape, parallel = config.architecture(), config.parallel
        replicas = world // parallel.sequence
        sequences = max(1, config.train.sequences_per_step // replicas // parallel.batch)
        sizes = config.data.sequence_length, parallel.chunk_length, parallel.sequence, sequences
        self.layout = Layout(parallel.layout, *sizes)
        self.own = -(-self.layout.chunks // parallel.sequence) * sequences
        self.kept = min(kept, self.own)
        self.layers = self.shape.num_hidden_layers
        tokens = min(parallel.chunk_length, config.data.sequence_length)
        width = 2 if config.train.precision == "bf16" else WIDE
        waits = parallel.sequence > 1
        self.chunk = Shape(parallel.batch, tokens, width, machine.triton, machine.compiled, waits)
        self.parameters = WIDE * parameters_of(carries, config)

    def plan(self) -> MemoryPlan:
        """Add up everything; see `memory_plan`."""
        found = {name: block_bytes(self.shape, name, self.chunk) for name in kinds_of(self.shape)}
        unknown = tuple(f"{name}: {why}" for name, why in found.items() if isinstance(why, str))
        blocks = [of if isinstance(of := found[n], int) else 0 for n in names_of(self.shape)]
        head = head_bytes(self.shape, self.chunk)
        live, inputs, stages = self._activations(blocks, head)
        kept = sum(stage.kept for stage in stages)
        transients = self._transients(self.chunk)
        optimizer, bucket, update = self._optimizer()
        casts = self.parameters // 2 if self.chunk.compute_bytes == 2 else 0
        carries = self._carries()
        through = self.parameters + optimizer + casts + carries + inputs
        sweeps = through + transients + self._backward_peak(live, stages)
        holes = self._sweeps_holes(transients)
        copy = checkpoint_copy_bytes(
            self.config, self.world, self.machine.gpu, self.parameters // WIDE
        )
        return MemoryPlan(
            parameters=self.parameters,
            gradients=self.parameters,
            optimizer=optimizer,
            casts=casts,
            carries=carries,
            live_chunk=live,
            kept_chunks=kept,
            layer_inputs=inputs,
            transients=transients,
            bucket=bucket,
            checkpoint_copy=copy,
            sweeps_peak=sweeps,
            update_peak=update,
            base=GPU_CONTEXT_BYTES if self.machine.gpu else CPU_BASE_BYTES,
            sweeps_holes=holes,
            update_holes=self._update_holes(update, sweeps + holes),
            unknown=unknown,
        )

    def _transients(self, chunk: Shape) -> int:
        kinds = {getattr(mixer_class(name), "kind", None) for name in kinds_of(self.shape)}
        known = tuple(sorted(kind for kind in kinds if kind is not None))
        return transient_bytes(self.shape, chunk, known)

    def _activations(self, blocks: list[int], head: int) -> tuple[int, int, list["_Stage"]]:
        """Return bytes of one live task, of inputs left for later layers, and the backward's stages."""
        if self.config.parallel.layout == "striped":
            whole = sum(blocks) + head
            return whole, 0, [_Stage(whole, round(self.kept * whole), self.parameters)]
        stream = WIDE * self.chunk.n * self.shape.hidden_size
        inputs = self.own * (self.layers - 1) * stream
        gradients = parameters_by_layer(self.carries, self.config)
        # The head's gradients come first; those of an embedding of its own, which come last, count with them.
        rest = self.parameters - WIDE * sum(gradients)
        stages, left = list[_Stage](), round(self.kept * self.layers)
        for layer in reversed(range(self.layers)):
            last, count = layer == self.layers - 1, min(left, self.own)
            # A task's input is one of those left.
            one = blocks[layer] + (head if last else 0) - (stream if layer else 0)
            new = WIDE * gradients[layer] + (rest if last else 0)
            # Inputs of the layers above are gone; gradients of as many chunks' streams came for the first.
            freed = 0 if last else (self.layers - 2 - layer) * self.own * stream
            stages.append(_Stage(one, count * one, new, freed))
            left -= count
        return max(blocks) + head, inputs, stages

    def _backward_peak(self, live: int, stages: list["_Stage"]) -> int:
        """Return the most that activations and gradients take together in the backward sweep.

        A task's gradients are there once it is done, those of a stage's first task for all of the stage.
        Of a chunk that is kept in part the other layers are computed again before its backward, so that
        then it is in memory as a whole.
        """
        held, gradients = sum(stage.kept for stage in stages), 0
        peak = max(held, live)
        if self.own > 1 and self.kept < self.own:
            peak = live + self.parameters
        for stage in stages:
            first = held + gradients
            gradients += stage.gradients
            second = max(0, held - stage.task) + gradients
            peak = max(peak, first - stage.freed, second - stage.freed)
            held -= stage.kept
        return peak

    def _carries(self) -> int:
        """Stored ones, those between neighbours, and messages received ahead and being sent."""
        if self.layout.chunks < 2:
            return 0
        one = boundary_bytes(self.carries.layout, self.layout.chunks - 2)
        stored = max(0, math.ceil(self.own - self.kept)) * one
        if self.config.parallel.sequence == 1:
            return stored + one
        return stored + one + 2 * AHEAD_LAYERS * one // self.layers

    def _optimizer(self) -> tuple[int, int, int]:
        """Between steps beside the parameters; the reduction's buffer; the peak of a reduction and update.

        As measured under DeepSpeed (tests/plan/test_memory.py): P bytes of parameters over R ranks.
        """
        P, R, stage = self.parameters, self.world, self.config.zero.stage
        largest = WIDE * self.shape.vocab_size * self.shape.hidden_size
        if stage == 0:  # moments of all; gradients twice in a reduction
            return 2 * P, 0, P + 2 * P + 2 * P
        bucket = BUCKET_BYTES if self.machine.gpu else min(P, BUCKET_BYTES)
        if stage < 3:  # an fp32 copy and moments of this rank's share
            held = 3 * P // R
            return held, bucket, P + held + P + bucket + largest
        # Parameters, their copy, moments and gradients of the share, beside what is gathered.
        held = (4 if R == 1 else 5) * P // R
        return held + bucket, bucket, P + held + bucket + P + 2 * P // R

    def _sweeps_holes(self, transients: int) -> int:
        """Free pieces between tensors, into which no tensor of the next layer or chunk fits.

        Forward runs leave them, in proportion to their short-lived results: for each layer and kept chunk,
        and more where a chunk is computed again in what another has left.
        """
        if self.machine.gpu:
            return 0
        shape, layers = self.shape, self.layers
        # Convolutions and gate have short-lived results, too.
        more = (shape.pre_conv + shape.share_qk + shape.use_gate) / 3
        width = shape.hidden_size + _HOLES_INNER * shape.intermediate_size
        unit = WIDE * self.chunk.n * width * (_HOLES_LEAST + (1 - _HOLES_LEAST) * more)
        kept = max(1, self.kept)
        if self.config.parallel.layout == "contiguous":
            return round(unit * (_HOLES_FIXED + kept * _HOLES_TASK * layers))
        of_kept = kept * _HOLES_KEPT
        if self.chunk.waits:
            first = min(kept, _FIRST_KEPT)
            of_kept = first * _HOLES_KEPT_WAITING + (kept - first) * _HOLES_KEPT_LATER
        holes = of_kept * layers
        if self.kept < 2:
            holes += _HOLES_FIXED
        if self.kept < self.own:
            holes += (_HOLES_AGAIN if self.kept < 2 else _HOLES_KEPT) * layers
        # What a scan takes for all of its tokens at once has its place among them.
        more = transients - self._transients(replace(self.chunk, waits=False))
        return max(0, round(unit * holes - _HOLES_FILLED * more))

    def _update_holes(self, update: int, sweeps: int) -> int:
        """Those of the update itself, and what of the sweeps' heap it cannot use."""
        if self.machine.gpu:
            return 0
        own = _HOLES_SHARDED if self.config.zero.stage else _HOLES_PLAIN
        return round(own * update + _HOLES_OF_SWEEPS * sweeps)


# Found by measurement on small models (benchmarks/trust_memory.md).
_HOLES_INNER = 0.09
"""What a feature of the SwiGLU leaves beside one of the stream."""
_HOLES_LEAST = 0.6
"""What a block leaves that has neither convolutions nor a gate."""
_HOLES_FIXED = 28.4
_HOLES_KEPT = 4.77
_HOLES_KEPT_WAITING, _FIRST_KEPT, _HOLES_KEPT_LATER = 6.8, 4, 3.3
_HOLES_AGAIN = 9.95
_HOLES_TASK = 5.43
"""Times a chunk's stream: once; for each layer of a kept chunk, of one computed again, of a task."""
_HOLES_FILLED = 0.6
"""Share of what a scan needs more where another rank waits, which has its place in holes."""
_HOLES_SHARDED = 0.8
_HOLES_PLAIN = 0.34
"""Times what reduction and update take, from ZeRO stage 1 on, and without."""
_HOLES_OF_SWEEPS = 0.2
"""Times what the sweeps take with their holes."""
