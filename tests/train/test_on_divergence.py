"""Skipping and rolling back: the run after it is, bit by bit, one that never had the data at fault."""

import os
import random
from pathlib import Path

import pytest
import torch
import yaml

from tests.ranks import run_ranks, values
from tttscale.cluster.interrupts import SaveRequests
from tttscale.comm.mesh import Mesh
from tttscale.config import load_config
from tttscale.data import BuildOptions, build_store
from tttscale.data.windows.mixture import open_mixture
from tttscale.errors import ConfigError, NumericsError, ReplicaError
from tttscale.model import TTTForCausalLM
from tttscale.observe import read_metrics
from tttscale.train.recorder import RunRecorder
from tttscale.train.trainer import Trainer
from tttscale.train.training_run import TrainingRun

STEPS = 9
PLAIN = TTTForCausalLM.embed, RunRecorder.step, Mesh.close
COMPARED = ("step", "loss", "grad_norm", "lr", "tokens")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A store in which no two windows begin alike, and a configuration with a checkpoint every two steps."""
    folder = tmp_path_factory.mktemp("diverging")
    text, letters = folder / "text", random.Random(3)
    text.mkdir()
    for i in range(4):
        words = "".join(letters.choices("abcdefghij ", k=2000))
        (text / f"{i}.txt").write_text(words)
    build_store(folder / "store", [str(text)], BuildOptions(holdout_fraction=0.3))
    config = {
        "run": {"name": "run", "dir": str(folder / "runs")},
        "model": {
            "vocab_size": 259,
            "hidden_size": 16,
            "intermediate_size": 24,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "mini_batch_size": 4,
        },
        "data": {"store": str(folder / "store"), "sequence_length": 64},
        "parallel": {"chunk_length": 16, "threads": 1},
        "train": {
            "steps": STEPS,
            "precision": "fp32",
            "lr": 1e-2,
            "lr_schedule": "constant",
            "sequences_per_step": 2,
            "ignore_memory": True,
        },
        "evaluate": {"sequences": 0},
        "checkpoint": {"every": 2},
        "logging": {"wandb": {"mode": "disabled"}},
    }
    (folder / "run.yaml").write_text(yaml.safe_dump(config))
    return folder


def chunk_ids(config, data, chunk=2):
    """What a chunk of the first sequence holds at a step of the data."""
    share = config.train.sequences_per_step
    begin = chunk * config.parallel.chunk_length
    tokens = open_mixture(config).train.sequence((data - 1) * share)
    return torch.from_numpy(tokens.chunk(begin, begin + config.parallel.chunk_length).ids.copy())


def train(ranks, path, overrides, bad=(), killed_after=None, said=None):
    """Run with data that make NaN at some steps of it; the records and final weights of rank 0.

    All in one process: the mesh stays. With `killed_after` the process ends at once after that record.
    """
    config = load_config(path, overrides)
    marks = [chunk_ids(config, data) for data in bad]

    def embed(model, ids):
        out = PLAIN[0](model, ids)
        spoils = any(ids.shape[1] == len(m) and (ids == m).all() for m in marks)
        return out * float("nan") if spoils else out

    def record(self, values):
        PLAIN[1](self, values)
        if values["step"] == killed_after:
            self._metrics.sync()
            os._exit(9)

    TTTForCausalLM.embed, RunRecorder.step, Mesh.close = embed, record, lambda self: None
    if said is not None:
        RunRecorder.log = lambda _, text: said.append(text)
    with SaveRequests() as requests:
        run = TrainingRun.build(config, ranks)
        assert run.run(requests) == 0
    folder = Path(config.run.dir) / config.run.name
    records = read_metrics(folder / "metrics.jsonl")
    weights = {n: p.detach().clone() for n, p in run.parts.sweeps.model.named_parameters()}
    return records, weights


def figures(records):
    return [tuple(r.get(key) for key in COMPARED) for r in records]


def same_run(one, other):
    assert figures(one[0]) == figures(other[0])
    assert all(torch.equal(w, other[1][name]) for name, w in one[1].items())


def same_after_skip(skipped, given, at):
    """A run whose step `at` was skipped is one that was given no such data, with one step more."""
    before, after = skipped[0][: at - 1], skipped[0][at:]
    assert skipped[0][at - 1] == {"step": at, "skipped": True, "tokens": before[-1]["tokens"]}
    found = [(r["step"], *figures([r])[0][1:]) for r in before]
    found += [(r["step"] - 1, *figures([r])[0][1:]) for r in after]
    assert found == figures(given[0])
    assert all(torch.equal(w, given[1][name]) for name, w in skipped[1].items())


def all_stages(ranks, path, sequence):
    for stage in (0, 1, 2, 3):
        said, name = [], f"{stage}-{sequence}-{ranks.world_size}"
        keys = [f"zero.stage={stage}", f"parallel.sequence={sequence}"]
        back = [*keys, f"run.name=back-{name}", "train.on_divergence=roll_back"]
        found = train(ranks, path, back, bad=[6], said=said)
        given = train(ranks, path, [*keys, f"run.name=given-{name}", "data.skip_steps=[6]"])
        same_run(found, given)
        if ranks.rank == 0:
            (line,) = [line for line in said if "Rolled back" in line]
            assert "First in chunk 2 of sequence 0 (replica 0, rank " in line
            assert "Rolled back to step 4 (" in line
            assert "step 6 of the data is left out from now on (1 in a row" in line
        fewer = [*keys, f"run.name=fewer-{name}", "data.skip_steps=[6]", f"train.steps={STEPS - 1}"]
        skip = [*keys, f"run.name=skip-{name}", "train.on_divergence=skip"]
        skipped = train(ranks, path, skip, bad=[6])
        same_after_skip(skipped, train(ranks, path, fewer), at=6)


@pytest.mark.parametrize(("world", "sequence"), [(1, 1), (2, 2), (2, 1)])
def test_the_run_after_it_is_one_without_that_data(folder, world, sequence):
    values(run_ranks(all_stages, world, folder / "run.yaml", sequence))


def killed_and_resumed(ranks, path, name, policy, killed_after):
    """One start that is killed, or its continuation; rank 0's records and the weights of the latter."""
    keys = ["parallel.sequence=2", f"run.name={name}", f"train.on_divergence={policy}"]
    records, weights = train(ranks, path, keys, bad=[6], killed_after=killed_after)
    return figures(records), {name: w.numpy() for name, w in weights.items()}


