"""What is wrong with a configuration, in words about its keys."""

import pytest

from tests.config.test_load import refused


@pytest.mark.parametrize(
    ("key", "nearest"),
    [
        ("train.lrr", "train.lr"),
        ("lr", "train.lr"),
        ("train.sequence_length", "data.sequence_length"),
        ("parallel.chunk_lenght", "parallel.chunk_length"),
        ("optimizer.weight_decay", None),
        ("model.hiden_size", "model.hidden_size"),
        ("loging.every", "logging"),
        ("trian.steps", "train"),
    ],
)
def test_unknown_keys_name_the_nearest(write, key, nearest):
    message = refused(write(), f"{key}=1")
    assert f"override '{key}=1': {key.split('.')[0]}" in message
    assert "is not a known key" in message
    assert nearest is None or f"did you mean {nearest}?" in message


def test_hopeless_keys_list_the_section(write):
    assert "zero has overlap_reduction, stage" in refused(write(), "zero.qqqqqq=1")


def test_all_problems_are_reported_at_once(write):
    path = write("run: {name: .hidden}\ndata: {store: x}\ntrain:\n  lr: fast\n  stepz: 3\n")
    lines = refused(path, "broken", "parallel.keep_chunks=-1", "model.preset=ttt-huge").splitlines()
    assert "8 problems" in lines[0]
    for start in (
        "override 'broken': expected section.key=value",
        f"{path}:1: run.name = '.hidden': expected text that matches",
        f"{path}:4: train.lr = 'fast': expected a finite number",
        f"{path}:5: train.stepz is not a known key; did you mean train.steps?",
        "train.steps is missing",
        "data.sequence_length is missing",
        "override 'parallel.keep_chunks=-1': parallel.keep_chunks = -1: expected auto, or",
        "override 'model.preset=ttt-huge': model.preset = 'ttt-huge': expected one of ttt-linear",
    ):
        assert any(line.strip().startswith(start) for line in lines), start


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("train.steps=0", "expected greater than or equal to 1"),
        ("train.betas=[0.9]", "train.betas[1] is missing"),
        ("train.betas=[0.9, 1]", "train.betas[1] = 1: expected less than 1"),
        ("train.precision=fp16", "expected 'fp32' or 'bf16'"),
        ("logging.wandb.mode=off", "expected 'offline', 'online' or 'disabled'"),
        ("run.name=8", "expected text; put it in quotes"),
        ("train=5", "expected a section"),
        ("model.hidden_size=100", "hidden_size 100 is not a multiple of num_attention_heads 12"),
        ("model.hidden_size=true", "expected a whole number"),
        ("data.blend=[{store: a, weight: 0}]", "data.blend[0].weight = 0: expected greater than 0"),
        ("data.blend=[{store: a}, {weight: 2}]", "data.blend[1].store is missing; set it in the"),
        ("data.blend=[{store: a, wait: 2}]", "data.blend[0].wait is not a known key; did you mean"),
        ("data.blend=[]", "data.blend = []: expected a list of at least 1"),
        ("data.blend={store: a}", "data.blend = {'store': 'a'}: expected a list"),
        ("data.skip_steps=3", "data.skip_steps = 3: expected a list of steps and ranges"),
        ("data.skip_steps=[0]", "data.skip_steps = [0]: expected steps of at least 1"),
        ("data.skip_steps=[9-8]", "after their first step, found '9-8'"),
        ("data.skip_steps=[7, 1200-]", "ranges such as 1200-1210, found '1200-'"),
        ("data.skip_steps=[1-2-3]", "found '1-2-3'"),
        ("data.skip_steps=[-5]", "found -5"),
        ("data.skip_steps=[1.5]", "found 1.5"),
        ("data.skip_steps=[[1]]", "found [1]"),
        ("zero.stage=4", "expected less than or equal to 3"),
        ("checkpoint.resume=sometimes", "expected auto or never, or a whole number"),
        ("train.lr={a: ", "not valid YAML"),
        ("train.lr=" + "[" * 3000, "nested too deeply"),
    ],
)
def test_wrong_values_say_what_is_expected(write, override, expected):
    assert expected in refused(write(), override)


def test_an_error_in_a_list_names_its_line(write):
    text = "data:\n  blend:\n  - {store: a, weight: fast}\n  - {store: b, weight: 2}\n"
    path = write("base: base.yaml\n" + text)
    write(name="base.yaml")
    assert refused(path).startswith(f"{path}:4: data.blend[0].weight = 'fast': expected a finite")


@pytest.mark.parametrize("value", ["{}", "'{}'", "https://user:{}@host/project"])
@pytest.mark.parametrize("key", ["logging.wandb.api_key", "logging.wandb_token"])
def test_a_credential_under_a_key_of_that_name_is_not_repeated(write, value, key):
    secret = "hFy83kqLmX02"
    message = refused(write(), f"{key}={value.format(secret)}")
    assert f"{key} is not a known key" in message
    assert secret not in message


def test_a_project_of_wandb_is_a_name_and_no_location(write):
    message = refused(write(), "logging.wandb.project=https://user:x83hdk2@host/p")
    assert "logging.wandb.project = 'https://***@host/p': expected text that matches" in message
