import io
import math
import subprocess
import sys

import pytest

from tttscale.observe.console import Console, duration, human

RECORD = {
    "loss": math.log(2) * 3,
    "grad_norm": 0.123456,
    "lr": 1e-3,
    "tokens_per_second": 123_456.7,
    "step_seconds": 10.0,
    "peak_memory_bytes": 3 * 2**30,
    "bubble_fraction": 0.0725,
    "exposed_comm_seconds": 0.5,
    "data_seconds": 0.1,
    "slowest_rank": 3,
    "slowest_factor": 1.514,
    "mfu": 0.4213,
}


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_lines_are_aligned_and_have_units():
    stream = io.StringIO()
    console = Console(400, stream)
    for step in range(1, 401):
        console.step({"step": step, **RECORD})
    lines = stream.getvalue().splitlines()
    header, first, last = lines[0], lines[1], lines[-1]
    assert len({len(line) for line in lines}) == 1
    assert lines.count(header) == 16
    for word in ("step", "loss nats", "bits/tok", "grad norm", "lr", "tokens/s", "bubble", "ETA"):
        assert word in header
    assert first.split() == [
        *("1/400", "2.0794", "3.000", "0.123", "1.00e-03", "123k", "10", "3.00GiB", "7.2%"),
        *("5.0%", "1.0%", "3:", "1.51x", "42.1%", "1h06m"),
    ]
    assert last.split()[-1] == "0s"


def test_missing_and_strange_values():
    stream = io.StringIO()
    Console(3, stream).step({"step": 1, "loss": math.nan, "grad_norm": math.inf})
    words = stream.getvalue().splitlines()[-1].split()
    assert words == ["1/3", "nan", "nan", "inf", *"----------"]


def test_heldout_and_notes():
    stream = io.StringIO()
    console = Console(3, stream)
    console.log("resumed [from] step 2")
    console.step({"step": 3, **RECORD, "heldout_loss": 2.5})
    console.close()
    lines = stream.getvalue().splitlines()
    assert lines[0] == "resumed [from] step 2"
    assert lines[-1].endswith("held-out 2.5000")


def test_a_terminal_gets_a_bar_as_well():
    stream = Terminal()
    console = Console(3, stream)
    console.log("a [bold]note[/bold]")
    console.step({"step": 2, **RECORD})
    console.close()
    console.close()
    shown = stream.getvalue()
    assert "a [bold]note[/bold]" in shown
    assert "2.0794" in shown
    assert "ETA" in shown


def test_no_bar_where_mpirun_plays_the_terminal(monkeypatch):
    monkeypatch.setenv("OMPI_COMM_WORLD_RANK", "0")
    stream = Terminal()
    console = Console(3, stream)
    console.step({"step": 2, **RECORD})
    console.close()
    assert "\x1b" not in stream.getvalue()
    assert stream.getvalue().count("\n") == 2


def test_a_reader_that_goes_away_does_not_end_the_run():
    """As a process of its own: what is left in the buffer fails when the interpreter ends."""
    script = (
        "from tttscale.observe import Console\n"
        "import sys\n"
        "console = Console(3)\n"
        "console.log('first')\n"
        "sys.stdin.readline()\n"
        "for _ in range(3): console.log('nobody reads this')\n"
        "console.close()\n"
        "print('the end', file=sys.stderr)\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", script],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "first\n"
    process.stdout.close()
    process.stdout = None
    _, said = process.communicate("go\n")
    assert process.returncode == 0
    assert said.count("quiet for the rest of this run: Broken pipe; the run continues") == 1
    assert said.splitlines()[1:] == ["the end"]


@pytest.mark.parametrize(
    ("value", "base", "text"),
    [
        (0, 1000, "0"),
        (999.9, 1000, "1.00k"),
        (12_345, 1000, "12.3k"),
        (2.5e6, 1000, "2.50M"),
        (1.5 * 2**30, 1024, "1.50Gi"),
        (math.inf, 1000, "inf"),
    ],
)
def test_human_numbers(value, base, text):
    assert human(value, base) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.4, "0s"),
        (45, "45s"),
        (200, "3m20s"),
        (3600, "1h00m"),
        (187_200, "2d04h"),
        (math.nan, "-"),
    ],
)
def test_durations(seconds, text):
    assert duration(seconds) == text
