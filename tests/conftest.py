"""Triton kernels are interpreted in tests. Decided when triton is first imported, hence here."""

import os
import signal

import pytest

from tttscale import cli, scrub
from tttscale.observe import guard

os.environ["TRITON_INTERPRET"] = "1"
import torch

from tests.trained import trained_run
from tttscale.kernels.ops import cpu_product

THREADS = torch.get_num_threads()
__all__ = ["trained_run"]
for number in (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT):
    # nohup and background jobs of a shell ignore them, and so would all processes that tests start.
    if signal.getsignal(number) is signal.SIG_IGN:
        handler = signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL
        signal.signal(number, handler)


@pytest.fixture(autouse=True)
def forgotten():
    """What one test has shown to be secret is not hidden in the messages of the next.

    An observer that hung in one does not end the process after the next. And what a command in this process
    chose for its products, which decides their last bits, is no choice of the next.
    """
    yield
    scrub._secrets.clear()
    guard._left_behind = False
    cpu_product.use("torch")
    torch.set_num_threads(THREADS)


@pytest.fixture
def command(capsys):
    """Run a `tttscale` command in this process; its exit code, stdout and stderr."""

    def run(*arguments):
        with pytest.raises(SystemExit) as caught:
            cli.main(list(map(str, arguments)))
        printed = capsys.readouterr()
        return caught.value.code, printed.out, printed.err

    return run
