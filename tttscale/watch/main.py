"""What `tttscale watch` does: serve the page until told to end, or write it."""

import signal
from pathlib import Path

import typer

from tttscale.cluster.interrupts import Interrupted
from tttscale.files import write_text
from tttscale.observe.guard import warn
from tttscale.watch.numbers import WatchedRun
from tttscale.watch.page import page_html
from tttscale.watch.server import WatchServer
from tttscale.writable import check_file, writing


def serve(folder: Path, bind: str, port: int) -> None:
    """Serve the page of a run until Ctrl-C.

    Raises:
        ConfigError: the folder is none of a run, or the address or port cannot be had.
    """
    with WatchServer(WatchedRun(folder), bind, port) as server:
        if not server.is_local:
            warn(
                f"--bind {bind}: whoever reaches this address sees the run; there is no password. With the "
                "default, only this machine does; ssh -L forwards its port to yours"
            )
        typer.echo(f"{folder}: {server.url} (Ctrl-C ends)")
        try:
            server.serve_forever()
        except Interrupted as told:
            if told.exit_code != 128 + signal.SIGINT:
                raise


def write_page(folder: Path, out: Path) -> None:
    """Write the page as it is now, with its data in it.

    Raises:
        ConfigError: the folder is none of a run, or the file cannot be written.
    """
    check_file(out, "--out")
    run = WatchedRun(folder)
    while not run.update():
        pass
    with writing(out, "--out"):
        write_text(out, page_html(run.snapshot()))
    typer.echo(f"{out}: the page of {folder}")
