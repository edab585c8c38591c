"""What every error does with its message, whoever wrote a part of it."""

import errno

import pytest

from tttscale.errors import ConfigError, DiskError, NumericsError, TTTScaleError, of_disk


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a\x1b[31mb", r"a\x1b[31mb"),
        ("a\rb\x07\x9b", r"a\rb\x07\x9b"),
        ("right to left: \u202e", r"right to left: \u202e"),
        ("two\nlines, é and 語", "two\nlines, é and 語"),
        ("", ""),
    ],
)
def test_what_a_terminal_would_obey_is_escaped(text, shown):
    for kind in (TTTScaleError, ConfigError, NumericsError):
        assert str(kind(text)) == shown


@pytest.mark.parametrize(
    ("error", "wanted"),
    [
        (OSError(errno.ENOSPC, "full"), True),
        (OSError(errno.EDQUOT, "quota"), True),
        (OSError(errno.EIO, "broken"), True),
        (PermissionError(errno.EACCES, "no"), False),
        (ValueError("28"), False),
    ],
    ids=str,
)
def test_what_a_disk_is_to_blame_for(error, wanted):
    assert of_disk(error) is wanted
    assert DiskError.exit_code == 74
