"""The whole command, as a user runs it: alone, under torchrun, with mistakes."""

import json
import math
import os
import signal
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.ranks import free_port
from tests.warm import Fresh, tttscale
from tttscale.data import BuildOptions, build_store
from tttscale.data.store.verify import quarantine, verify_store
from tttscale.model import TTTForCausalLM
from tttscale.observe import read_metrics

KEYS = {
    "step",
    "loss",
    "grad_norm",
    "lr",
    "tokens",
    "tokens_per_second",
    "step_seconds",
    "data_seconds",
    "bubble_fraction",
    "exposed_comm_seconds",
    "peak_memory_bytes",
}


def command(folder, *overrides, ranks=1):
    """In a fresh process, or in as many as torchrun starts."""
    launcher = [sys.executable]
    if ranks > 1:
        launcher += ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}"]
    return [*launcher, "-m", "tttscale", "train", str(folder / "run.yaml"), *overrides]


def run(folder, *overrides, ranks=1):
    """In processes that have everything imported already."""
    return tttscale("train", folder / "run.yaml", *overrides, ranks=ranks)


def run_fresh(folder, *overrides, ranks=1):
    environ = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        command(folder, *overrides, ranks=ranks),
        capture_output=True,
        text=True,
        env=environ,
        timeout=240,
    )


def test_one_process_and_two_ranks_write_the_same_run(folder):
    alone = run(folder)
    assert alone.returncode == 0, alone.stderr
    split = run_fresh(folder, "run.name=split", "parallel.sequence=2", ranks=2)
    assert split.returncode == 0, split.stderr
    first, second = (
        read_metrics(folder / "runs" / n / "metrics.jsonl") for n in ("alone", "split")
    )
    assert [r["step"] for r in first] == [1, 2, 3, 4]
    assert all(set(r) >= KEYS for r in first + second)
    assert first[0]["loss"] == second[0]["loss"]
    assert [r["loss"] for r in first] == pytest.approx([r["loss"] for r in second], rel=1e-6)
    assert first[-1]["loss"] < first[0]["loss"] < math.log(259) + 0.5
    assert "heldout_loss" in first[1]
    assert "heldout_loss" not in first[2]
    assert first[3]["heldout_loss"] == pytest.approx(second[3]["heldout_loss"], rel=1e-5)
    check_folder(folder / "runs" / "split", second[-1]["heldout_loss"])
    assert "held-out" in split.stdout
    again = run(folder)
    assert again.returncode == 64
    assert "already holds a run" in again.stderr
    assert read_metrics(folder / "runs" / "alone" / "metrics.jsonl") == first


def check_folder(folder, heldout_loss):
    model = TTTForCausalLM.from_pretrained(folder / "final")
    assert model.config.hidden_size == 16
    positions = json.loads((folder / "positions.json").read_text())
    weighted = sum(a * b for a, b in zip(positions["loss"], positions["count"], strict=True))
    assert weighted / sum(positions["count"]) == pytest.approx(heldout_loss)
    for name in ("loss_by_step.png", "loss_by_position.png", "config.yaml"):
        assert (folder / name).stat().st_size > 100


def test_a_blend_of_whole_documents(folder):
    store, other = folder / "store", folder / "other"
    (folder / "code").mkdir()
    for i in range(8):
        (folder / "code" / f"{i}.py").write_text(f"x{i} = 1\n" * (5 + 9 * i))
    build_store(other, [str(folder / "code")], BuildOptions(holdout_fraction=0.3))
    blend = f"data.blend=[{{store: {store}, weight: 2}}, {{store: {other}}}]"
    overrides = ("data.store=null", blend, "data.documents=whole", "data.skip_steps=[2-3]")
    alone = run(folder, "run.name=whole", *overrides)
    assert alone.returncode == 0, alone.stderr
    assert f"{other}: " in alone.stdout.replace("\n", "")
    split = run(folder, "run.name=whole-split", "parallel.sequence=2", *overrides, ranks=2)
    assert split.returncode == 0, split.stderr
    names = ("whole", "whole-split")
    first, second = (read_metrics(folder / "runs" / name / "metrics.jsonl") for name in names)
    assert first[0]["loss"] == second[0]["loss"]
    assert [r["loss"] for r in first] == pytest.approx([r["loss"] for r in second], rel=1e-6)
    records = [json.loads((folder / "runs" / name / "data.json").read_text()) for name in names]
    assert records[0] == records[1]
    assert [r["store"] for r in records[0]["stores"]] == [str(store), str(other)]
    refused = tttscale("baseline", folder / "runs" / "whole")
    assert refused.returncode == 65
    assert "data.blend, a blend of 2 stores" in refused.stderr


