"""Numbers as people write them (`8k`, `64Ki`, `1Mi`, `3e-4`, `1_000`) and the types of keys."""

import re
from typing import Annotated, Any

from pydantic import BeforeValidator, Field

from tttscale.errors import ConfigError

UNITS = {
    "": 1,
    **{"k": 10**3, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12},
    **{"Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40},
}
_NUMBER = re.compile(r"([+-]?[\d_]*(?:\.[\d_]*)?(?:[eE][+-]?\d+)?)\s*([A-Za-z]*)")
_LONGEST = 64
"""Most characters of a number."""
_WHOLE = "expected a whole number such as 8192, 8k or 64Ki"
_REAL = "expected a finite number such as 0.1, 3e-4 or 1_000"
_LARGEST = 2**63


def parse_int(value: Any) -> int:
    """Turn 8192, 8.0, "8k" (8000) or "8Ki" (8192) into an int.

    Raises:
        ValueError: not a whole number, or too large for 64 bits.
    """
    number = _parse(value, _WHOLE)
    if number != int(number):
        raise ValueError(_WHOLE)
    return int(number)


def parse_float(value: Any) -> float:
    """Turn 1, 0.1, "3e-4" or "1_000" into a finite float.

    Raises:
        ValueError: not a finite number.
    """
    return float(_parse(value, _REAL))


def _parse(value: Any, expected: str) -> int | float:
    if isinstance(value, str):
        value = _read(value.strip(), expected)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(expected)
    if not abs(value) < _LARGEST:  # also false for NaN
        raise ValueError(expected)
    return value


def _read(text: str, expected: str) -> int | float:
    match = _NUMBER.fullmatch(text) if len(text) <= _LONGEST else None
    if match is None or match[2] not in UNITS:
        raise ValueError(expected)
    digits, unit = match.groups()
    try:
        # int first: a float would round whole numbers above 2**53.
        return (int(digits) if digits.lstrip("+-").isdecimal() else float(digits)) * UNITS[unit]
    except ValueError:
        raise ValueError(expected) from None


def parse_flag(flag: str, word: str) -> int:
    """A positive number from the command line, such as 64Ki.

    Raises:
        ConfigError: it is not one; the message names the flag.
    """
    try:
        number = parse_int(word)
    except ValueError as error:
        raise ConfigError(f"{flag} {word!r}: {error}") from None
    if number < 1:
        raise ConfigError(f"{flag} {word!r}: expected at least 1")
    return number


HumanInt = Annotated[int, BeforeValidator(parse_int)]
HumanFloat = Annotated[float, BeforeValidator(parse_float)]
Count = Annotated[HumanInt, Field(ge=0)]
Positive = Annotated[HumanInt, Field(ge=1)]
NonNegative = Annotated[HumanFloat, Field(ge=0)]
Fraction = Annotated[HumanFloat, Field(ge=0, lt=1)]
Text = Annotated[str, Field(min_length=1, max_length=4096, pattern=r"^[^\x00-\x1f]+$")]


def amount_or(*words: str) -> BeforeValidator:
    """Accept a number of at least 0, which may have a fraction, or one of these words."""

    def check(value: Any) -> Any:
        """Return the value as a number, whole if it can be, or as one of the words."""
        try:
            if value in words:
                return value
            number = parse_float(value)
            if number >= 0:
                return int(number) if number == int(number) else number
        except ValueError:
            pass
        raise ValueError(f"expected {' or '.join(words)}, or a number of at least 0")

    return BeforeValidator(check)


def count_or(*words: str) -> BeforeValidator:
    """Accept a whole number of at least 0, or one of these words."""

    def check(value: Any) -> Any:
        """Return the value as a number, or as one of the words."""
        try:
            if value in words or parse_int(value) >= 0:
                return value if value in words else parse_int(value)
        except ValueError:
            pass
        raise ValueError(f"expected {' or '.join(words)}, or a whole number of at least 0")

    return BeforeValidator(check)
