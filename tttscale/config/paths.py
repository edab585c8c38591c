"""The types of keys that name a place, and arguments of the command line that do."""

from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, Field, ValidatorFunctionWrapHandler, WrapValidator

from tttscale.errors import ConfigError
from tttscale.location import Location, LocationError, expand


def _store(value: Any, as_text: ValidatorFunctionWrapHandler) -> Location:
    """A Location stays what it is: its text alone would have lost its credentials."""
    return value if isinstance(value, Location) else Location.parse(as_text(value))


_Line = Annotated[str, Field(max_length=16384)]
StorePath = Annotated[_Line, WrapValidator(_store)]
"""A folder or a URL."""
FolderPath = Annotated[_Line, AfterValidator(expand)]
"""A folder on this machine."""


def path_argument(text: str | Path) -> Path:
    """A path from the command line, for typer's `parser`.

    Raises:
        ConfigError: it is none.
    """
    return Path(words_argument(str(text)))


def words_argument(text: str) -> str:
    """The same for what is no path alone: a glob, a tokenizer's name.

    Raises:
        ConfigError: it names no place on this machine.
    """
    try:
        return expand(text)
    except LocationError as error:
        raise ConfigError(f"{text!r}: {error}.") from None


def store_argument(text: str) -> Location:
    """A store from the command line.

    Raises:
        ConfigError: it is none.
    """
    try:
        return Location.parse(text)
    except LocationError as error:
        raise ConfigError(f"{text!r}: {error}.") from None