@pytest.mark.parametrize(
    ("policy", "killed_after"),
    [
        ("roll_back", 5),  # after a step before the fault
        ("roll_back", 7),  # after it has rolled back
        ("skip", 6),  # in the skipped step, whose checkpoint comes later
        ("skip", 8),
    ],
)
def test_a_start_after_a_kill_continues_in_the_same_way(folder, policy, killed_after):
    path, name = folder / "run.yaml", f"killed-{policy}-{killed_after}"
    whole = values(run_ranks(killed_and_resumed, 2, path, f"{name}-not", policy, None))[0]
    ended = run_ranks(killed_and_resumed, 2, path, name, policy, killed_after)
    assert ended[0][0] == "Died"
    resumed = values(run_ranks(killed_and_resumed, 2, path, name, policy, None))[0]
    assert resumed[0] == whole[0]
    assert all((w == whole[1][name]).all() for name, w in resumed[1].items())
    left_out = (folder / "runs" / name / "left_out.json").exists()
    assert left_out == (policy == "roll_back")
    saved = yaml.safe_load((folder / "runs" / name / "checkpoints/step-9/config.yaml").read_text())
    assert saved["data"]["skip_steps"] == ([6] if policy == "roll_back" else [])
    assert load_config(folder / "runs" / name / "config.yaml").data.skipped == (
        ((6, 6),) if policy == "roll_back" else ()
    )


def stopped(ranks, path, name, policy, bad, *keys):
    said = []
    with pytest.raises(NumericsError) as error:
        train(
            ranks,
            path,
            [f"run.name={name}", f"train.on_divergence={policy}", *keys],
            bad,
            said=said,
        )
    return str(error.value), error.value.exit_code, said


