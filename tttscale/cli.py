"""The `tttscale` command. Verbs parse first and import what they need afterwards, so --help is quick."""

import os
import re
import sys
import time
import traceback
from collections.abc import Sequence
from types import TracebackType
from typing import Annotated, NoReturn

import typer

from tttscale import __version__, codes, verbs
from tttscale.bench.cli import app as bench_app
from tttscale.cluster import discover_place
from tttscale.cluster.interrupts import Interrupted, Interrupts
from tttscale.cluster.torchelastic import tell_torchrun
from tttscale.config.cli import app as configs_app
from tttscale.convert.cli import export, import_
from tttscale.data.cli import app as data_app
from tttscale.errors import LaunchError, TTTScaleError, of_disk
from tttscale.evaluate.cli import evaluate
from tttscale.generate.cli import generate
from tttscale.launch.cli import app as launch_app
from tttscale.observe.guard import is_left_behind, steady_streams
from tttscale.scrub import scrubbed
from tttscale.supervise import page
from tttscale.supervise.supervisor import is_wanted, supervise
from tttscale.train.checkpoint.cli import app as checkpoint_app
from tttscale.watch.cli import watch

_INTERRUPTED = codes.INTERRUPTED.number
_OTHER_RANKS_WAIT_SECONDS = 3.0

app = typer.Typer(
    help="Train Test-Time-Training language models, split exactly along the sequence.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
)
for _verb in (verbs.train, verbs.plan, verbs.rehearse, verbs.profile, verbs.doctor):
    app.command()(_verb)
app.command("watch")(watch)
app.command()(verbs.plot)
app.command()(verbs.baseline)
app.command("eval")(evaluate)
app.command("generate")(generate)
app.command("import")(import_)
app.command("export")(export)
app.add_typer(data_app, name="data")
app.add_typer(configs_app, name="configs")
app.add_typer(launch_app, name="launch")
app.add_typer(checkpoint_app, name="checkpoint")
app.add_typer(bench_app, name="bench")


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run the command and exit; errors that a user can fix print one message, on rank 0 only.

    Args:
        arguments: default: those of the command line. Given by a Python program, they run in its own process,
            without a supervisor.
    """
    is_command = arguments is None
    arguments = _without_local_rank(sys.argv[1:] if arguments is None else arguments)
    steady_streams()
    if is_command and is_wanted(arguments, os.environ):
        code = supervise(os.environ)
        if code is not None:  # this is the supervisor, and its rank has ended
            sys.exit(code)
    if not sys.flags.safe_path and "" not in sys.path:
        # The working folder, as in `python -m tttscale`: layers of model.pattern may stand there. It comes
        # last, so that nothing in it hides a library.
        sys.path.append("")
    sys.excepthook = _print_traceback
    with Interrupts():
        try:
            code = _run(arguments)
        except (Interrupted, KeyboardInterrupt) as signalled:
            code = getattr(signalled, "exit_code", _INTERRUPTED)
            if _is_first_rank():
                typer.echo("interrupted", err=True)
        except Exception as error:
            code = _report_bug(error)
    mesh = sys.modules.get("tttscale.comm.mesh")  # imported only by verbs that start a job
    if code and mesh is not None:
        mesh.leave(code)
    if is_left_behind():  # an ordinary exit would wait for its threads and handlers
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
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
            error.message = scrubbed(str(getattr(error, "message", "")))  # type: ignore[attr-defined]
            error.show()  # type: ignore[attr-defined]
        return getattr(error, "exit_code", codes.FLAGS.number)
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


def _without_local_rank(arguments: Sequence[str]) -> list[str]:
    """Drop `--local_rank=N`, which the deepspeed launcher adds; LOCAL_RANK says the same."""
    kept: list[str] = []
    words = iter(arguments)
    for word in words:
        if re.fullmatch(r"--local[_-]rank", word):
            next(words, None)
        elif not re.fullmatch(r"--local[_-]rank=.*", word):
            kept.append(word)
    return kept


def _print_traceback(
    kind: type[BaseException], error: BaseException, place: TracebackType | None
) -> None:
    """Print a fault of ours as Python does, without credentials."""
    print(
        scrubbed("".join(traceback.format_exception(kind, error, place))), end="", file=sys.stderr
    )


def _is_first_rank() -> bool:
    try:
        return discover_place(os.environ).rank == 0
    except LaunchError:
        return True


def _world_size() -> int:
    try:
        return discover_place(os.environ).world_size
    except LaunchError:
        return 1


def _report(error: TTTScaleError) -> None:
    """Print an error once per job: most errors are raised on all ranks, some on one.

    A job's supervisors print the error of the rank that failed first. Without them other ranks than the first
    wait a moment; if the first failed too, the launcher ends them meanwhile.
    """
    tell_torchrun(f"error: {error}")
    page.say("cause", str(error))
    if page.Page.own is not None and _world_size() > 1:
        return
    if not _is_first_rank():
        time.sleep(_OTHER_RANKS_WAIT_SECONDS)
        typer.echo(f"[rank {discover_place(os.environ).rank}] error: {error}", err=True)
    else:
        typer.echo(f"error: {error}", err=True)


def _report_bug(error: Exception) -> int:
    """Print an error that is not foreseen, as Python does; return its exit code."""
    sys.excepthook(type(error), error, error.__traceback__)
    what = scrubbed("".join(traceback.format_exception_only(error)).strip())
    tell_torchrun(what)
    page.say("cause", what)
    return codes.DISK.number if of_disk(error) else codes.BUG.number
