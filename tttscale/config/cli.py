"""`tttscale configs`: the configurations that come with tttscale."""

from typing import Annotated

import typer

from tttscale.config.completion import complete_name
from tttscale.observe.guard import print_result

app = typer.Typer(help="The configurations that come with tttscale.")


@app.callback(invoke_without_command=True)
def list_configs(context: typer.Context) -> None:
    """List the configurations that come with tttscale: the name to give to train, plan and others.

    Example: `tttscale configs`
    """
    if context.invoked_subcommand is not None:
        return
    from tttscale.config.shipped import about, shipped

    files = shipped()
    width = max(map(len, files), default=0)
    print_result("\n".join(f"{name:{width}}  {about(path)}" for name, path in files.items()))


@app.command("show")
def show(
    name: Annotated[
        str, typer.Argument(help="As `tttscale configs` lists it.", autocompletion=complete_name)
    ],
) -> None:
    """Print one, to be read or copied; what it resolves to: `tttscale train NAME --print-config`.

    Example: `tttscale configs show quickstart`
    """
    from tttscale.config.shipped import read_shipped, shipped_file

    print_result(read_shipped(shipped_file(name)).rstrip("\n"))
