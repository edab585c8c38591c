"""Every kind of JSON that we read, with harm done to real files: what was written, or the one error."""

import copy
import json
import random

import pytest

from tests.hostile import BAD_JSON, no_files
from tests.test_versions import corpus, kind  # noqa: F401 (fixtures)
from tttscale.errors import TTTScaleError

VALUES = [
    *(None, True, False, -1, 0, 1, 2, 3.5, -1e308, 2**63, 2**64, 10**19, 1e-320),
    *("", "x", "x" * 100_000, "../../etc/passwd", "\0", "\x1b[31m", "\ud7ff", "nan", "1e400"),
    *([], {}, [[]], [None], {"": {}}, [1, "2"], {"a": [{}]}, [0] * 10_000),
]


def places(value, path=()):
    """All paths inside a JSON value."""
    yield path
    pairs = list(enumerate(value)) if isinstance(value, list) else []
    for key, item in value.items() if isinstance(value, dict) else pairs:
        yield from places(item, (*path, key))


def replaced(value, path, new):
    if not path:
        return new
    value = copy.deepcopy(value)
    inside = value
    for key in path[:-1]:
        inside = inside[key]
    inside[path[-1]] = new
    return value


def read(kind):  # noqa: F811
    """Anything but the one error, in a few words that a terminal can show, is a bug."""
    problem = ""
    try:
        kind.read()
    except TTTScaleError as error:
        problem = str(error)
    assert len(problem) < 20_000
    assert problem.replace("\n", "").isprintable()
    return problem


@pytest.mark.parametrize("seed", range(2))
def test_another_value_anywhere(kind, seed):  # noqa: F811
    whole, random_ = json.loads(kind.path.read_text()), random.Random(seed)
    paths = [path for path in places(whole) if path and path != (kind.inside,)]
    for _ in range(40):
        harmed = replaced(whole, random_.choice(paths), random_.choice(VALUES))
        kind.write(harmed, random_.random() < 0.9)
        read(kind)


def test_other_bytes_anywhere(kind):  # noqa: F811
    whole, random_ = kind.path.read_bytes(), random.Random(0)
    for _ in range(40):
        harmed = bytearray(whole)
        at = random_.randrange(len(harmed))
        harmed[at : at + random_.randrange(4)] = random_.randbytes(random_.randrange(4))
        kind.path.write_bytes(harmed)
        read(kind)


def test_no_json(kind):  # noqa: F811
    for name, content in BAD_JSON.items():
        kind.path.write_bytes(content)
        assert str(kind.path.parent) in read(kind), name


def test_no_file(kind, tmp_path):  # noqa: F811
    for name, path in no_files(tmp_path / "strange").items():
        kind.path.unlink()
        kind.path.symlink_to(path)
        problem = read(kind)
        left_out = name == "nowhere" and kind.path.name == "quarantine.json"  # it need not be there
        assert left_out or str(kind.path.parent) in problem, name
