"""`tttscale launch ...`: hand a run to a batch system, start it again, see what became of it."""

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from tttscale.config.paths import path_argument
from tttscale.observe.guard import print_result
from tttscale.scrub import scrubbed

app = typer.Typer(
    help="Hand runs to a batch system, start them again, see what became of them.",
    no_args_is_help=True,
)


@app.callback()
def _root() -> None:
    pass


@app.command("slurm")
def slurm(
    config: Annotated[Path, typer.Argument(parser=path_argument, help="The run's YAML file.")],
    nodes: Annotated[int, typer.Option(min=1, help="Hosts.")],
    overrides: Annotated[
        list[str] | None, typer.Argument(metavar="KEY=VALUE", help="Such as train.lr=3e-4.")
    ] = None,
    gpus_per_node: Annotated[
        int, typer.Option(min=0, help="GPUs of a host; 0: the run computes on CPUs.")
    ] = 0,
    ranks_per_node: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Default: one per GPU; without GPUs, as many as parallel.sequence needs.",
        ),
    ] = None,
    cpus_per_rank: Annotated[
        int | None, typer.Option(min=1, help="Cores. Default: 8 with GPUs, 1 without.")
    ] = None,
    time: Annotated[
        str, typer.Option(help="The limit, as 90 (minutes), 24:00:00 or 2-12.")
    ] = "24:00:00",
    lead_seconds: Annotated[
        int, typer.Option(min=1, max=65535, help="How long before it the run is told to save.")
    ] = 300,
    partition: Annotated[str | None, typer.Option(help="The queue; default: the site's.")] = None,
    sbatch: Annotated[
        list[str] | None,
        typer.Option(help="Another option of sbatch, such as account=physics; may be repeated."),
    ] = None,
    requeue: Annotated[
        bool,
        typer.Option(
            help="Start again after the time limit, a lost rank or node, until the run is finished."
        ),
    ] = True,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the file; write and submit nothing.")
    ] = False,
) -> None:
    """Write an sbatch file for a run and submit it; the configuration is checked first, as `train` does.

    Exit codes: 0 submitted; 64 the configuration or an option is wrong; 69 there is no sbatch, or it refuses.

    Example: `tttscale launch slurm configs/ttt-linear-1.3b-1Mi.yaml --nodes 4 --gpus-per-node 8 --dry-run`
    """
    from tttscale.launch.slurm import Wishes, prepare, submitted

    rendered, notes = prepare(
        config,
        overrides or [],
        Wishes(
            nodes=nodes,
            gpus_per_node=gpus_per_node,
            ranks_per_node=ranks_per_node,
            cpus_per_rank=cpus_per_rank,
            time=time,
            lead_seconds=lead_seconds,
            partition=partition,
            options=tuple(sbatch or ()),
            requeue=requeue,
        ),
        python=Path(sys.executable),
        folder=Path.cwd(),
    )
    for note in notes:
        typer.echo(scrubbed(f"note: {note}"), err=True)
    print_result(rendered.text.rstrip("\n") if dry_run else submitted(rendered))


@app.command("again")
def again(
    command: Annotated[
        list[str], typer.Argument(metavar="-- COMMAND", help="What to start, with its arguments.")
    ],
    max_restarts: Annotated[
        int, typer.Option(min=0, max=100_000, help="How often it is started again at most.")
    ] = 10,
    pause: Annotated[
        float,
        typer.Option(
            min=0,
            max=3600,
            help="Seconds before it is started again; doubled with each failure without progress.",
        ),
    ] = 5,
) -> None:
    """Start a command again while its exit code is one to retry: saved, a lost rank, a hang.

    It stops when the run is finished, when a person has to look (a wrong key, damaged data, a full disk), and
    when starts fail without a new checkpoint (checkpoint.max_attempts). SIGTERM, SIGINT and SIGUSR1 are
    handed on, and then it does not start again. The exit code is that of the last start, also under launchers
    that end with 1 whatever has become of the run.

    Example: `tttscale launch again -- tttscale train configs/quickstart.yaml parallel.sequence=1`, or
    `tttscale launch again --max-restarts 50 -- bash launch/torchrun.sh configs/quickstart.yaml`
    """
    from tttscale.launch.again import Again, run_of

    loop = Again(
        command,
        run_of(command),
        max_restarts=max_restarts,
        pause_seconds=pause,
        environ=os.environ,
    )
    raise typer.Exit(loop.run())


@app.command("status")
def status(
    run_dir: Annotated[
        Path, typer.Argument(parser=path_argument, help="A run's folder, such as runs/quickstart.")
    ],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Say what became of a run: running, finished, saved, failed and of what, killed; from its files only.

    Exit codes: 0 whatever has become of it; 64 the folder is no run's.

    Example: `tttscale launch status runs/quickstart`
    """
    from tttscale.launch.status import look

    found = look(run_dir)
    print_result(found.json() if as_json else found.text())