def test_the_third_time_in_a_row_stops(folder):
    path = folder / "run.yaml"
    ((message, code, _),) = values(run_ranks(stopped, 1, path, "third", "skip", [6, 7, 8]))
    assert code == 76
    assert "step 8: the loss of sequence 0 (replica 0) is not finite" in message
    assert "The 2 steps before it were skipped, too (train.on_divergence=skip)." in message
    assert "checkpoint.resume=4" in message  # of a sound one
    ((message, code, said),) = values(run_ranks(stopped, 1, path, "thrice", "roll_back", [6, 7, 8]))
    assert code == 76
    assert "step 6: " in message
    assert "The run was rolled back to step 4 2 times already" in message
    assert len([line for line in said if "Rolled back" in line]) == 2


def two_rows(ranks, path):
    """Twice two in a row, with a good step or a checkpoint between them."""
    skipped = train(ranks, path, ["run.name=rows", "train.on_divergence=skip"], bad=[2, 3, 5, 6])
    keys = ["run.name=back-rows", "train.on_divergence=roll_back", "checkpoint.every=1"]
    found = train(ranks, path, keys, bad=[4, 5, 8, 9])
    given = train(ranks, path, ["run.name=given-rows", "data.skip_steps=[4-5, 8-9]"])
    same_run(found, given)
    return [record["step"] for record in skipped[0] if "skipped" in record]


def test_a_row_ends_with_progress(folder):
    assert values(run_ranks(two_rows, 1, folder / "run.yaml")) == [[2, 3, 5, 6]]


def test_without_a_sound_checkpoint_there_is_no_way_back(folder):
    run = stopped, 1, folder / "run.yaml", "early", "roll_back", [2]
    ((message, _, _),) = values(run_ranks(*run))
    assert "There is no checkpoint of an earlier step to roll back to." in message


def too_high(ranks, path, name, *keys):
    """A limit between the norms that a run has and one that it does not have."""
    records, _ = train(ranks, path, [f"run.name={name}-free"])
    largest = max(r["inner_norm"] for r in records)
    above = next(r["step"] for r in records if r["inner_norm"] == largest)
    limit = f"train.inner_norm_limit={largest * (1 - 1e-6)!r}"
    with pytest.raises(NumericsError) as error:
        train(ranks, path, [f"run.name={name}", limit, *keys])
    record = records[above - 1]
    return str(error.value), above, record


def test_inner_weights_above_a_limit_count_as_divergence(folder):
    (one,) = values(run_ranks(too_high, 1, folder / "run.yaml", "norm"))
    message, above, record = one
    assert record["inner_norm"] > 0
    assert message.startswith(
        f"step {above}: an inner weight's norm is {record['inner_norm']:.4g}, above"
    )
    place = f"in layer {record['inner_norm_layer']}, head {record['inner_norm_head']}, after chunk"
    assert place in message
    assert "That is the first in scan order. Parameters are as before this step." in message


def test_rolling_back_needs_checkpoints(folder):
    path = folder / "run.yaml"
    with pytest.raises(ConfigError, match=r"roll_back, but checkpoint\.every = 0"):
        load_config(path, ["train.on_divergence=roll_back", "checkpoint.every=0"])


def drifted(ranks, path):
    """One rank's parameter changes by one bit after step 4, of which a checkpoint is due."""
    plain = Trainer.step

    def step(trainer, number, windows):
        record = plain(trainer, number, windows)
        if number == 4 and ranks.rank == 1:
            next(trainer._model.parameters()).data.view(torch.int32)[3, 2] ^= 1
        return record

    Trainer.step = step
    keys = ["parallel.sequence=2", "run.name=drifted", "train.check_replicas_every=3"]
    with pytest.raises(ReplicaError) as error:
        train(ranks, path, keys)
    return str(error.value)


def test_no_checkpoint_is_made_of_ranks_that_differ(folder):
    first, second = values(run_ranks(drifted, 2, folder / "run.yaml"))
    assert first == second
    assert first.startswith("step 4: ranks 0 and 1 hold different parameters, first model.embed_")
    saved = {path.name for path in (folder / "runs" / "drifted" / "checkpoints").iterdir()}
    assert saved == {"step-2"}
