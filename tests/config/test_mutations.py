"""Hundreds of damaged configurations: each is either a valid one or a ConfigError, nothing else."""

import copy
import random
import string

import pytest
import yaml

from tttscale.config import Config, dump_config, load_config
from tttscale.config.schema import known_keys
from tttscale.config.source import Dumper
from tttscale.errors import ConfigError

VALUES = [
    *(None, True, False, 0, -1, 1, 10**30, -0.5, 1e-300, float("nan"), float("inf")),
    *("", " ", "auto", "8k", "1Mi", "-4Ki", "1e400", "../..", "a\nb", "\x7f", "é", "x" * 5000),
    *("null", "0x10", "1:30", [], [1], [1, 2], [0.5, 0.5], [0.1] * 3, [[]], {}, {"a": 1}),
    *({"": {}}, {"every": {}}, [{"store": "b"}], [{"store": "b", "weight": 0}], [{"weight": 1}]),
    *(["3-5", 9], ["5-3"], [True], ["-"], [[{}]]),
]
SMALL = {
    "run": {"name": "a"},
    "model": {"preset": "ttt-mlp-350m"},
    "data": {"store": "s", "sequence_length": 4096},
    "train": {"steps": 2},
}


def leaves(tree, path=()):
    for key, value in tree.items():
        yield (*path, key)
        if isinstance(value, dict):
            yield from leaves(value, (*path, key))


def with_value(tree, path, value):
    tree = copy.deepcopy(tree)
    section = tree
    for key in path[:-1]:
        section = section.setdefault(key, {})
    section[path[-1]] = value
    return tree


def mutated_key(random_, key):
    at = random_.randrange(len(key) + 1)
    letter = random_.choice(string.ascii_lowercase + "_. :#-{")
    return random_.choice([key[:at] + letter + key[at:], key[:at] + key[at + 1 :], key[::-1]])


@pytest.fixture
def paths(write):
    return list(leaves(yaml.safe_load(dump_config(load_config(write())))))


def load(path, *overrides):
    """The configuration, or None where it is refused; anything else raised is a bug."""
    try:
        return load_config(path, overrides)
    except ConfigError:
        return None


def load_tree(write, tree):
    return load(write(yaml.dump(tree, Dumper=Dumper, allow_unicode=True)))


@pytest.mark.parametrize("seed", range(3))
def test_mutated_values(write, paths, seed):
    random_ = random.Random(seed)
    for _ in range(100):
        config = load_tree(write, with_value(SMALL, random_.choice(paths), random_.choice(VALUES)))
        if config is not None:
            assert load(write(dump_config(config))) == config


@pytest.mark.parametrize("seed", range(3))
def test_mutated_keys_are_never_accepted(write, paths, seed):
    random_ = random.Random(seed)
    known = known_keys(Config)
    for _ in range(100):
        *section, key = random_.choice(paths)
        path = (*section, mutated_key(random_, key))
        if path not in known:
            assert load_tree(write, with_value(SMALL, path, 1)) is None, path


def test_mutated_overrides(write, paths):
    random_ = random.Random(0)
    path = write()
    for _ in range(200):
        key = ".".join(random_.choice(paths))
        text = f"{key}={random_.choice(VALUES)}"
        for _ in range(random_.randrange(3)):
            at = random_.randrange(len(text))
            text = text[:at] + random_.choice(string.printable) + text[at + 1 :]
        load(path, text)


def test_mutated_text(write):
    random_ = random.Random(0)
    whole = write().read_text()
    for _ in range(100):
        at, length = random_.randrange(len(whole)), random_.randrange(1, 6)
        noise = "".join(random_.choices(string.printable, k=length))
        load(write(whole[:at] + noise + whole[at + length :]))
