"""The verbs that need a run's configuration, and those that draw and compare runs: flags only.

They parse first and import what they need afterwards, so --help is quick.
"""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tttscale.cluster import Ranks, discover, join
from tttscale.cluster.torchelastic import tell_torchrun
from tttscale.config.arguments import ConfigFile, Overrides, RunFolder
from tttscale.config.completion import complete_config
from tttscale.config.paths import path_argument
from tttscale.errors import DataError, LaunchError
from tttscale.observe.guard import print_result
from tttscale.supervise import page

if TYPE_CHECKING:
    from tttscale.observe.spans import Trace
    from tttscale.scan.layout import Layout

CostsFile = Annotated[
    Path | None,
    typer.Option(parser=path_argument, help="A file of costs instead (bench step --calibrate)."),
]


def train(
    config: ConfigFile,
    overrides: Overrides = None,
    print_config: Annotated[
        bool, typer.Option("--print-config", help="Print the resolved configuration and stop.")
    ] = False,
) -> None:
    """Train: alone, or as one process of a torchrun, deepspeed, mpirun or srun job.

    Example: `tttscale train quickstart train.steps=20 data.sequence_length=64Ki`
    """
    from tttscale.config import check_world, dump_config, load_config

    resolved = load_config(config, overrides or [])
    ranks = _join()
    if print_config:
        if ranks.rank == 0:
            print_result(dump_config(resolved).rstrip("\n"))
        return
    check_world(resolved, ranks.world_size)
    page.say("folder", str((Path(resolved.run.dir) / resolved.run.name).absolute()))
    _prepare_torch()
    from tttscale.train.main import train as run

    raise typer.Exit(run(resolved, ranks))


def profile(
    config: ConfigFile,
    overrides: Overrides = None,
    steps: Annotated[int, typer.Option(min=1, max=1000, help="Steps to trace.")] = 3,
    out: Annotated[
        Path | None,
        typer.Option(
            parser=path_argument, help="Folder of the results; default: profile in the run's."
        ),
    ] = None,
    torch_profiler: Annotated[
        bool,
        typer.Option("--torch-profiler", help="Also write torch.profiler's trace of every rank."),
    ] = False,
    max_events: Annotated[
        int, typer.Option(min=1000, help="Largest number of events in the merged trace.")
    ] = 1_000_000,
) -> None:
    """See how communication overlaps: trace a few steps, alone or as one process of a job, as `train`.

    Writes one merged trace for Perfetto, and a report as a page, markdown and JSON. It ends with what to
    change and by how much, simulated with the costs of this machine. A run's own files stay as they are.

    Example: `tttscale profile quickstart --steps 5`, or of a job:
    `tttscale launch torchrun quickstart -n 2 --verb profile`
    """
    from tttscale.config import check_world, load_config

    resolved = load_config(config, overrides or [])
    ranks = _join()
    check_world(resolved, ranks.world_size)
    _prepare_torch()
    from tttscale.profile.main import Options
    from tttscale.profile.main import profile as run

    raise typer.Exit(run(resolved, ranks, Options(steps, out, torch_profiler, max_events)))


def plot(
    run_dir: RunFolder,
) -> None:
    """Draw a run's plots again from its metrics.

    Example: `tttscale plot runs/quickstart`
    """
    from tttscale.observe.plots import plot_run

    drawn = plot_run(run_dir)
    if not drawn:
        raise DataError(
            f"{run_dir} holds no metrics.jsonl or positions.json to plot. Give a run's folder, "
            "which is run.dir/run.name."
        )
    for path in drawn:
        typer.echo(path)


def baseline(
    run_dir: RunFolder,
    overrides: Overrides = None,
) -> None:
    """Compare a run's held-out loss with a bigram model of its training text.

    Example: `tttscale baseline runs/quickstart`
    """
    from tttscale.evaluate.bigram import compare

    print_result(compare(run_dir, overrides or []).render())


def plan(
    config: ConfigFile,
    overrides: Overrides = None,
    nodes: Annotated[
        int | None,
        typer.Option(
            min=1,
            max=4096,
            help="Hosts; default: 1, or without --gpus-per-node what one replica (parallel.sequence) takes.",
        ),
    ] = None,
    gpus_per_node: Annotated[
        int | None,
        typer.Option(
            "--gpus-per-node",
            min=1,
            max=64,
            help="GPUs of a host, one for each rank; default: 8, or without --nodes what one replica takes.",
        ),
    ] = None,
    gpu: Annotated[
        str, typer.Option(help="Which: h200, h100, a100, cpu, or measured (costs.json).")
    ] = "h200",
    costs: CostsFile = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    plot: Annotated[
        Path | None,
        typer.Option(
            "--plot", parser=path_argument, help="Draw time against ranks and context, as PNG."
        ),
    ] = None,
) -> None:
    """Predict memory and time of a run on so many GPUs, and look for a better way. Needs no GPU.

    Example: `tttscale plan ttt-linear-1.3b-1Mi --nodes 4 --gpus-per-node 8 --gpu h200`
    """
    from tttscale.config import load_config
    from tttscale.plan.plan_run import run

    resolved = load_config(config, overrides or [])
    print_result(
        run(
            resolved,
            nodes=nodes,
            per_node=gpus_per_node,
            gpu=gpu,
            costs=costs,
            as_json=as_json,
            plot=plot,
        )
    )


