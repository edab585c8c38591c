"""What a safeguard is, to those who break it."""

from typing import NamedTuple


class Safeguard(NamedTuple):
    """One replacement of text that takes a safeguard away, and the tests that have to notice."""

    name: str
    file: str
    old: str
    new: str
    tests: tuple[str, ...]
    """At least one of them has to fail."""
