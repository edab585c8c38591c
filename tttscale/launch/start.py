"""`tttscale launch torchrun` and the like: run a script of launch/, which stands in every installation."""

import os
import shutil
import signal
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

from typer.core import TyperCommand

from tttscale.cluster.interrupts import Interrupts
from tttscale.errors import LaunchError

SCRIPTS = Path(__file__).parent / "scripts"
PYTHON = "TTTSCALE_PYTHON"
"""The variable by which a script knows the interpreter that has tttscale; unset: the checkout's own."""
HANDED_ON = {"ignore_unknown_options": True, "allow_interspersed_args": True}
"""What lets options of the verb through to it."""


class ScriptCommand(TyperCommand):
    """A command whose words go to a script, with the `--` that click would drop."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Write a `--` twice: the parser takes one of them."""
        if "--" in args:
            at = args.index("--")
            args = [*args[:at], "--", *args[at:]]
        return super().parse_args(ctx, args)


def start(script: str, words: Sequence[str], settings: Mapping[str, object | None]) -> NoReturn:
    """Become a script.

    Args:
        script: its name in launch/.
        words: its arguments.
        settings: variables that it reads; None leaves one as it is.

    Raises:
        LaunchError: there is no bash, or no such script.
    """
    path, bash = SCRIPTS / script, shutil.which("bash")
    if bash is None:
        raise LaunchError(f"tttscale launch runs {path} with bash, and there is none on the PATH.")
    if not path.is_file():
        raise LaunchError(f"{path}, which comes with tttscale, is not there. Install it again.")
    given = {name: str(value) for name, value in settings.items() if value is not None}
    if Interrupts.current is not None:
        Interrupts.current.release()
    for number in (signal.SIGPIPE, signal.SIGXFSZ):
        signal.signal(number, signal.SIG_DFL)  # Python ignores them, which a script would inherit
    sys.stdout.flush()
    sys.stderr.flush()
    os.execve(bash, [bash, str(path), *words], os.environ | {PYTHON: sys.executable} | given)