def test_a_damaged_store_is_refused_or_read_around(folder):
    store = folder / "damaged"
    options = BuildOptions(holdout_fraction=0.3, chunk_tokens=64, shard_tokens=256)
    build_store(store, [str(folder / "text")], options)
    (store / "train/tokens/c/2").unlink()
    damaged = f"data.store={store}"
    refused = run(folder, "run.name=refused", damaged)
    assert refused.returncode == 65
    assert "train/tokens/c/2 is missing" in refused.stderr.replace("\n", "")
    quarantine(store, verify_store(store))
    records = []
    for name, ranks in (("padded", 1), ("padded-split", 2)):
        overrides = (f"run.name={name}", f"parallel.sequence={ranks}", "train.steps=2")
        done = run(folder, *overrides, damaged, "data.damaged=pad", ranks=ranks)
        assert done.returncode == 0, done.stderr
        assert "256 tokens of train in 1 ranges are quarantined" in done.stdout.replace("\n", " ")
        records.append(read_metrics(folder / "runs" / name / "metrics.jsonl"))
    for first, _ in records:  # the first window is the piece that was lost
        assert math.isnan(first["loss"])
        assert first["tokens"] == 0
    assert records[0][1]["loss"] == records[1][1]["loss"]  # of weights that nothing has changed yet
    assert math.isfinite(records[0][1]["loss"])


@pytest.mark.parametrize(
    ("overrides", "code", "words"),
    [
        (["train.stepz=3"], 64, ["train.stepz", "train.steps"]),
        (["train.steps=many"], 64, ["train.steps", "many"]),
        (["parallel.chunk_length=30"], 64, ["parallel.chunk_length", "30", "mini_batch_size"]),
        (["parallel.sequence=2"], 64, ["parallel.sequence", "2", "a single process"]),
        (["data.store=/nowhere/at/all"], 65, ["/nowhere/at/all"]),
        (["data.blend=[{store: elsewhere}]"], 64, ["data.store=null", "data.blend=null"]),
        (["data.sequence_length=1Mi"], 65, ["1048576", "data.sequence_length"]),
        (["model.vocab_size=100"], 65, ["model.vocab_size=259"]),
        (["evaluate.sequences=1000"], 64, ["evaluate.sequences"]),
    ],
)
def test_mistakes_get_one_clear_error(folder, overrides, code, words):
    result = run(folder, "run.name=mistake", *overrides)
    assert result.returncode == code, result.stderr
    assert "Traceback" not in result.stderr
    assert result.stderr.count("error:") == 1
    for word in words:
        assert word in result.stderr
    assert not (folder / "runs" / "mistake").exists()


def test_a_mistake_under_torchrun_is_told_by_one_rank(folder):
    mistake = ("run.name=mistake", "parallel.sequence=2", "data.store=/nowhere")
    result = run_fresh(folder, *mistake, ranks=2)
    assert result.returncode != 0
    said, _, box = result.stderr.partition("tttscale FAILED")
    box = box.partition("Root Cause")[2]
    assert said.count("error: ") == 1
    assert "error: data.store = /nowhere: no such folder" in said
    assert "error: data.store = /nowhere: no such folder" in box  # its last words
    assert "<N/A>" not in box


