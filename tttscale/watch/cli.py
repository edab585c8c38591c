"""`tttscale watch`: a live page of a run, or the same page as a file."""

from pathlib import Path
from typing import Annotated

import typer

from tttscale.config.paths import path_argument


def watch(
    run: Annotated[
        Path, typer.Argument(parser=path_argument, help="A run's folder, such as runs/quickstart.")
    ],
    port: Annotated[
        int, typer.Option(min=0, max=65535, help="Where to serve; 0: a free port.")
    ] = 0,
    bind: Annotated[
        str,
        typer.Option(help="An address of this machine; others than 127.0.0.1 let others look."),
    ] = "127.0.0.1",
    out: Annotated[
        Path | None,
        typer.Option(parser=path_argument, help="Write the page to this file, and serve nothing."),
    ] = None,
) -> None:
    """Show a run on a page in the browser: losses, speed, waits, state. Its folder is only read.

    The page follows the run until Ctrl-C. From another machine: `ssh -L 8123:localhost:8123 HOST`, and there
    --port 8123.

    Example: `tttscale watch runs/quickstart --out quickstart.html`
    """
    from tttscale.watch.main import serve, write_page

    if out is not None:
        write_page(run, out)
    else:
        serve(run, bind, port)
