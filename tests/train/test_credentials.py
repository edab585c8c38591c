"""A token planted in every form: after a run it is nowhere, in no file and in nothing that was printed."""

import re
import subprocess
import sys
from pathlib import Path
from urllib.parse import quote

import pytest

from tests.data.object_server import serving
from tests.train.test_run import command
from tests.warm import tttscale as warm

TOKEN = "Zq7Planted+Token/X9"
FORMS = re.compile(rb"Planted|WnE3UGxhbnRl|bWU6Wn")  # plain, and the beginnings of its base64


@pytest.fixture
def server(folder):
    with serving(folder, secret=TOKEN) as server:
        yield server


def tttscale(*words, **environ):
    done = warm(*words, environ=environ)
    for said in (done.stdout, done.stderr):
        assert not FORMS.search(said.encode()), said
    return done.returncode, done.stdout, done.stderr


def train(folder, *words, **environ):
    return tttscale(*command(folder, *words)[3:], **environ)


def assert_clean(folder):
    """Every file, through every link, by its bytes."""
    files = [path for path in Path(folder).rglob("*") if path.is_file()]
    assert files
    for path in files:
        assert not FORMS.search(path.read_bytes()), path
        assert "Planted" not in str(path)
    return {path.name for path in files}


@pytest.mark.parametrize("form", ["password", "signature"])
def test_a_run_that_reads_behind_a_password_keeps_none(folder, server, form):
    """Trained, stopped, resumed by the same command, looked at."""
    host, secret = server.url.removeprefix("http://"), quote(TOKEN, safe="")
    url = {
        "password": f"http://me:{secret}@{host}/store",
        "signature": f"http://{host}/store?sig={secret}&X-Amz-Expires=3600#{secret}",
    }[form]
    words = [f"run.name={form}", f"data.store={url}", "checkpoint.every=2"]
    words += ["logging.wandb.mode=offline"]
    for steps in (2, 4):
        code, said, trouble = train(folder, *words, f"train.steps={steps}", WANDB_API_KEY=TOKEN * 3)
        assert code == 0, trouble
    assert "resumes after step 2 from " in said
    run = folder / "runs" / form
    names = assert_clean(run)
    assert {"config.yaml", "data.json", "checkpoint.json", "metrics.jsonl"} <= names
    assert any(name.endswith(".wandb") for name in names)
    assert f"store: http://{host}/store\n" in (run / "config.yaml").read_text()
    code, said, _ = train(folder, *words, "--print-config")
    assert (code, f"store: http://{host}/store\n" in said) == (0, True)
    for verb in (["info", url], ["verify", url, "--workers", "2"], ["show", run, "1", words[1]]):
        assert tttscale("data", *verb)[0] == 0
    report = folder / f"{form}.json"
    assert tttscale("data", "verify", url, "--report", report)[0] == 0
    assert not FORMS.search(report.read_bytes())
    code, _, trouble = tttscale(
        "data", "show", run, "1"
    )  # the run's own configuration has no password
    assert code == 65
    assert "those in a URL are never stored, so name it with them again" in trouble


@pytest.mark.parametrize(
    ("url", "code"),
    [
        ("http://me:{wrong}@{host}/store", 65),  # 403, and its page repeats the address
        ("http://{host}/store?sig={wrong}", 65),
        ("http://me:{wrong}@127.0.0.1:1/store", 65),  # nobody there
        ("s3://KEY:{wrong}@bucket/store", 64),
        ("s3://KEY:{raw}@bucket/store", 64),
        ("nowhere://me:{wrong}@{host}/store", 64),
        ("me:{wrong}@{host}/store", 64),
        ("http://me:{wrong}@{host}/store: x", 64),
    ],
)
def test_errors_do_not_repeat_it(folder, server, url, code, monkeypatch):
    secret = "Planted" + quote(TOKEN, safe="")
    host = server.url.removeprefix("http://")
    url = url.format(host=host, wrong=secret, raw=f"Planted{TOKEN}")
    if ":1/" in url:
        monkeypatch.setenv("no_proxy", "*")
    assert train(folder, "run.name=wrong", f"data.store={url}")[0] == code
    assert train(folder, "run.name=wrong", f"data.blend=[{{store: '{url}'}}]")[0] == 64
    assert train(folder, f"run.dir={url}")[0] == 64
    assert not (folder / "runs" / "wrong").exists()


@pytest.mark.parametrize(
    "words",
    [
        ["data", "info", "http://me:{0}@host/s", "extra"],
        ["data", "build", "http://me:{0}@host/s", "x"],
        ["data", "build", "out", "http://me:{0}@host/s"],
        ["data", "build", "out", "x", "--tokenizer", "http://me:{0}@host/s"],
        ["data", "info", "--x=http://me:{0}@host/s"],
        ["data", "verify", "host/s?sig={0}"],
        ["plot", "http://me:{0}@host/s"],
        ["baseline", "s3://me:{0}@host/s"],
        ["train", "http://me:{0}@host/s"],
        ["train", "x.yaml", "a.b=http://me:{0}@host/s"],
        ["http://me:{0}@host/s"],
        ["bench", "data", "s3://me:{0}@host/s"],
    ],
)
def test_no_command_repeats_it(tmp_path, words, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, _, _ = tttscale(*(word.format(TOKEN) for word in words))
    assert code != 0


def test_mistakes_in_a_configuration_do_not_repeat_it(tmp_path):
    for text in (
        f"run: http://me:{TOKEN}@host/s",
        f"http://me:{TOKEN}@host/s",
        f"data: {{store: 'http://me:{TOKEN}@host/s', stroe: 'http://me:{TOKEN}@host/s'}}",
        f"data: {{skip_steps: ['http://me:{TOKEN}@host/s']}}",
        f"base: 'http://me:{TOKEN}@host/s'",
        f"train: {{steps: 'http://me:{TOKEN}@host/s'}}",
        f"data: {{store: [http://me:{TOKEN}@host/s]",
    ):
        path = tmp_path / "run.yaml"
        path.write_text(text)
        assert tttscale("train", path)[0] == 64


def test_a_fault_of_ours_does_not_repeat_it():
    lines = (
        "import sys, tttscale.cli as cli\n"
        "def fail(arguments): raise ZeroDivisionError(f'GET http://me:{sys.argv[1]}@host/s')\n"
        "cli._run = fail\n"
        "cli.main([])\n"
    )
    done = subprocess.run([sys.executable, "-c", lines, TOKEN], capture_output=True)
    assert b"ZeroDivisionError: GET http://***@host/s" in done.stderr
    assert not FORMS.search(done.stderr)
