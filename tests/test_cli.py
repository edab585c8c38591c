import json
import sys
from types import ModuleType

import pytest
from tokenizers import Tokenizer
from tokenizers.models import WordLevel

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


VERBS = ["train", "plot", "baseline", "doctor"]
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
    assert "mpirun -n 4 --map-by node --bind-to none tttscale data build" in " ".join(out.split())


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


def test_bugs_keep_their_traceback(config, fake_train):
    def broken(resolved, ranks):
        raise ZeroDivisionError

    fake_train(broken)
    with pytest.raises(ZeroDivisionError):
        cli.main(["train", config])


def test_usage_errors(run):
    code, _, err = run("train")
    assert code == 2
    assert "Missing argument" in err


def test_data_build_and_info(run, tmp_path):
    text = tmp_path / "text"
    text.mkdir()
    (text / "a.py").write_text("print(1)")
    (text / "b.md").write_text("two")
    (text / "c.bin").write_text("not taken")
    out = str(tmp_path / "store")
    options = ["--suffix", ".py", "--suffix", ".md", "--heldout", "0.1"]
    code, said, _ = run("data", "build", out, str(text), *options)
    assert code == 0
    assert said.startswith(f"{out}: 2 documents, 15 tokens of 11 bytes of text in ")
    code, said, _ = run("data", "info", out)
    assert code == 0
    assert "bytes (259 ids" in said
    code, _, err = run("data", "info", str(tmp_path / "nowhere"))
    assert code == 65
    assert "nowhere" in err


def test_data_build_leaves_out_what_is_not_utf8(run, tmp_path):
    tokenizer = tmp_path / "tokenizer.json"
    Tokenizer(WordLevel({"good": 0, "[UNK]": 1}, unk_token="[UNK]")).save(str(tokenizer))
    (tmp_path / "a.txt").write_text("good")
    (tmp_path / "b.txt").write_bytes(b"\xff")
    (tmp_path / "c.txt").write_text("good")
    command = ["data", "build", str(tmp_path / "store"), *map(str, sorted(tmp_path.glob("*.txt")))]
    command += ["--tokenizer", str(tokenizer)]
    code, _, err = run(*command)
    assert code == 65
    assert "--skip-undecodable" in err
    code, said, _ = run(*command, "--skip-undecodable")
    assert code == 0
    assert "2 documents, 1 skipped, 2 tokens of 8 bytes" in said


def test_data_build_shows_progress_on_a_terminal(run, tmp_path, monkeypatch):
    (tmp_path / "a.txt").write_text("text")
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    code, said, err = run("data", "build", str(tmp_path / "store"), str(tmp_path / "a.txt"))
    assert (code, said.count("\n")) == (0, 1)
    assert "M tokens, " in err


def test_data_build_shows_no_bar_in_the_log_of_mpirun(run, tmp_path, monkeypatch):
    (tmp_path / "a.txt").write_text("text")
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    for name, value in (("RANK", 0), ("SIZE", 1), ("LOCAL_RANK", 0), ("LOCAL_SIZE", 1)):
        monkeypatch.setenv(f"OMPI_COMM_WORLD_{name}", str(value))
    code, _, err = run("data", "build", str(tmp_path / "store"), str(tmp_path / "a.txt"))
    assert (code, err) == (0, "")


def test_data_verify_names_damage_and_sets_it_apart(run, tmp_path):
    (tmp_path / "a.txt").write_text("some text " * 100)
    store = str(tmp_path / "store")
    assert run("data", "build", store, str(tmp_path / "a.txt"))[0] == 0
    code, said, _ = run("data", "verify", store, "--workers", "1")
    assert code == 0
    assert said.endswith("\nwhole\n")
    kept = (tmp_path / "store/train/tokens/c/0").rename(tmp_path / "kept")
    report = tmp_path / "report.json"
    code, said, err = run("data", "verify", store, "--workers", "1", "--report", str(report))
    assert code == 65
    assert "DAMAGED  train/tokens/c/0 [0, 1,002): is missing" in said
    assert "--quarantine" in err
    assert json.loads(report.read_text())["damages"][0]["end"] == 1002
    code, said, _ = run("data", "verify", store, "--workers", "1", "--quarantine")
    assert code == 0
    assert "quarantined: 1,002 tokens in 1 ranges" in said
    code, _, err = run("data", "verify", store, "--workers", "1")
    assert (code, "--quarantine" in err) == (65, False)
    assert "all of that is quarantined. Train with data.damaged=pad" in err
    code, said, _ = run("data", "info", store)
    assert code == 0
    assert "quarantined 1,002 tokens of train in 1 ranges, found 2" in said
    kept.rename(tmp_path / "store/train/tokens/c/0")
    code, said, _ = run("data", "verify", store, "--workers", "1")
    assert code == 0
    assert "is whole, but quarantine.json lists ranges of it" in said


def test_data_tokenizer_serves_a_build(run, tmp_path):
    (tmp_path / "a.txt").write_text("the cat sat on the mat " * 50)
    tokenizer, source = str(tmp_path / "t.json"), str(tmp_path / "a.txt")
    code, said, _ = run("data", "tokenizer", tokenizer, source, "--vocab", "300")
    assert (code, said.startswith(f"{tokenizer}: ")) == (0, True)
    code, _, err = run("data", "tokenizer", tokenizer, source)
    assert code == 65
    assert "already exists" in err
    code, _, err = run("data", "tokenizer", str(tmp_path / "u.json"), source, "--vocab", "99")
    assert code == 65
    assert "--vocab 99" in err
    code, _, err = run("data", "tokenizer", str(tmp_path / "u.json"), source, "--vocab", "many")
    assert code == 64
    assert "--vocab 'many'" in err
    out = str(tmp_path / "store")
    code, said, _ = run("data", "build", out, source, "--tokenizer", tokenizer)
    assert code == 0
    tokens = int(said.split("documents, ")[1].split(" tokens")[0].replace(",", ""))
    assert tokens < 1150 / 3  # merges were learned


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
