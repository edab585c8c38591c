"""The configuration decides, where it is silent the environment, and what was decided is said."""

import os
import sys

import pytest

from tests.observe.test_wandb_sink import FakeWandb
from tests.train.test_recorder import TOKENS
from tests.train.test_run_folder import settings
from tttscale.config import load_config
from tttscale.observe.wandb_choice import choose_wandb
from tttscale.train.recorder import RunRecorder

CONFIG = "run: {name: r}\nmodel: {}\ndata: {store: s, sequence_length: 64}\ntrain: {steps: 1}\n"


@pytest.mark.parametrize(
    ("mode", "environ", "expected", "origin"),
    [
        (None, {}, "offline", "default"),
        (None, {"WANDB_MODE": "online"}, "online", "WANDB_MODE"),
        (None, {"WANDB_MODE": "disabled"}, "disabled", "WANDB_MODE"),
        (None, {"WANDB_MODE": "dryrun"}, "offline", "WANDB_MODE"),
        (None, {"WANDB_MODE": "run"}, "online", "WANDB_MODE"),
        (None, {"WANDB_MODE": " Online "}, "online", "WANDB_MODE"),
        (None, {"WANDB_MODE": ""}, "offline", "default"),
        (None, {"WANDB_DISABLED": "true", "WANDB_MODE": "online"}, "disabled", "WANDB_DISABLED"),
        (None, {"WANDB_DISABLED": "false"}, "offline", "default"),
        ("offline", {"WANDB_MODE": "online"}, "offline", "logging.wandb.mode"),
        ("online", {"WANDB_DISABLED": "true"}, "online", "logging.wandb.mode"),
    ],
)
def test_mode(mode, environ, expected, origin):
    chosen = choose_wandb(mode, None, "r", environ)
    assert chosen.mode == expected
    assert chosen.said.startswith(f"wandb: {expected} ({origin})")


def test_a_mode_that_wandb_does_not_have_is_said_and_ends_no_run():
    chosen = choose_wandb(None, None, "r", {"WANDB_MODE": "of-line"})
    assert chosen.mode == "offline"
    assert "WANDB_MODE = 'of-line' is not one of offline, " in chosen.said


def test_project_name_and_id():
    environ = {"WANDB_PROJECT": "nlp", "WANDB_NAME": "nice", "WANDB_RUN_ID": "abc"}
    chosen = choose_wandb(None, None, "r", environ)
    assert chosen[1:4] == ("nlp", "nice", "abc")
    assert chosen.said == (
        "wandb: offline (default), project nlp (WANDB_PROJECT), name nice (WANDB_NAME), id abc (WANDB_RUN_ID)"
    )
    assert choose_wandb(None, "mine", "r", environ).project == "mine"
    assert choose_wandb(None, None, "r", {})[1:4] == ("tttscale", "r", None)


@pytest.mark.parametrize("text", ["", "logging: {wandb: {}}\n", "logging: {wandb: {mode: null}}\n"])
def test_a_file_that_is_silent(tmp_path, text):
    path = tmp_path / "run.yaml"
    path.write_text(CONFIG + text)
    wandb = load_config(path).logging.wandb
    assert (wandb.mode, wandb.project) == (None, None)
    wandb = load_config(
        path, ["logging.wandb.mode=online", "logging.wandb.project=x"]
    ).logging.wandb
    assert (wandb.mode, wandb.project) == ("online", "x")


def test_a_run_hands_on_what_the_environment_says(tmp_path, monkeypatch, capsys):
    fake = FakeWandb()
    monkeypatch.setitem(sys.modules, "wandb", fake)
    for name, value in {
        "WANDB_MODE": "online",
        "WANDB_PROJECT": "nlp",
        "WANDB_NAME": "nice",
        "WANDB_RUN_ID": "abc",
        "WANDB_ENTITY": "team",
        "WANDB_RUN_GROUP": "group",
    }.items():
        monkeypatch.setenv(name, value)
    config = settings(tmp_path)
    silent = config.logging.wandb.model_copy(update={"mode": None})
    config = config.model_copy(
        update={"logging": config.logging.model_copy(update={"wandb": silent})}
    )
    recorder = RunRecorder(config, TOKENS)
    recorder.close()
    told = fake.started_with
    assert (told["mode"], told["project"], told["name"], told["id"]) == (
        "online",
        "nlp",
        "nice",
        "abc",
    )
    assert not {"entity", "group"} & set(told)  # wandb reads these by itself
    assert recorder.wandb_id == "abc"
    assert capsys.readouterr().out.count("wandb: online (WANDB_MODE), project nlp") == 1


def test_wandb_reads_the_rest_by_itself(monkeypatch):
    wandb = pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_ENTITY", "team")
    monkeypatch.setenv("WANDB_RUN_GROUP", "group")
    settings = wandb.Settings()
    settings.update_from_env_vars(os.environ)
    assert (settings.entity, settings.run_group) == ("team", "group")
