"""Every key of a run's configuration, with its default."""

from collections.abc import Iterator
from typing import Annotated, Any, Literal, get_args

from pydantic import BaseModel, Field

from tttscale.config.data_section import DataSection
from tttscale.config.model_section import ModelSection
from tttscale.config.numbers import (
    Count,
    Fraction,
    HumanFloat,
    HumanInt,
    NonNegative,
    Positive,
    Text,
    amount_or,
    count_or,
)
from tttscale.config.paths import FolderPath
from tttscale.config.section import Section
from tttscale.model.architecture import TTTConfig
from tttscale.model.registry import alignment


class RunSection(Section):
    """What the run is called and where its files go."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9_-][A-Za-z0-9._-]{0,63}$")]
    """The run's folder is dir/name. Up to 64 of A-Z a-z 0-9 . _ - and no leading dot."""
    dir: FolderPath = "runs"
    """Folder that holds all runs, relative to the working directory."""
    seed: Count = 0
    """Seed of the initial weights, of the order of windows, and of the stores of a blend."""


class ParallelSection(Section):
    """How a sequence is split over ranks: sequence parallel (context parallel)."""

    sequence: Positive = 1
    """Ranks that share one sequence; replicas = world size / sequence."""
    chunk_length: Positive = 8192
    """Tokens per chunk, a multiple of model.mini_batch_size (and of what layers of model.pattern ask for)."""
    layout: Literal["striped", "contiguous"] = "striped"
    """Chunk c belongs to rank c mod sequence, or to rank c // (chunks / sequence)."""
    transport: Literal["auto", "torch", "mpi"] = "auto"
    """What carries are sent over: torch.distributed (gloo on CPUs, NCCL on GPUs), or mpi (CPUs only, in a job
    that mpirun or srun has started); auto = torch. No loss depends on it."""
    keep_chunks: Annotated[int | float | Literal["auto"], amount_or("auto")] = "auto"
    """Chunks whose activations are kept for the backward sweep instead of recomputed; with a fraction (1.5)
    also those of so many of one more chunk's layers, the last ones."""
    batch: Positive = 1
    """Sequences of one sweep, computed together."""
    threads: Positive | None = None
    """CPU threads of torch per rank; null = cores / ranks on this host."""


class ZeroSection(Section):
    """DeepSpeed ZeRO."""

    stage: Annotated[HumanInt, Field(ge=0, le=3)] = 1
    """What is sharded: 0 nothing, 1 optimizer state, 2 also gradients, 3 also parameters."""
    overlap_reduction: Literal["auto"] | bool = "auto"
    """Sum the gradients over the ranks under the last backward sweep instead of after it; auto = on CPUs (on
    GPUs it has not been measured yet). Stage 3 always sums after it."""


class TrainSection(Section):
    """The optimisation of the outer parameters."""

    steps: Positive
    """Optimizer steps."""
    sequences_per_step: Positive = 1
    """Sequences per optimizer step, counted over the whole job."""
    precision: Literal["fp32", "bf16"] = "bf16"
    """Arithmetic of the outer network; the inner states are always fp32."""
    lr: NonNegative = 1e-3
    """Peak learning rate."""
    lr_schedule: Literal["cosine", "wsd", "constant"] = "cosine"
    """After the warm-up: a cosine down to lr_final over all steps that are left; lr throughout, but for a
    straight decay to lr_final over the last decay_steps (warmup-stable-decay: with more steps, those before
    the decay stay the same); or lr throughout."""
    lr_final: NonNegative = 1e-5
    """Learning rate at the last step of a cosine or of a decay."""
    warmup_steps: Count = 0
    """Steps over which the learning rate climbs linearly from 0 to lr; 0 = the first step is at lr."""
    decay_steps: Positive | None = None
    """Last steps over which wsd decays; null = a tenth of train.steps."""
    weight_decay: NonNegative = 0.1
    """Decoupled weight decay of AdamW."""
    betas: tuple[Fraction, Fraction] = (0.9, 0.95)
    """Decay of AdamW's first and second moments."""
    eps: Annotated[HumanFloat, Field(gt=0)] = 1e-8
    """AdamW's epsilon."""
    grad_clip: NonNegative = 1.0
    """Largest norm of the whole gradient; 0 = no clipping."""
    on_divergence: Literal["stop", "skip", "roll_back"] = "stop"
    """At a loss, carry or gradient that is not finite: stop; skip that step's update; or roll_back to the
    last sound checkpoint and leave out that step's data. The third time in a row stops."""
    inner_norm_limit: Annotated[HumanFloat, Field(gt=0)] | None = None
    """Largest norm of an inner weight of one head, at any end of a chunk, with which a step is still used;
    above it on_divergence decides. null = no limit."""
    check_replicas_every: Count = 0
    """Steps between comparisons of the parameters of all ranks, which have to be equal bit by bit; also made
    before each checkpoint then. 0 = none."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where to compute; auto = cuda where there is one."""
    compile: Literal["auto"] | bool = "auto"
    """Compile the pointwise operations with torch.compile (needs a C++ compiler); auto = on a GPU."""
    ignore_memory: bool = False
    """Start even if the plan predicts that memory will not suffice."""
    hang_seconds: Annotated[int | float | Literal["auto"], amount_or("auto")] = "auto"
    """Seconds without progress in a step after which a rank hangs and the job ends, or five times as long as
    anything has taken before if that is more; outside of steps and in the first step ten times as long. Waits
    for other ranks do not count. auto = 60; 0 = never."""


