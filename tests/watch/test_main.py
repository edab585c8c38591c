"""`tttscale watch`, from its words to what it does."""

import os
import signal
import subprocess
import sys
import urllib.request

import pytest

from tests.watch.runs import make_run
from tttscale import cli


def run(*arguments):
    with pytest.raises(SystemExit) as caught:
        cli.main(arguments)
    return caught.value.code


def test_a_page_as_a_file(tmp_path, capsys):
    folder, out = make_run(tmp_path / "one"), tmp_path / "page.html"
    assert run("watch", str(folder), "--out", str(out)) == 0
    text = out.read_text()
    assert '"heldout_loss"' in text
    assert "connect-src" not in text
    assert str(tmp_path) not in text
    assert run("watch", str(folder), "--out", str(tmp_path / "none/page.html")) == 64
    assert run("watch", str(tmp_path / "nowhere")) == 64
    assert "Give a run's folder" in capsys.readouterr().err


@pytest.mark.parametrize(("bind", "warned"), [("127.0.0.1", False), ("0.0.0.0", True)])
def test_serving_until_told_to_end(tmp_path, bind, warned):
    folder = make_run(tmp_path / "one")
    command = [sys.executable, "-m", "tttscale", "watch", str(folder), "--bind", bind]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=dict(os.environ)
    ) as process:
        line = process.stdout.readline()
        assert line.endswith("/ (Ctrl-C ends)\n"), line + process.stderr.read()
        port = line.rsplit(":", 1)[1].split("/")[0]
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=60) as answer:
            assert "<title>one: run</title>" in answer.read().decode()
        process.send_signal(signal.SIGINT)
        said = process.stderr.read()
        assert process.wait(60) == 0, said
    assert ("no password" in said) == warned
    assert "Traceback" not in said
