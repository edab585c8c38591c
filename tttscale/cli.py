"""The `tttscale` command. Verbs parse first and import what they need after: --help is quick."""

import os
import re
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from tttscale import __version__
from tttscale.bench.cli import app as bench_app
from tttscale.cluster import discover
from tttscale.cluster.interrupts import Interrupted, Interrupts
from tttscale.errors import DataError, LaunchError, TTTScaleError

_INTERRUPTED = 130
_OTHER_RANKS_WAIT_SECONDS = 3.0

app = typer.Typer(
    help="Train Test-Time-Training language models, split exactly along the sequence.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
)
data_app = typer.Typer(help="Build token stores and look at them.", no_args_is_help=True)
app.add_typer(data_app, name="data")
app.add_typer(bench_app, name="bench")


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run the command and exit; errors that a user can mend print one message, on rank 0 only."""
    arguments = _without_local_rank(sys.argv[1:] if arguments is None else arguments)
    with Interrupts():
        try:
            code = _run(arguments)
        except (Interrupted, KeyboardInterrupt) as signalled:
            code = getattr(signalled, "exit_code", _INTERRUPTED)
            if _is_first_rank():
                typer.echo("interrupted", err=True)
    sys.exit(code)


def _run(arguments: Sequence[str]) -> int:
    try:
        code = app(arguments, prog_name="tttscale", standalone_mode=False) or 0
    except TTTScaleError as error:
        _report(error)
        return error.exit_code
    except Exception as error:
        if not hasattr(error, "show"):  # click's usage errors know how to print themselves
            raise
        if _is_first_rank():
            error.show()  # type: ignore[attr-defined]
        return getattr(error, "exit_code", 2)
    if code == _INTERRUPTED:  # typer's word for a KeyboardInterrupt
        raise KeyboardInterrupt
    return code


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"tttscale {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print it.")
    ] = False,
) -> None:
    pass


@app.command()
def train(
    config: Annotated[Path, typer.Argument(help="The run's YAML file.")],
    overrides: Annotated[
        list[str] | None, typer.Argument(metavar="KEY=VALUE", help="Such as train.lr=3e-4.")
    ] = None,
    print_config: Annotated[
        bool, typer.Option("--print-config", help="Print the resolved configuration and stop.")
    ] = False,
) -> None:
    """Train: alone, or as one process of a torchrun, deepspeed, mpirun or srun job.

    Example: `tttscale train configs/quickstart.yaml train.steps=20 data.sequence_length=64Ki`
    """
    from tttscale.config import check_world, dump_config, load_config

    resolved = load_config(config, overrides or [])
    ranks = discover(os.environ)
    if print_config:
        if ranks.rank == 0:
            typer.echo(dump_config(resolved), nl=False)
        return
    check_world(resolved, ranks.world_size)
    from tttscale.train.main import train as run

    raise typer.Exit(run(resolved, ranks))


@app.command()
def plot(
    run_dir: Annotated[Path, typer.Argument(help="A run's folder, such as runs/quickstart.")],
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


@app.command()
def baseline(
    run_dir: Annotated[Path, typer.Argument(help="A run's folder, such as runs/quickstart.")],
) -> None:
    """Compare a run's held-out loss with a bigram model of its training text.

    Example: `tttscale baseline runs/quickstart`
    """
    from tttscale.evaluate.bigram import compare

    typer.echo(compare(run_dir).render())


@data_app.command("build")
def data_build(
    out: Annotated[Path, typer.Argument(help="The token store to write.")],
    sources: Annotated[list[Path], typer.Argument(help="Files or folders of text.")],
    tokenizer: Annotated[str, typer.Option(help="bytes, or a tokenizer.json.")] = "bytes",
    text_key: Annotated[str, typer.Option(help="The text's key in JSONL.")] = "text",
    suffix: Annotated[
        list[str] | None, typer.Option(help="Take only such files, e.g. .py; may be repeated.")
    ] = None,
    exclude: Annotated[
        list[str] | None, typer.Option(help="Leave out such folders or files; may be repeated.")
    ] = None,
    heldout: Annotated[
        float, typer.Option(min=0.0, max=0.9, help="Fraction of documents held out.")
    ] = 0.01,
    skip_undecodable: Annotated[
        bool,
        typer.Option(
            "--skip-undecodable",
            help="Leave out texts that are not UTF-8, where the tokenizer needs it.",
        ),
    ] = False,
) -> None:
    """Turn text files into a token store.

    Example: `tttscale data build stores/code src/ --suffix .py --heldout 0.02`
    """
    from tttscale.data import build_store

    began = time.perf_counter()
    with _build_progress() as progress:
        info = build_store(
            out,
            [str(source) for source in sources],
            tokenizer=tokenizer,
            holdout_fraction=heldout,
            text_key=text_key,
            suffixes=suffix or None,
            exclude=exclude or (),
            skip_undecodable=skip_undecodable,
            progress=progress,
        )
    seconds = time.perf_counter() - began
    splits = info.splits.values()
    tokens, text_bytes = (sum(getattr(s, k) for s in splits) for k in ("tokens", "text_bytes"))
    skipped = f", {info.skipped_documents:,} skipped" if info.skipped_documents else ""
    typer.echo(
        f"{out}: {sum(s.documents for s in splits):,} documents{skipped}, {tokens:,} tokens of "
        f"{text_bytes:,} bytes of text in {seconds:.1f} s"
    )


@data_app.command("info")
def data_info(store: Annotated[Path, typer.Argument(help="A token store.")]) -> None:
    """Say what a token store holds.

    Example: `tttscale data info stores/code`
    """
    from tttscale.data import TokenStore, render_info

    typer.echo(render_info(TokenStore.open(store).info))


@contextmanager
def _build_progress() -> Iterator[Callable[[int, int], None] | None]:
    """A line that counts documents on a terminal; nothing in a log."""
    if not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    counts = TextColumn("{task.fields[documents]:,} documents, {task.fields[megabytes]:,.1f} MB")
    columns = (SpinnerColumn(), counts, TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("build", total=None, documents=0, megabytes=0.0)
        yield lambda documents, read_bytes: progress.update(
            task, documents=documents, megabytes=read_bytes / 1e6
        )


def _without_local_rank(arguments: Sequence[str]) -> list[str]:
    """Drop `--local_rank=N`: the deepspeed launcher puts it in front, LOCAL_RANK says the same."""
    kept: list[str] = []
    words = iter(arguments)
    for word in words:
        if re.fullmatch(r"--local[_-]rank", word):
            next(words, None)
        elif not re.fullmatch(r"--local[_-]rank=.*", word):
            kept.append(word)
    return kept


def _is_first_rank() -> bool:
    try:
        return discover(os.environ).rank == 0
    except LaunchError:
        return True


def _report(error: TTTScaleError) -> None:
    """Print an error once per job: all ranks have most of them, but some are only one rank's.

    Other ranks than the first wait a moment. If the first failed too, the launcher ends them meanwhile.
    """
    if not _is_first_rank():
        time.sleep(_OTHER_RANKS_WAIT_SECONDS)
        typer.echo(f"[rank {discover(os.environ).rank}] error: {error}", err=True)
    else:
        typer.echo(f"error: {error}", err=True)
