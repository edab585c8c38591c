"""`tttscale configs`."""

import pytest

from tttscale import cli
from tttscale.config.shipped import about, shipped


@pytest.fixture
def run(capsys):
    def run_command(*words):
        with pytest.raises(SystemExit) as caught:
            cli.main(["configs", *words])
        printed = capsys.readouterr()
        return caught.value.code, printed.out, printed.err

    return run_command


def test_they_are_listed(run):
    code, text, _ = run()
    rows = [line.split("  ", 1) for line in text.splitlines()]
    assert code == 0
    assert [name for name, _ in rows] == list(shipped())
    assert [what.strip() for _, what in rows] == [about(path) for path in shipped().values()]


def test_one_is_printed_to_be_copied(run):
    code, text, _ = run("show", "quickstart")
    assert (code, text) == (0, shipped()["quickstart"].read_text())


def test_a_name_that_is_none(run):
    code, _, said = run("show", "../quickstart")
    assert code == 64
    assert "no configuration of that name comes with tttscale" in said
