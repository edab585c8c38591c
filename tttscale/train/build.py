"""From a configuration to the parts of a run: device, mesh, model, sweeps, optimizer."""

import os
import re
import shutil
from pathlib import Path
from typing import Any

import torch

from tttscale import __version__
from tttscale.cluster.ranks import Ranks
from tttscale.comm import mesh as meshes
from tttscale.comm.mesh import Mesh
from tttscale.config import Config, flat_keys
from tttscale.data.windows.mixture import Mixture
from tttscale.errors import CheckpointError, DataError, LaunchError
from tttscale.model import TTTForCausalLM
from tttscale.model import device as devices
from tttscale.model.layers import compile_operators
from tttscale.model.pretrained import load_weights
from tttscale.plan.memory import checkpoint_copy_bytes
from tttscale.scan.keep_policy import ActivationPolicy
from tttscale.scan.layout import Layout
from tttscale.scan.sweep import Sweeps
from tttscale.supervise.deadline import AUTO_SECONDS, Rules
from tttscale.supervise.page import say
from tttscale.train import cpu_products
from tttscale.train.checkpoint.manager import Checkpoint
from tttscale.train.engine import Engine
from tttscale.train.memory import available_bytes, tune_allocator

_MEMORY_SHARE = 0.5
"""The share of the free memory that kept activations may take."""
_OF_A_HOST = re.compile(r"^logging\.|^run\.(name|dir)$|\.(store|initial_weights|threads)$")
"""Keys that may differ between ranks: folders, and what only one process reads."""
_FINGERPRINT_DIGITS = 12
"""48 bits, which fp64 holds exactly on its way between ranks."""


def check_same_stores(mesh: Mesh, tokens: Mixture) -> None:
    """Compare the stores' fingerprints over all ranks; every rank calls this.

    Raises:
        DataError: a rank's store differs from rank 0's; all ranks raise it.
    """
    own = [int(c.store.fingerprint[:_FINGERPRINT_DIGITS], 16) for c in tokens.components]
    rows = mesh.gather([float(number) for number in own])
    different = (rows != rows[0]).nonzero()
    if len(different):
        rank, number = different[0].tolist()
        found, expected = (f"{int(row[number]):012x}" for row in (rows[rank], rows[0]))
        component = tokens.components[number]
        raise DataError(
            f"{component.key} = {component.path}: the store of rank {rank} "
            f"(fingerprint {found}...) differs from rank 0's ({expected}...). Give all hosts the same store, "
            "and compare with `tttscale data info`."
        )


def hang_rules(config: Config) -> Rules:
    """Return what this rank's supervisor must know to tell a hang from a legal wait."""
    asked, parallel = config.train.hang_seconds, config.parallel
    seconds = AUTO_SECONDS if asked == "auto" else float(asked)
    return Rules(seconds, parallel.sequence, parallel.layout)


def choose_device(config: Config, ranks: Ranks) -> torch.device:
    """Return the CPU or this rank's GPU.

    Raises:
        LaunchError: more ranks on this host than GPUs, or no GPU where one was asked for.
    """
    asked = config.train.device
    return devices.choose_device(asked, ranks.local_rank, "train.device", "train.device=cpu")


def prepare_host(config: Config, ranks: Ranks, device: torch.device) -> None:
    """Set threads and allocator of a rank that computes on CPUs."""
    if device.type == "cpu":
        set_threads(config, ranks)
        tune_allocator()


def set_threads(config: Config, ranks: Ranks) -> None:
    """Divide this host's cores among its ranks, or take those that the launcher gave to this one."""
    torch.set_num_threads(config.parallel.threads or ranks.cores())


def choose_products(
    mesh: Mesh, device: torch.device, resumed: Checkpoint | None
) -> tuple[str, ...]:
    """Choose how a CPU computes fp32 products, on all ranks alike; nothing on a GPU.

    Returns:
        Notices of the choice.
    """
    if device.type != "cpu":
        return ()
    had = resumed.manifest.versions if resumed is not None else {}
    return (cpu_products.choose(mesh, before=had.get(cpu_products.KEY)),)


def build_model(
    config: Config, device: torch.device, weights: Path | None = None
) -> TTTForCausalLM:
    """Build the model in fp32, equal on all ranks.

    Args:
        config: the run's.
        device: where the model computes.
        weights: a checkpoint's folder, instead of `model.initial_weights`.

    Raises:
        LaunchError: it has to be compiled, and there is no C++ compiler.
        CheckpointError: the weights cannot be loaded.
    """
    model = TTTForCausalLM(config.architecture(), config.model.init, config.run.seed)
    if weights is not None:
        load_weights(model, weights, resuming=True)
    elif config.model.initial_weights is not None:
        try:
            load_weights(model, config.model.initial_weights)
        except CheckpointError as error:
            raise CheckpointError(f"model.initial_weights: {error}") from None
    if wants_compile(config, device):
        compiler = os.environ.get("CXX", "g++")
        if shutil.which(compiler) is None:
            raise LaunchError(
                f"train.compile = {str(config.train.compile).lower()}: torch.compile needs a C++ compiler, "
                f"and there is no {compiler} on this host. Install one, name it in CXX, or set "
                "train.compile=false."
            )
        compile_operators(model)
    return model.to(device)


