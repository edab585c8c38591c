"""`tttscale launch ...`: start the ranks of a run, hand it to a batch system, see what became of it."""

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from tttscale.config.arguments import ConfigFile, Overrides, RunFolder
from tttscale.config.completion import complete_words
from tttscale.config.paths import path_argument
from tttscale.launch.start import HANDED_ON, ScriptCommand, start
from tttscale.observe.guard import print_result
from tttscale.scrub import scrubbed

Words = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="CONFIG KEY=VALUE ... -- OPTION ...",
        autocompletion=complete_words,
        help="What the verb takes; after a -- options of the launcher.",
    ),
]
Ranks = Annotated[
    int | None, typer.Option("--ranks", "-n", min=1, help="Ranks of this host; default: 2.")
]
Hostfile = Annotated[
    Path | None,
    typer.Option(parser=path_argument, help='Several hosts: a file with lines of "host slots=8".'),
]
Verb = Annotated[
    str | None, typer.Option(help="What the ranks do: train, profile, doctor, ...; default: train.")
]
NodeRank = Annotated[int | None, typer.Option(min=0, help="Which of the hosts this is, from 0.")]
MasterAddress = Annotated[str | None, typer.Option("--master-addr", help="The first host.")]
MasterPort = Annotated[int | None, typer.Option(min=1, max=65535, help="A free port of it.")]

app = typer.Typer(
    help="Start the ranks of a run, hand it to a batch system, start it again, see what became of it.",
    no_args_is_help=True,
)


@app.callback()
def _root() -> None:
    pass


@app.command("torchrun", cls=ScriptCommand, context_settings=HANDED_ON)
def torchrun(
    words: Words = None,
    ranks: Ranks = None,
    nodes: Annotated[
        int | None, typer.Option(min=1, help="Hosts; start it on each of them. Default: 1.")
    ] = None,
    node_rank: NodeRank = None,
    master_addr: MasterAddress = None,
    master_port: MasterPort = None,
    verb: Verb = None,
) -> None:
    """Start the ranks of this host with torchrun: one per GPU, or so many CPU processes.

    What is not given here is taken from the variables N, NODES, NODE_RANK, MASTER_ADDR, MASTER_PORT, VERB and
    TORCHRUN_ARGS.

    Example: `tttscale launch torchrun ttt-linear-125m-1Mi -n 8`, or with options of torchrun:
    `tttscale launch torchrun quickstart train.steps=20 -- --max-restarts 3`
    """
    place = dict(NODES=nodes, NODE_RANK=node_rank, MASTER_ADDR=master_addr, MASTER_PORT=master_port)
    start("torchrun.sh", words or [], {"N": ranks, "VERB": verb, **place})


@app.command("deepspeed", cls=ScriptCommand, context_settings=HANDED_ON)
def deepspeed(
    words: Words = None,
    ranks: Ranks = None,
    hostfile: Hostfile = None,
    node_rank: NodeRank = None,
    master_addr: MasterAddress = None,
    master_port: MasterPort = None,
    verb: Verb = None,
) -> None:
    """Start the ranks with the deepspeed launcher; several hosts by pdsh and ssh, or on each of them.

    What is not given here is taken from the variables N, HOSTFILE, NODE_RANK, MASTER_ADDR, MASTER_PORT, VERB
    and DEEPSPEED_ARGS.

    Example: `tttscale launch deepspeed ttt-linear-125m-1Mi -n 8`, or on several hosts:
    `tttscale launch deepspeed ttt-linear-1.3b-1Mi --hostfile hosts`
    """
    place = dict(NODE_RANK=node_rank, MASTER_ADDR=master_addr, MASTER_PORT=master_port)
    start("deepspeed.sh", words or [], {"N": ranks, "VERB": verb, "HOSTFILE": hostfile, **place})


@app.command("mpirun", cls=ScriptCommand, context_settings=HANDED_ON)
def mpirun(
    words: Words = None,
    ranks: Annotated[
        int | None,
        typer.Option(
            "--ranks", "-n", min=1, help="Ranks in all; default: those of the hosts, or 2."
        ),
    ] = None,
    hostfile: Hostfile = None,
    verb: Verb = None,
) -> None:
    """Start the ranks with the mpirun of Open MPI or MPICH, the site's own before one that pip installed.

    What is not given here is taken from the variables N, HOSTFILE, VERB, MPIRUN and MPIRUN_ARGS.

    Example: `tttscale launch mpirun ttt-linear-125m-1Mi -n 8`, or with carries over MPI, too:
    `tttscale launch mpirun ttt-linear-125m-1Mi --hostfile hosts parallel.transport=mpi`
    """
    start("mpirun.sh", words or [], {"N": ranks, "VERB": verb, "HOSTFILE": hostfile})


@app.command("build-data", cls=ScriptCommand, context_settings=HANDED_ON)
def build_data(
    words: Annotated[
        list[str],
        typer.Argument(
            metavar="OUT SOURCES ... -- OPTION ...",
            help="What `tttscale data build` takes; after a -- options of mpirun.",
        ),
    ],
    hosts: Annotated[
        int | None, typer.Option("--hosts", "-n", min=1, help="How many; default: those named.")
    ] = None,
    hostfile: Annotated[
        Path | None, typer.Option(parser=path_argument, help="A file with one host a line.")
    ] = None,
    verb: Annotated[str | None, typer.Option(help="build or verify; default: build.")] = None,
) -> None:
    """Build a token store on several hosts that share a file system: one MPI rank a host, with workers.

    Also in a Slurm allocation. What is not given here is taken from the variables N, HOSTFILE, VERB, MPIRUN,
    MPIRUN_ARGS and SRUN_ARGS.

    Example: `tttscale launch build-data stores/books books/ --tokenizer books.json --hostfile hosts`
    """
    start("build_data.sh", words, {"N": hosts, "VERB": verb, "HOSTFILE": hostfile})


@app.command("quickstart")
def quickstart(
    steps: Annotated[int | None, typer.Option(min=1, help="Of training; default: 40.")] = None,
) -> None:
    """From nothing to a trained model in ten minutes on two CPU cores: a token store, a run, its plots.

    The text is this Python's own standard library; stores/ and runs/ are made in the working folder.

    Example: `tttscale launch quickstart`
    """
    start("quickstart.sh", [], {"QUICKSTART_STEPS": steps})


@app.command("slurm")
def slurm(
    config: ConfigFile,
    nodes: Annotated[int, typer.Option(min=1, help="Hosts.")],
    overrides: Overrides = None,
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

    Example: `tttscale launch slurm ttt-linear-1.3b-1Mi --nodes 4 --gpus-per-node 8 --dry-run`
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

    Example: `tttscale launch again -- tttscale train quickstart parallel.sequence=1`, or
    `tttscale launch again --max-restarts 50 -- tttscale launch torchrun quickstart`
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
    run_dir: RunFolder,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Say what became of a run: running, finished, saved, failed and of what, killed; from its files only.

    Exit codes: 0 whatever has become of it; 64 the folder is no run's.

    Example: `tttscale launch status runs/quickstart`
    """
    from tttscale.launch.status import look

    found = look(run_dir)
    print_result(found.json() if as_json else found.text())
