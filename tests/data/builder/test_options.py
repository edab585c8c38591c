"""Values of a build that are out of their range."""

import pytest

from tttscale.data.builder.options import BuildOptions
from tttscale.errors import DataError


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"holdout_fraction": 1}, r"^--heldout 1: give a number from 0 up to, not including, 1"),
        ({"holdout_fraction": -0.1}, r"^--heldout -0\.1: "),
        ({"holdout_fraction": float("nan")}, r"^--heldout nan: "),
        ({"shard_tokens": 100, "chunk_tokens": 64}, r"^shard_tokens 100: not a positive multiple"),
        ({"shard_tokens": 0, "chunk_tokens": 64}, r"of chunk_tokens 64\. Leave both out for 167"),
        ({"chunk_tokens": 0}, r"of chunk_tokens 0\. Leave"),
        ({"chunk_tokens": -64, "shard_tokens": 128}, r"of chunk_tokens -64\. Leave"),
        ({"skip_bad": -1}, r"^--skip-bad -1, --longest-document \d+: give 0 or more, and 1 or mo"),
        ({"longest_bytes": 0}, r"--longest-document 0: give 0 or more, and 1 or more"),
    ],
)
def test_the_flag_is_named_with_what_it_takes(fields, said):
    with pytest.raises(DataError, match=said):
        BuildOptions(**fields)


@pytest.mark.parametrize(
    "fields",
    [{}, {"holdout_fraction": 0}, {"shard_tokens": 1, "chunk_tokens": 1}, {"longest_bytes": 1}],
)
def test_the_ends_of_a_range_belong_to_it(fields):
    options = BuildOptions(**fields)
    assert all(getattr(options, name) == value for name, value in fields.items())
