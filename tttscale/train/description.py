"""What a run says of itself before its first step: its size, how it computes, what it trains on."""

from collections.abc import Iterator

import torch

from tttscale.comm.mesh import Mesh
from tttscale.config import Config
from tttscale.data.windows.mixture import Mixture, MixtureComponent
from tttscale.scan.sweep import Sweeps
from tttscale.train.build import wants_compile
from tttscale.train.ways import ways


def describe(config: Config, mesh: Mesh, sweeps: Sweeps, tokens: Mixture) -> list[str]:
    """Describe a run in lines for its console.

    Args:
        config: the run's.
        mesh: all ranks.
        sweeps: the training sweeps, with the model.
        tokens: the stores.
    """
    compiles = wants_compile(config, sweeps.device)
    return [
        _size(config, mesh, sweeps),
        *ways(config, sweeps.device, compiles, mesh.world_size),
        *tokens.notices,
        *(line for component in tokens.components for line in _component(component)),
    ]


def _size(config: Config, mesh: Mesh, sweeps: Sweeps) -> str:
    layout, parallel, device = sweeps.schedule.layout, config.parallel, sweeps.device
    parameters = sum(p.numel() for p in sweeps.model.parameters())
    threads = f" with {torch.get_num_threads()} thread(s) a rank" if device.type == "cpu" else ""
    over = " over MPI" if parallel.transport == "mpi" and parallel.sequence > 1 else ""
    return (
        f"{config.run.name}: {parameters:,} parameters, "
        f"{config.data.sequence_length:,} tokens per sequence in {layout.chunks} chunks of "
        f"{layout.chunk_tokens:,}; {mesh.replicas} replica(s) x {parallel.sequence} sequence "
        f"rank(s){over}, {parallel.layout}, ZeRO {config.zero.stage}, "
        f"{config.train.precision} on {device}{threads}"
    )


def _component(component: MixtureComponent) -> Iterator[str]:
    yield (
        f"{component.path}: {component.train.count:,} windows an epoch, "
        f"{component.train.fill:.1%} of their positions are tokens"
    )
    for split in component.splits.values():
        if split.damaged:
            tokens = sum(end - begin for begin, end in split.damaged)
            yield (
                f"{component.path}: {tokens:,} tokens of {split.name} in "
                f"{len(split.damaged)} ranges are quarantined and read as padding"
            )
