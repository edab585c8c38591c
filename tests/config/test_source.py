"""YAML to plain values that remember where they were written; hostile text."""

import sys
from pathlib import Path

import pytest

from tests.config.conftest import RUN
from tests.config.test_load import refused
from tttscale.config import load_config
from tttscale.errors import ConfigError


def test_yaml_numbers_mean_what_they_say(write):
    config = load_config(write(), ["train.lr=1e-3", "train.steps=010", "run.seed=1_000"])
    assert (config.train.lr, config.train.steps, config.run.seed) == (1e-3, 10, 1000)


def test_duplicate_keys_are_refused_with_both_lines(write):
    message = refused(write("train:\n  lr: 1\n  lr: 2\n"))
    assert "run.yaml:3: train.lr is written twice (first at " in message
    assert "run.yaml:2)" in message


LAUGHS = "a0: &a0 [x, x]\n" + "".join(
    f"a{n + 1}: &a{n + 1} [{', '.join([f'*a{n}'] * 9)}]\n" for n in range(30)
)
HOSTILE = {
    "a billion laughs": LAUGHS,
    "an alias inside itself": "run: &run {name: *run}",
    "a list inside itself": "run: &run [*run]",
    "deep": "run: " + "[" * 100_000,
    "deep by indenting": "".join(" " * n + "a:\n" for n in range(200)),
    "a million digits": "run: {seed: " + "9" * 200_000 + "}",
    "many digits": "run: {seed: " + "9" * 4000 + "}",
    "nearly a number": "run: {seed: " + "1" * 200_000 + "x}",
    "nearly a real number": "run: {seed: " + "1_" * 100_000 + ".e}",
    "large": "# \n" * 100_000,
    "many values": "run: [" + "a," * 100_000 + "]",
    "a tag": "run: !!python/object/apply:os.system [ls]",
    "a tag of a section": "run: !!set {a}",
    "a strange boolean": "run: {name: !!bool maybe}",
    "a strange time": "run: {name: !!timestamp later}",
    "a strange number": "run: {seed: !!int 0x10}",
    "bytes": "run: {name: !!binary a}",
    "a key of lists": "? [a, b]\n: c",
    "a key of sections": "? {a: b}\n: c",
    "a key that cannot be shown": 'run: {"\\e[31m": 1}',
    "half a pair": 'run: {"name": "\\ud800"}',
    "two documents": "run: {name: a}\n---\nrun: {name: b}",
    "only anchors": "&a *a",
    "no characters": "run: \x07",
    "an infinite rate": "train: {lr: .inf}",
    "no rate": "train: {lr: .nan}",
    "too large a rate": "train: {lr: 1e400}",
    "not a number by its tag": "train: {lr: !!float nan}",
}


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE)
def test_hostile_files_are_one_error_with_their_name(write, text):
    path = write(text)
    message = refused(path)
    assert str(path) in message
    assert len(message) < 5000
    assert all(line.isprintable() for line in message.splitlines())


def test_aliases_and_a_byte_order_mark_are_fine(tmp_path):
    path = tmp_path / "run.yaml"
    text = RUN.replace("steps: 10", "steps: &n 10").replace("lr: 1e-4", "warmup_steps: *n")
    path.write_bytes(b"\xef\xbb\xbf" + text.encode())
    assert load_config(path).train.warmup_steps == 10


def test_a_configuration_imports_nothing(tmp_path, monkeypatch):
    (tmp_path / "left_by_a_stranger.py").write_text("")
    monkeypatch.syspath_prepend(tmp_path)
    path = tmp_path / "run.yaml"
    for tag in ("module:left_by_a_stranger", "name:left_by_a_stranger.x"):
        for key in ("run", "run.name"):
            path.write_text(f"{{{key}: !!python/{tag} ''}}")
            with pytest.raises(ConfigError):
                load_config(path)
            with pytest.raises(ConfigError):
                load_config(Path("configs/quickstart.yaml"), [f"{key}=!!python/{tag} ''"])
    assert "left_by_a_stranger" not in sys.modules


def test_an_override_of_a_layer_whose_own_name_has_dots(write):
    name = "tests.mixers.gated_delta:GatedDelta"
    overrides = (f"model.pattern=[{name}]", f"model.options.{name}.decay_bias=0.5")
    assert load_config(write(), overrides).model.options == {name: {"decay_bias": 0.5}}
    key = f"model.options.{name}.decay"
    assert f"{key} is no option of this layer; its options: decay_bias" in refused(
        write(), overrides[0], f"{key}=1"
    )
