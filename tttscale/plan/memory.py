"""Memory of a rank: what lives through a step, what a chunk's computation adds, and the largest sum of both.

Bytes that tensors take are sums of what `activations`, the carries' declarations and the optimizer's
partition say. On a CPU a process takes more: interpreter and libraries, and holes in the C library's heap,
which are a share of what was allocated and freed, found by measurement (benchmarks/trust_memory.md).
"""

from dataclasses import asdict, dataclass
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
    sweeps_peak: int
    """The most during the sweeps."""
    update_peak: int
    """The most during reduction and update."""
    base: int
    """Of the process, without tensors."""
    slack: int
    """Holes in the heap (CPU)."""
    unknown: tuple[str, ...] = ()
    """Why the activations of some layers are not known, and are missing above."""

    @property
    def tensors_peak(self) -> int:
        """The most that tensors take at once."""
        return max(self.sweeps_peak, self.update_peak)

    @property
    def peak(self) -> int:
        """The most that the rank takes: on a GPU of its memory, on a CPU resident."""
        return self.base + self.tensors_peak + self.slack

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
        """As `train` would compute."""
        asked = config.train.compile
        return cls(gpu, triton=gpu, compiled=gpu if asked == "auto" else bool(asked))


def parameters_of(carries: Carries, config: Config) -> int:
    """Numbers of the whole model."""
    shape, blocks = config.architecture(), carries.blocks
    each = {name: sum(p.numel() for p in blocks[name].parameters()) for name in blocks}
    embedding = shape.vocab_size * shape.hidden_size
    matrices = embedding if shape.tie_word_embeddings else 2 * embedding
    return matrices + shape.hidden_size + sum(each[name] for name in names_of(shape))


def memory_plan(
    config: Config, world: int, machine: Machine, carries: Carries, kept: int
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


class _Planner:
    def __init__(
        self, config: Config, world: int, machine: Machine, carries: Carries, kept: int
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
        self.chunk = Shape(parallel.batch, tokens, width, machine.triton, machine.compiled)
        self.parameters = WIDE * parameters_of(carries, config)

    def plan(self) -> MemoryPlan:
        found = {name: block_bytes(self.shape, name, self.chunk) for name in kinds_of(self.shape)}
        unknown = tuple(f"{name}: {why}" for name, why in found.items() if isinstance(why, str))
        blocks = [of if isinstance(of := found[n], int) else 0 for n in names_of(self.shape)]
        head = head_bytes(self.shape, self.chunk)
        live, inputs, kept = self._activations(blocks, head)
        kinds = {getattr(mixer_class(name), "kind", None) for name in kinds_of(self.shape)}
        transients = transient_bytes(
            self.shape, self.chunk, tuple(sorted(kind for kind in kinds if kind is not None))
        )
        optimizer, bucket, update = self._optimizer()
        casts = self.parameters // 2 if self.chunk.compute_bytes == 2 else 0
        carries = self._carries()
        through = self.parameters + optimizer + casts + carries + inputs
        # At the first backward only the head's gradient is there, at a recomputed chunk's all may be.
        first = kept + transients if kept else 0
        again = live + transients + self.parameters if self.kept < self.own else 0
        sweeps = through + max(first, again)
        slack = 0 if self.machine.gpu else self._slack(max(live, kept), transients)
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
            sweeps_peak=sweeps,
            update_peak=update,
            base=GPU_CONTEXT_BYTES if self.machine.gpu else CPU_BASE_BYTES,
            slack=slack,
            unknown=unknown,
        )

    def _activations(self, blocks: list[int], head: int) -> tuple[int, int, int]:
        """Of one live task, of inputs left for later layers, and of all kept tasks."""
        if self.config.parallel.layout == "striped":
            whole = sum(blocks) + head
            return whole, 0, self.kept * whole
        stream = WIDE * self.chunk.n * self.shape.hidden_size
        inputs = self.own * (self.layers - 1) * stream
        kept, left = 0, self.kept * self.layers
        for layer in reversed(range(self.layers)):
            count = min(left, self.own)
            # A task's input is one of those left.
            one = blocks[layer] + (head if layer == self.layers - 1 else 0)
            kept += count * (one - (stream if layer else 0))
            left -= count
        return max(blocks) + head, inputs, kept

    def _carries(self) -> int:
        """Stored ones, those between neighbours, and messages received ahead and being sent."""
        if self.layout.chunks < 2:
            return 0
        one = boundary_bytes(self.carries.layout, self.layout.chunks - 2)
        stored = max(0, self.own - self.kept) * one
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

    def _slack(self, activations: int, transients: int) -> int:
        return round(_SLACK[0] * MIB + _SLACK[1] * activations + _SLACK[2] * transients)


_SLACK = (32, 0.72, 0.0)
