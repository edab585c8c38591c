"""What a model card can say of a run, from files that may be missing or damaged."""

import json
import shutil

import pytest

from tttscale.convert.run_facts import checked_manifest, run_facts, run_of, store_name
from tttscale.errors import CheckpointError


def test_whose_weights_they_are(tmp_path):
    assert run_of(tmp_path / "run/final") == tmp_path / "run"
    assert run_of(tmp_path / "run/checkpoints/step-3") == tmp_path / "run"
    assert run_of(tmp_path / "model") is None


def test_facts_of_a_run(trained_run):
    notices = []
    facts = run_facts(trained_run, trained_run / "final", None, notices)
    assert notices == []
    assert facts["run"] == "tiny"
    assert facts["steps"] == "12"
    assert facts["training loss"].endswith("nats per token, last step")
    assert facts["sequence length"] == "256 tokens"
    assert "held-out loss" not in facts
    assert "versions" not in facts
    assert facts["data"].startswith("store, split train of ")
    assert not any("/" in value for value in facts.values())


def test_facts_of_a_checkpoint(trained_run):
    folder = trained_run / "checkpoints/step-4"
    manifest = checked_manifest(folder)
    facts = run_facts(trained_run, folder, manifest, [])
    assert facts["steps"] == "4"
    assert facts["tokens seen"].startswith(f"{manifest.tokens:,} ")
    assert "torch " in facts["versions"]
    assert checked_manifest(trained_run / "final") is None


def test_a_checkpoint_that_is_damaged(trained_run, tmp_path):
    folder = tmp_path / "step-4"
    shutil.copytree(trained_run / "checkpoints/step-4", folder)
    (folder / "config.json").write_text("{}")
    with pytest.raises(CheckpointError, match=r"config\.json is damaged"):
        checked_manifest(folder)


def test_held_out_losses_until_then(tmp_path):
    records = [
        {"step": 1, "loss": 3.0, "tokens": 10, "heldout_loss": 3.5},
        {"step": 2, "loss": 2.5, "tokens": 20},
        {"step": 3, "loss": 2.0, "tokens": 30, "heldout_loss": 2.25},
    ]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(r) + "\n" for r in records))
    notices = []
    facts = run_facts(tmp_path, tmp_path / "final", None, notices)
    assert facts["held-out loss"] == "2.2500 nats per token at step 3"
    assert facts["tokens seen"] == "30 (30)"
    assert "the model card does not have the run's settings" in notices[0]


def test_files_that_are_damaged(tmp_path):
    for name in ("metrics.jsonl", "data.json", "config.yaml"):
        (tmp_path / name).write_text("{\n")
    notices = []
    assert run_facts(tmp_path, tmp_path / "final", None, notices) == {}
    assert len(notices) == 2 or len(notices) == 3
    assert run_facts(None, tmp_path, None, []) == {}


@pytest.mark.parametrize("key", ["step", "loss", "tokens", "heldout_loss"])
@pytest.mark.parametrize("value", ["x", None, True, [1], {}, "nan"])
@pytest.mark.parametrize("checkpoint", [False, True])
def test_records_of_other_types(trained_run, tmp_path, key, value, checkpoint):
    run = tmp_path / "tiny"
    shutil.copytree(trained_run, run)
    with (run / "metrics.jsonl").open("a") as file:
        for record in ({"step": 13, "loss": 1.0, "tokens": 9, "heldout_loss": 2.0}, {"loss": 3.0}):
            file.write(json.dumps(record | {key: value}) + "\n")
    folder = run / "checkpoints/step-8" if checkpoint else run / "final"
    facts = run_facts(run, folder, checked_manifest(folder), [])
    assert facts["steps"] in (("8",) if checkpoint else ("12", "13"))


@pytest.mark.parametrize(
    ("location", "name"),
    [
        ("/data/stores/books/", "books"),
        ("books#2", "books#2"),
        ("https://host/a/books?sig=x/hidden", "books"),
        ("https://host/a/books/#t=hidden", "books"),
        ("s3://bucket/books", "books"),
    ],
)
def test_a_store_is_called_by_its_last_part(location, name):
    assert store_name(location) == name
