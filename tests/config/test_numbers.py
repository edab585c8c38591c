import math
from typing import Annotated

import pytest
from pydantic import TypeAdapter

from tttscale.config.numbers import amount_or, parse_float, parse_int


@pytest.mark.parametrize(
    ("text", "value"),
    [
        (7, 7),
        ("1_000", 1000),
        ("8k", 8000),
        ("64Ki", 65536),
        ("1Mi", 2**20),
        ("1.5Ki", 1536),
        ("1e6", 10**6),
        (1e6, 10**6),
        ("-3", -3),
        ("9007199254740993", 2**53 + 1),
    ],
)
def test_whole_numbers(text, value):
    assert parse_int(text) == value
    assert isinstance(parse_int(text), int)


@pytest.mark.parametrize(("text", "value"), [("3e-4", 3e-4), (1, 1.0), (".5", 0.5), ("2k", 2000.0)])
def test_real_numbers(text, value):
    assert parse_float(text) == value
    assert isinstance(parse_float(text), float)


@pytest.mark.parametrize(
    "bad",
    [
        True,
        None,
        "",
        "k",
        "1.5",
        0.5,
        "8kb",
        "1 Mi x",
        [],
        {},
        "nan",
        "inf",
        "1e99",
        "1e999",
        "٣Kiß",
    ],
)
def test_not_a_whole_number(bad):
    with pytest.raises(ValueError, match="expected a whole number"):
        parse_int(bad)


@pytest.mark.parametrize("bad", [False, None, "", "fast", math.nan, math.inf, "9" * 400, []])
def test_not_a_real_number(bad):
    with pytest.raises(ValueError, match="expected a finite number"):
        parse_float(bad)


@pytest.mark.parametrize(
    ("given", "found"), [("1.5", 1.5), (2.0, 2), ("2Ki", 2048), ("auto", "auto"), (0, 0)]
)
def test_an_amount_may_have_a_fraction(given, found):
    value = TypeAdapter(Annotated[int | float | str, amount_or("auto")]).validate_python(given)
    assert (value, type(value)) == (found, type(found))


@pytest.mark.parametrize("bad", [-1, "-0.5", "nan", "inf", True, None, "all", []])
def test_not_an_amount(bad):
    with pytest.raises(ValueError, match="expected auto, or a number of at least 0"):
        TypeAdapter(Annotated[int | float | str, amount_or("auto")]).validate_python(bad)