def test_the_deepspeed_launcher(folder):
    script = Path(__file__).parents[2] / "launch" / "deepspeed.sh"
    places = [str(Path(sys.executable).parent), os.environ["PATH"]]
    environ = {**os.environ, "N": "2", "PATH": os.pathsep.join(places)}
    arguments = [
        str(folder / "run.yaml"),
        "run.name=deepspeed",
        "parallel.sequence=2",
        "train.steps=2",
    ]
    found = subprocess.run(
        ["bash", str(script), *arguments], capture_output=True, text=True, env=environ, timeout=240
    )
    assert found.returncode == 0, found.stderr
    assert len(read_metrics(folder / "runs" / "deepspeed" / "metrics.jsonl")) == 2


def test_ctrl_c_ends_a_rank_that_waits_for_the_others(folder):
    alone = {"RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "1"}
    started = Fresh(
        command(folder, "run.name=waiting", "parallel.sequence=2"),
        {**alone, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())},
    )
    try:
        until(started, lambda: "waiting for all 2 ranks at 127.0.0.1" in started.said()[1])
        time.sleep(1)  # it is about to wait in torch's own code
        os.kill(started.pid, signal.SIGINT)
        assert started.wait(60).returncode == 130
    finally:
        started.kill()


@pytest.mark.parametrize("build", [{}, {"holdout_fraction": 0.0}], ids=["one text", "heldout 0"])
def test_a_store_of_one_text_trains_by_default_and_says_that_nothing_is_held_out(
    folder, tmp_path, build
):
    """One book, one dump: what everybody tries first; and what --heldout 0 leaves."""
    sources = [tmp_path / "book.txt"] if not build else [folder / "text"]
    (tmp_path / "book.txt").write_text("the quick brown fox. " * 200)
    build_store(tmp_path / "store", [str(source) for source in sources], BuildOptions(**build))
    result = run(
        folder,
        "run.name=book",
        f"run.dir={tmp_path / 'runs'}",
        f"data.store={tmp_path / 'store'}",
        "evaluate.sequences=1",
    )
    assert result.returncode == 0, result.stderr
    said = "heldout holds 0 tokens, too few for a window of 256: no held-out losses"
    assert said in result.stdout + result.stderr
    records = (tmp_path / "runs/book/metrics.jsonl").read_text().splitlines()
    assert len(records) == 4
    assert not any("heldout_loss" in json.loads(record) for record in records)


def until(started, happens):
    """Wait for something that a process that runs will do."""
    deadline = time.monotonic() + 120
    while not happens():
        assert started.poll() is None, started.said()
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.mark.skipif(find_spec("tensorboard") is not None, reason="tensorboard is here")
def test_without_tensorboard_nothing_starts(folder):
    found = run(folder, "run.name=no-board", "logging.tensorboard=true")
    assert found.returncode == 64
    assert "logging.tensorboard = true needs tensorboard. Run `pip install" in found.stderr
    assert not (folder / "runs" / "no-board").exists()


def test_event_files_of_a_run_and_of_its_resume(folder):
    reading = pytest.importorskip(
        "tensorboard.backend.event_processing.event_accumulator",
        reason="NO TENSORBOARD HERE: event files are not read back",
    )
    options = ["run.name=board", "logging.tensorboard=true", "checkpoint.every=2"]
    assert run(folder, *options).returncode == 0
    found = run(folder, *options, "train.steps=6", "checkpoint.resume=2")
    assert found.returncode == 0, found.stderr
    records = read_metrics(folder / "runs" / "board" / "metrics.jsonl")
    events = reading.EventAccumulator(str(folder / "runs" / "board" / "tensorboard"))
    events.Reload()
    for key in ("loss", "lr", "grad_norm", "tokens_per_second", "heldout_loss"):
        expected = [(r["step"], r[key]) for r in records if key in r]
        assert [e.step for e in events.Scalars(key)] == [step for step, _ in expected]
        values = [value for _, value in expected]
        assert [e.value for e in events.Scalars(key)] == pytest.approx(values, rel=1e-6)
