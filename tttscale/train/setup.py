"""From a configuration to the parts of a run: tokens, mesh, model, sweeps, optimizer."""

import os
from dataclasses import dataclass

import psutil
import torch

from tttscale.cluster.ranks import Ranks
from tttscale.comm import mesh as meshes
from tttscale.comm.mesh import Mesh
from tttscale.config import Config
from tttscale.data import TokenStore, Windows
from tttscale.errors import ConfigError, DataError, LaunchError
from tttscale.model import TTTForCausalLM
from tttscale.model.pretrained import load_weights
from tttscale.scan.carry import CarryLayout
from tttscale.scan.layout import Layout
from tttscale.scan.memory import KeepPolicy
from tttscale.scan.schedule import Schedule
from tttscale.scan.sweep import Sweeps
from tttscale.train.engine import Engine

_MEMORY_SHARE = 0.5
"""Part of the free memory that kept activations may take."""


@dataclass(frozen=True)
class Tokens:
    """The windows that a run trains on and is measured by."""

    train: Windows
    heldout: Windows | None
    store: TokenStore


def open_tokens(config: Config) -> Tokens:
    """Open the store and check that it fits the run.

    Raises:
        DataError: no such store, another vocabulary than the model's, too few tokens.
    """
    store = TokenStore.open(config.data.store)
    vocabulary = store.info.tokenizer.vocab_size
    if vocabulary > config.model.vocab_size:
        raise DataError(
            f"data.store = {config.data.store} has token ids up to {vocabulary - 1}, but "
            f"model.vocab_size = {config.model.vocab_size}. Set model.vocab_size={vocabulary}."
        )

    def windows(split: str) -> Windows:
        data, size = config.data, config.model.mini_batch_size
        tokens = store.split(split)
        return Windows(tokens, data.sequence_length, config.run.seed, size, data.documents)

    train = windows(config.data.split)
    if config.evaluate.sequences == 0:
        return Tokens(train, None, store)
    try:
        heldout = windows(config.data.heldout_split)
    except DataError as error:
        raise DataError(
            f"data.heldout_split = {config.data.heldout_split}: {error} "
            "Or set evaluate.sequences=0 to train without held-out losses."
        ) from None
    if heldout.count < config.evaluate.sequences:
        raise ConfigError(
            f"evaluate.sequences = {config.evaluate.sequences}, but the held-out split has "
            f"{heldout.count} windows of {config.data.sequence_length} tokens. "
            f"Set evaluate.sequences={heldout.count} or less."
        )
    return Tokens(train, heldout, store)


def choose_device(config: Config, ranks: Ranks) -> torch.device:
    """CPU or this rank's GPU.

    Raises:
        LaunchError: more ranks on this host than GPUs, or no GPU where one was asked for.
    """
    asked, gpus = config.train.device, torch.cuda.device_count()
    if asked == "cpu" or (asked == "auto" and gpus == 0):
        return torch.device("cpu")
    if ranks.local_rank >= gpus:
        raise LaunchError(
            f"train.device = {asked}: local rank {ranks.local_rank} needs a GPU, this host has {gpus}. "
            "Start fewer processes per host, or set train.device=cpu."
        )
    torch.cuda.set_device(ranks.local_rank)
    return torch.device("cuda", ranks.local_rank)


def set_threads(config: Config, ranks: Ranks) -> None:
    """Share this host's cores between its ranks."""
    cores = len(os.sched_getaffinity(0))
    torch.set_num_threads(config.parallel.threads or max(1, cores // ranks.local_world_size))


def build_model(config: Config, device: torch.device) -> TTTForCausalLM:
    """The model in fp32, equal on all ranks."""
    model = TTTForCausalLM(config.architecture(), config.model.init, config.run.seed)
    if config.model.initial_weights is not None:
        load_weights(model, config.model.initial_weights)
    return model.to(device)


def build_sweeps(
    config: Config,
    model: TTTForCausalLM,
    mesh: Mesh,
    *,
    sequences: int,
    batch: int,
    keep: KeepPolicy | None = None,
) -> Sweeps:
    """Sweeps over `sequences` places of `batch` sequences side by side."""
    parallel, shape = config.parallel, config.architecture()
    layout = Layout(
        parallel.layout,
        config.data.sequence_length,
        parallel.chunk_length,
        parallel.sequence,
        sequences,
    )
    dtype = next(model.parameters()).dtype
    parts = tuple(CarryLayout.of(shape, batch, dtype).parts)
    return Sweeps(
        model,
        Schedule(layout, shape.num_hidden_layers, parts),
        mesh.transport,
        batch=batch,
        keep=keep,
        autocast=torch.bfloat16 if config.train.precision == "bf16" else None,
    )


def keep_policy(config: Config, ranks: Ranks, device: torch.device) -> KeepPolicy:
    """`parallel.keep_chunks`, with this rank's share of the free memory for "auto"."""

    def available() -> int:
        if device.type == "cuda":
            return int(torch.cuda.mem_get_info(device)[0] * _MEMORY_SHARE)
        free = psutil.virtual_memory().available
        return int(free * _MEMORY_SHARE / ranks.local_world_size)

    return KeepPolicy(config.parallel.keep_chunks, available)


def build_engine(config: Config, model: TTTForCausalLM, mesh: Mesh) -> Engine:
    """AdamW under DeepSpeed ZeRO."""
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
    )


def connect(config: Config, ranks: Ranks, device: torch.device) -> Mesh:
    """Join the other ranks."""
    return meshes.start(ranks, config.parallel.sequence, device)