def rehearse(
    config: ConfigFile,
    overrides: Overrides = None,
    ranks: Annotated[
        int | None,
        typer.Option(min=1, max=512, help="Ranks of a sequence; default: parallel.sequence."),
    ] = None,
    sequences: Annotated[
        int, typer.Option(min=1, help="Sequences of a step that these ranks share.")
    ] = 1,
    gpu: Annotated[
        str, typer.Option(help="Whose costs: h200, h100, a100, cpu, or measured (costs.json).")
    ] = "h200",
    costs: CostsFile = None,
    ranks_per_host: Annotated[
        int, typer.Option("--gpus-per-node", min=1, help="Neighbouring ranks that share a host.")
    ] = 8,
    out: Annotated[
        Path | None,
        typer.Option(
            parser=path_argument, help="Write a trace that Perfetto opens, .json or .json.gz."
        ),
    ] = None,
    report: Annotated[
        Path | None,
        typer.Option(
            parser=path_argument,
            help="Folder for a whole report with its page, as `profile` writes it.",
        ),
    ] = None,
) -> None:
    """Rehearse a step of many ranks here: the real schedule and sweeps, with compute in virtual time.

    Example: `tttscale rehearse ttt-linear-1.3b-1Mi --ranks 16 --gpu h200`
    """
    from tttscale.config import load_config
    from tttscale.plan.chosen_costs import chosen_costs
    from tttscale.plan.rehearsal_run import run

    resolved = load_config(config, overrides or [])
    chosen = chosen_costs(gpu, costs, resolved)
    if report is not None:
        from tttscale.profile.results import check_results_folder

        check_results_folder(report, "--report")

    def show(layout: "Layout", kept: float, trace: "Trace") -> None:
        """Write the report."""
        from tttscale.profile.rehearsed import write_rehearsal

        assert report is not None
        write_rehearsal(report, resolved, layout, chosen, kept, ranks_per_host, trace)

    print_result(
        run(
            resolved,
            chosen,
            ranks=ranks,
            sequences=sequences,
            ranks_per_host=ranks_per_host,
            out=out,
            show=None if report is None else show,
        )
    )


def doctor(
    config: Annotated[
        Path | None,
        typer.Argument(
            parser=path_argument,
            autocompletion=complete_config,
            help="The run's YAML file, or a name that `tttscale configs` lists; default: no run's.",
        ),
    ] = None,
    overrides: Overrides = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    seconds: Annotated[
        float, typer.Option(min=1, help="After which it ends with what it has found.")
    ] = 58,
) -> None:
    """Look for what is wrong with this machine or, under a launcher, with the job.

    Every line is ok, a warning or a problem with its remedy. Under torchrun, deepspeed, mpirun or srun it
    shows where the ranks are and whether their versions agree, and measures the links between neighbours.

    Exit codes: 0 no problem; 1 a problem; 64 the configuration or an option is wrong.

    Example: `tttscale doctor`, or of a job: `tttscale launch torchrun -n 2 --verb doctor`
    """
    from tttscale.config import load_config
    from tttscale.doctor.main import examine

    resolved = load_config(config, overrides or []) if config is not None else None
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    trouble = None
    try:
        ranks = join(os.environ)
    except LaunchError as error:
        ranks, trouble = discover({}), str(error)
    code = examine(
        resolved,
        ranks,
        lambda report: print_result(report.json() if as_json else report.text()),
        seconds,
        trouble,
    )
    if code:
        tell_torchrun("the doctor found a problem; see its report")
    raise typer.Exit(code)


def _join() -> Ranks:
    """Find this rank's place; from now on it ends with its launcher, unless its supervisor sees to that."""
    return join(os.environ) if page.Page.own is None else discover(os.environ)


def _prepare_torch() -> None:
    """Set what torch reads when it is imported."""
    # Threads of torch that spin while they wait slow each other down on a busy host. OpenMP reads this once.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    # Hide its retries while ranks meet, each with a C++ traceback; if they fail we raise an error of ours.
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