class EvaluateSection(Section):
    """Held-out loss during training."""

    every: Count = 0
    """Steps between held-out losses; 0 = only at the end."""
    sequences: Count = 1
    """Held-out windows per evaluation; 0 = no evaluation."""


class CheckpointSection(Section):
    """Saving and resuming: the same command resumes a run that has checkpoints."""

    every: Count = 0
    """Steps between checkpoints, with one more after the last step; 0 = none."""
    keep: Positive = 3
    """Newest checkpoints kept."""
    background: bool = True
    """Write checkpoints from a copy in the host's memory while training continues; false = the step waits."""
    resume: Annotated[int | Literal["auto", "never"], count_or("auto", "never")] = "auto"
    """Resume from the newest complete checkpoint, if there is one; never; or from this step."""
    max_attempts: Count = 3
    """Starts in a row that may fail without a new checkpoint. After that what starts a run by itself (Slurm,
    torchrun, tttscale launch again) is refused; a start by hand never is. 0 = any number."""


class WandbSection(Section):
    """Weights & Biases."""

    mode: Literal["offline", "online", "disabled"] | None = None
    """offline writes files only; online needs a network; disabled writes nothing. null = as WANDB_MODE
    and WANDB_DISABLED say, or else offline."""
    project: Annotated[Text, Field(pattern=r"^[^/\\#?%:]{1,128}$")] | None = None
    """The project in Weights & Biases; null = as WANDB_PROJECT says, or else tttscale."""


class LoggingSection(Section):
    """What is logged while training."""

    every: Positive = 1
    """Steps between console lines."""
    peak_tflops: Annotated[HumanFloat, Field(gt=0)] | None = None
    """Peak of one device in TFLOP/s, for the model FLOPs utilisation; null = that of known devices, and
    none of others."""
    tensorboard: bool = False
    """Write event files for TensorBoard to the run's folder, too (extra tensorboard)."""
    wandb: WandbSection = WandbSection()
    """Weights & Biases."""


class Config(Section):
    """A whole run."""

    run: RunSection
    """What the run is called and where its files go."""
    model: ModelSection
    """The model and how its weights start."""
    data: DataSection
    """What the run trains on."""
    parallel: ParallelSection = ParallelSection()
    """How a sequence is split over ranks: sequence parallel (context parallel)."""
    zero: ZeroSection = ZeroSection()
    """DeepSpeed ZeRO."""
    train: TrainSection
    """The optimisation of the outer parameters."""
    evaluate: EvaluateSection = EvaluateSection()
    """Held-out loss during training."""
    checkpoint: CheckpointSection = CheckpointSection()
    """Saving and resuming."""
    logging: LoggingSection = LoggingSection()
    """What is logged while training."""

    def architecture(self) -> TTTConfig:
        """The official fields of `model`: the preset's, replaced by those written beside it."""
        return TTTConfig(**{name: getattr(self.model, name) for name in TTTConfig.model_fields})

    @property
    def alignment(self) -> int:
        """Multiple of tokens at which chunks and documents may begin, whatever the sequence layer."""
        return alignment(self.architecture())


def known_keys(section: type[BaseModel] = Config, prefix: tuple[str, ...] = ()) -> set[tuple]:
    """Paths of all keys and sections, such as ("train", "lr"); those in lists have no index."""
    keys: set[tuple] = set()
    for name, field in section.model_fields.items():
        keys.add((*prefix, name))
        for inner in _sections_in(field.annotation):
            keys |= known_keys(inner, (*prefix, name))
    return keys


def _sections_in(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for argument in get_args(annotation):
        yield from _sections_in(argument)
