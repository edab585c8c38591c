"""From a configuration and what is wanted of Slurm to a job that fits both."""

from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from tttscale.cluster.slurm import SlurmJob, render, submit
from tttscale.config import Config, check_world, load_config
from tttscale.errors import ConfigError, DataError
from tttscale.files import write_text
from tttscale.location import Location
from tttscale.scrub import scrubbed
from tttscale.train.run_folder import check_folder, run_folder

_GPU_RANK_CPUS = 8


@dataclass(frozen=True)
class Wishes:
    """What the command line says of the job; None: what fits the run."""

    nodes: int
    gpus_per_node: int = 0
    ranks_per_node: int | None = None
    cpus_per_rank: int | None = None
    time: str = "24:00:00"
    lead_seconds: int = 300
    partition: str | None = None
    options: tuple[str, ...] = ()
    requeue: bool = True


class Rendered(NamedTuple):
    """A job, and its file."""

    job: SlurmJob
    text: str


def prepare(
    path: Path, overrides: list[str], wishes: Wishes, *, python: Path, folder: Path
) -> tuple[Rendered, list[str]]:
    """Check everything that can be checked before the job waits in a queue.

    Args:
        path: the run's file.
        overrides: of its keys.
        wishes: of Slurm.
        python: the interpreter that has tttscale, by its whole path.
        folder: in which the job runs.

    Returns:
        The job, and notices for the user.

    Raises:
        ConfigError: the configuration does not load or fit the job; the run's folder has another run.
        CheckpointError: the run's checkpoints are lost.
        DataError: the stores are on this host, and do not fit the run.
    """
    _refuse_credentials([str(path), *overrides])
    config = load_config(path, overrides)
    ranks = wishes.ranks_per_node or wishes.gpus_per_node or _ranks_needed(config, wishes.nodes)
    check_world(config, wishes.nodes * ranks)
    _check_devices(config, ranks, wishes.gpus_per_node)
    check_folder(config)
    job = SlurmJob(
        name=config.run.name,
        nodes=wishes.nodes,
        ranks_per_node=ranks,
        command=(str(python), "-m", "tttscale", "train", str(path), *overrides),
        folder=folder,
        logs=folder / run_folder(config) / "slurm",
        gpus_per_node=wishes.gpus_per_node,
        cpus_per_rank=wishes.cpus_per_rank or (_GPU_RANK_CPUS if wishes.gpus_per_node else 1),
        time=wishes.time,
        lead_seconds=wishes.lead_seconds,
        partition=wishes.partition,
        requeue=wishes.requeue,
        options=wishes.options,
    )
    return Rendered(job, render(job)), _notices(config)


def submitted(rendered: Rendered) -> str:
    """Write the file into the run's folder and hand it to sbatch.

    Returns:
        Lines that say which job it is, and where its logs are.

    Raises:
        ConfigError: the run's folder cannot be written.
        LaunchError: there is no sbatch, or it refuses the job.
    """
    job = rendered.job
    try:
        job.logs.mkdir(parents=True, exist_ok=True)
        write_text(job.path, rendered.text)
    except OSError as error:
        raise ConfigError(
            f"run.dir: {job.path} cannot be written ({error.strerror or error}). Set run.dir to a folder "
            "that this host and the nodes share."
        ) from None
    number = submit(job)
    return (
        f"job {number}: {job.name} on {job.nodes} node(s) x {job.ranks_per_node} rank(s)\n"
        f"  file  {job.path}\n"
        f"  log   {job.logs}/{number}.log\n"
        f"  squeue --job {number}    scancel {number}    tttscale launch status {job.logs.parent}\n"
        f"  save and end: scontrol update JobId={number} Requeue=0 && scancel --signal=USR1 {number}"
    )


def _refuse_credentials(words: list[str]) -> None:
    for word in words:
        if scrubbed(word) != word:
            raise ConfigError(
                f"{word!r}: a credential would be written into the job's file. Keep it where its library "
                "looks for it: in an environment variable or in a file of its own."
            )


def _ranks_needed(config: Config, nodes: int) -> int:
    return -(-config.parallel.sequence // nodes)


def _check_devices(config: Config, ranks: int, gpus: int) -> None:
    asked = config.train.device
    if asked == "cuda" and not gpus:
        raise ConfigError(
            "train.device = cuda, but the job has no GPUs. Give --gpus-per-node, or set train.device=auto."
        )
    if gpus and asked != "cpu" and ranks > gpus:
        raise ConfigError(
            f"--ranks-per-node {ranks}: every rank needs a GPU, and --gpus-per-node is {gpus}. Start fewer "
            "ranks per node, or set train.device=cpu."
        )


def _notices(config: Config) -> list[str]:
    """What need not be wrong: the nodes may have what this host lacks.

    Raises:
        DataError: the stores are here, and do not fit the run.
    """
    from tttscale.data.windows.mixture import open_mixture

    notices, stores = [], [component.store for component in config.data.components]
    here = all(not Location(store).is_remote and Path(store).exists() for store in stores)
    try:
        open_mixture(config)
    except DataError as error:
        if here:
            raise
        notices.append(f"from this host the data cannot be read, the nodes must have it: {error}")
    if config.checkpoint.every == 0:
        notices.append(
            "checkpoint.every = 0: the run saves nothing, neither before the time limit nor in case a "
            "node fails. Set checkpoint.every."
        )
    return notices
