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
from tttscale.errors import CheckpointError, ConfigError, NumericsError
from tttscale.model import TTTForCausalLM
from tttscale.observe import read_metrics
from tttscale.train.recorder import RunRecorder
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
