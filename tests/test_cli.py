import errno
import sys
from pathlib import Path
from types import ModuleType

import pytest

from tttscale import __version__, cli

RUN = """\
run: {name: quick}
model: {preset: ttt-linear-125m}
data: {store: stores/text, sequence_length: 64Ki}
train: {steps: 10}
"""
LAUNCHER_VARIABLES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")


@pytest.fixture(autouse=True)
def _no_launcher(monkeypatch):
    for name in LAUNCHER_VARIABLES:
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def config(tmp_path):
    path = tmp_path / "run.yaml"
    path.write_text(RUN)
    return str(path)


@pytest.fixture
def run(capsys):
    def run_command(*arguments):
        with pytest.raises(SystemExit) as caught:
            cli.main(arguments)
        printed = capsys.readouterr()
        return caught.value.code, printed.out, printed.err

    return run_command


@pytest.fixture
def fake_train(monkeypatch):
    """Replace the training verb's module, so that no torch is needed here."""

    def install(train):
        module = ModuleType("tttscale.train.main")
        module.train = train  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, "tttscale.train", ModuleType("tttscale.train"))
        monkeypatch.setitem(sys.modules, "tttscale.train.main", module)

    return install


def test_version(run):
    assert run("--version") == (0, f"tttscale {__version__}\n", "")


VERBS = ["train", "plan", "plot", "baseline", "doctor", "generate"]
DATA_VERBS = ["build", "info", "show", "tokenizer", "verify"]
LAUNCH_VERBS = ["slurm"]
BENCH_VERBS = ["build", "data", "scan", "step"]


@pytest.mark.parametrize(
    "verb",
    [[v] for v in VERBS]
    + [["data", v] for v in DATA_VERBS]
    + [["bench", v] for v in BENCH_VERBS]
    + [["launch", v] for v in LAUNCH_VERBS],
    ids=" ".join,
)
def test_every_verb_has_help_with_an_example(run, verb):
    code, out, _ = run(*verb, "--help")
    assert code == 0
    assert f"Example: tttscale {' '.join(verb)}" in out


def test_help_on_several_hosts_leaves_all_cores_to_a_rank(run):
    """Open MPI ties a process to one core or a few, and `data build` would count no more."""
    code, out, _ = run("data", "build", "--help")
    assert code == 0
    assert "tttscale launch build-data -n 4" in " ".join(out.split())
    script = Path(__file__).parents[1] / "launch/build_data.sh"
    assert "place=(--map-by node --bind-to none)" in script.read_text()


def test_train_hands_over_config_and_ranks(run, config, fake_train):
    seen = []
    fake_train(lambda resolved, ranks: seen.append((resolved, ranks)) or 7)
    code, _, err = run("train", config, "train.steps=3")
    assert (code, err) == (7, "")
    resolved, ranks = seen[0]
    assert resolved.train.steps == 3
    assert (ranks.rank, ranks.world_size) == (0, 1)


@pytest.mark.parametrize(
    "flags", [["--local_rank=0"], ["--local-rank=0"], ["--local_rank", "0"], ["--local-rank", "0"]]
)
def test_local_rank_is_ignored_wherever_launchers_put_it(run, config, flags):
    plain = run("train", config, "--print-config")
    assert plain[0] == 0
    assert run(*flags, "train", config, "--print-config") == plain
    assert run("train", config, *flags, "--print-config") == plain


def test_print_config_takes_overrides_on_both_sides(run, config):
    code, out, _ = run("train", config, "train.steps=3", "--print-config", "train.lr=2e-4")
    assert code == 0
    assert "steps: 3\n" in out
    assert "lr: 0.0002\n" in out


def test_user_errors_are_one_message_with_their_code(run, config):
    code, out, err = run("train", config, "train.lrr=1")
    assert (code, out) == (64, "")
    assert err.startswith("error: override 'train.lrr=1': train.lrr is not a known key")
    assert "Traceback" not in err


def test_torchrun_is_told_in_its_own_form(run, config, monkeypatch, tmp_path):
    from torch.distributed.elastic.multiprocessing.errors import ProcessFailure

    path = tmp_path / "error.json"
    monkeypatch.setenv("TORCHELASTIC_ERROR_FILE", str(path))
    code, _, err = run("train", config, "train.lrr=1")
    failure = ProcessFailure(local_rank=0, pid=1, exitcode=code, error_file=str(path))
    assert f"{failure.message['message']}\n" == err  # type: ignore[index]
    assert failure.timestamp > 0
    monkeypatch.setenv("TORCHELASTIC_ERROR_FILE", str(tmp_path / "nowhere" / "error.json"))
    assert run("train", config, "train.lrr=1") == (code, "", err)


def test_other_ranks_wait_and_say_who_they_are(run, config, monkeypatch):
    """The launcher ends them meanwhile if the first rank has failed and spoken."""
    naps = []
    monkeypatch.setattr("time.sleep", naps.append)
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    code, out, err = run("train", config, "train.lrr=1")
    assert (code, out, naps) == (64, "", [3.0])
    assert err.startswith("[rank 1] error: ")
    assert run("train", config, "--wrong") == (2, "", "")
    assert run("train", config, "--print-config") == (0, "", "")


def test_the_world_must_fit_the_configuration(run, config, monkeypatch):
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "3")
    code, _, err = run("train", config, "parallel.sequence=2")
    assert code == 64
    assert "the job has 3 processes" in err


def test_contradicting_launchers(run, config, monkeypatch):
    monkeypatch.setenv("RANK", "1")
    code, _, err = run("train", config)
    assert code == 69
    assert "WORLD_SIZE is not" in err


def test_interrupt_is_one_line(run, config, fake_train):
    def interrupted(resolved, ranks):
        raise KeyboardInterrupt

    fake_train(interrupted)
    assert run("train", config) == (130, "", "interrupted\n")


@pytest.mark.parametrize(
    ("error", "wanted"),
    [
        (ZeroDivisionError("by 0"), 70),
        (MemoryError(), 70),
        (OSError(errno.ENOSPC, "full"), 74),
        (OSError(errno.EIO, "broken"), 74),
        (OSError(errno.ENOENT, "not there"), 70),
    ],
    ids=str,
)
def test_bugs_keep_their_traceback(run, config, fake_train, error, wanted):
    def broken(resolved, ranks):
        raise error

    fake_train(broken)
    code, _, err = run("train", config)
    assert code == wanted
    assert err.startswith("Traceback (most recent call last):")
    assert err.splitlines()[-1].startswith(type(error).__name__)


def test_usage_errors(run):
    code, _, err = run("train")
    assert code == 2
    assert "Missing argument" in err


def test_plot(run, tmp_path):
    code, _, err = run("plot", str(tmp_path))
    assert code == 65
    assert "no metrics.jsonl" in err
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "loss": 2.0}\n')
    code, out, _ = run("plot", str(tmp_path))
    assert code == 0
    assert out.strip().endswith("loss_by_step.png")


def test_a_layer_of_ones_own_is_found_in_the_working_folder(run, config, tmp_path, monkeypatch):
    """Also by the installed command, whose folder of scripts Python puts first."""
    (tmp_path / "layer_in_this_folder.py").write_text(
        "from tests.mixers.gated_delta import GatedDelta\n"
    )
    monkeypatch.setattr(sys, "path", [place for place in sys.path if place])
    monkeypatch.chdir(tmp_path)
    pattern = "model.pattern=[layer_in_this_folder:GatedDelta]"
    code, printed, said = run("train", config, pattern, "--print-config")
    assert (code, said) == (0, "")
    assert "- layer_in_this_folder:GatedDelta" in printed