def wants_compile(config: Config, device: torch.device) -> bool:
    """Return `train.compile`; the device decides what "auto" is."""
    asked = config.train.compile
    return device.type == "cuda" if asked == "auto" else asked


def warm_up(sweeps: Sweeps) -> None:
    """Run one block of each kind and the head on a whole chunk of zeros, forward and backward.

    Compiled code may depend on the first lengths that it sees. With this all ranks see the same, whatever
    chunks they own, and the first step is as fast as the others.
    """
    model, shape = sweeps.model, (sweeps.batch, sweeps.schedule.layout.chunk_tokens)
    ids = torch.zeros(shape, dtype=torch.int64, device=sweeps.device)
    for with_grad in (False, True):
        with torch.set_grad_enabled(with_grad), sweeps.runner.precision():
            x = model.embed(ids)
            for block in {block.name: block for block in model.carry_layers}.values():
                x = block(x)
            loss, _ = model.head(x, ids)
    loss.backward()
    model.zero_grad()


def build_sweeps(
    config: Config,
    model: TTTForCausalLM,
    mesh: Mesh,
    *,
    sequences: int,
    batch: int,
    keep: ActivationPolicy | None = None,
) -> Sweeps:
    """Build sweeps over `sequences` places of `batch` sequences side by side."""
    parallel = config.parallel
    layout = Layout(
        parallel.layout,
        config.data.sequence_length,
        parallel.chunk_length,
        parallel.sequence,
        sequences,
    )
    return Sweeps(
        model,
        layout,
        mesh.transport,
        batch=batch,
        keep=keep,
        autocast=torch.bfloat16 if config.train.precision == "bf16" else None,
    )


def training_sweeps(
    config: Config, model: TTTForCausalLM, mesh: Mesh, keep: ActivationPolicy
) -> Sweeps:
    """Build the sweeps over this replica's share of a step's sequences."""
    share, batch = config.train.sequences_per_step // mesh.replicas, config.parallel.batch
    return build_sweeps(config, model, mesh, sequences=share // batch, batch=batch, keep=keep)


def evaluation_sweeps(
    config: Config, model: TTTForCausalLM, mesh: Mesh, tokens: Mixture
) -> Sweeps | None:
    """Build the sweeps over this replica's share of the held-out windows; None if it has none."""
    heldout = config.evaluate.sequences if tokens.heldout is not None else 0
    share = len(range(mesh.replica, heldout, mesh.replicas))
    return build_sweeps(config, model, mesh, sequences=share, batch=1) if share else None


def keep_policy(
    config: Config, ranks: Ranks, device: torch.device, saved_parameters: int = 0
) -> ActivationPolicy:
    """Return the policy of `parallel.keep_chunks`; "auto" has this rank's share of the free memory.

    Args:
        config: the run's.
        ranks: this rank.
        device: of this rank.
        saved_parameters: of a model whose run may save it; room for its checkpoints' copy is left.
    """
    copy_bytes = checkpoint_copy_bytes(
        config, ranks.world_size, device.type == "cuda", saved_parameters
    )

    def available() -> int:
        """Bytes that kept chunks may take."""
        if device.type == "cuda":
            return int(torch.cuda.mem_get_info(device)[0] * _MEMORY_SHARE)
        return int((available_bytes() / ranks.local_world_size - copy_bytes) * _MEMORY_SHARE)

    return ActivationPolicy(config.parallel.keep_chunks, available)


def build_engine(config: Config, model: TTTForCausalLM, mesh: Mesh) -> Engine:
    """Build AdamW under DeepSpeed's ZeRO; every rank calls this."""
    train = config.train
    return Engine(
        model,
        mesh,
        zero_stage=config.zero.stage,
        lr=train.lr,
        betas=train.betas,
        eps=train.eps,
        weight_decay=train.weight_decay,
        grad_clip=train.grad_clip,
        overlap_reduction=mesh.world_size > 1 and overlaps_reduction(config, model),
    )


def overlaps_reduction(config: Config, model: TTTForCausalLM) -> bool:
    """Return `zero.overlap_reduction`; the device decides what "auto" is."""
    asked = config.zero.overlap_reduction
    on_cpu = next(model.parameters()).device.type == "cpu"
    return config.zero.stage < 3 and (on_cpu if asked == "auto" else asked)


def connect(config: Config, ranks: Ranks, device: torch.device) -> Mesh:
    """Join the other ranks.

    Raises:
        LaunchError: their configuration or version differs.
    """
    say("watch", hang_rules(config).text())  # `train` has said so earlier
    return meshes.start(
        ranks,
        config.parallel.sequence,
        device,
        agreed=_agreed(config.model_dump(mode="json")),
        transport=config.parallel.transport,
    )


def _agreed(section: dict[str, Any]) -> dict[str, str]:
    """Return what all ranks must have in common: the version, and all keys but those of a host."""
    keys = dict(flat_keys(section))
    return {"version": __version__} | {
        key: value for key, value in keys.items() if not _OF_A_HOST.search(key)
    }
