"""Types of keys, and parsers of command-line arguments, that are paths or URLs."""

from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, Field, ValidatorFunctionWrapHandler, WrapValidator

from tttscale.errors import ConfigError
from tttscale.location import Location, LocationError, expand


def _store(value: Any, as_text: ValidatorFunctionWrapHandler) -> Location:
    """Parse a text; keep a Location, since its text alone has no credentials."""
    return value if isinstance(value, Location) else Location.parse(as_text(value))


_Line = Annotated[str, Field(max_length=16384)]
StorePath = Annotated[_Line, WrapValidator(_store)]
"""A folder or a URL."""
FolderPath = Annotated[_Line, AfterValidator(expand)]
"""A folder on this machine."""


def path_argument(text: str | Path) -> Path:
    """A path from the command line, for typer's `parser`.

    Raises:
        ConfigError: it is not one.
    """
    return Path(words_argument(str(text)))


def words_argument(text: str) -> str:
    """A path, a glob or a tokenizer's name from the command line.

    Raises:
        ConfigError: it cannot be one on this machine.
    """
    try:
        return expand(text)
    except LocationError as error:
        raise ConfigError(f"{text!r}: {error}.") from None


def store_argument(text: str) -> Location:
    """A store from the command line.

    Raises:
        ConfigError: it is not one.
    """
    try:
        return Location.parse(text)
    except LocationError as error:
        raise ConfigError(f"{text!r}: {error}.") from None
