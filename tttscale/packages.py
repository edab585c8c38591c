"""Packages that only some work needs: one that is missing, or lacks its native library, is one line."""

from collections.abc import Iterator
from contextlib import contextmanager

from tttscale.errors import DataError, TTTScaleError


@contextmanager
def needed(
    package: str, what: str, remedy: str, kind: type[TTTScaleError] = DataError
) -> Iterator[None]:
    """Around imports, which fail in more ways than by ImportError: a library behind them may be missing.

    Args:
        package: the module that is imported.
        what: what needs it, as an error begins.
        remedy: what to do where it is not installed, or its native library is not.
        kind: the error to raise.

    Raises:
        TTTScaleError: of `kind`: the package cannot be used, why, and what to do.
    """
    try:
        yield
    except TTTScaleError:
        raise
    except (
        Exception
    ) as error:  # ImportError, RuntimeError (mpi4py), OSError (ctypes), AttributeError
        name = getattr(error, "name", None) if isinstance(error, ModuleNotFoundError) else None
        absent = name is not None and f"{package}.".startswith(f"{name}.")
        reason = "" if absent else f", which is here but cannot be loaded ({one_line(error)})"
        raise kind(f"{what} needs {package}{reason}. {remedy}") from error


def one_line(error: BaseException) -> str:
    """An error in a few words; its kind where it says nothing itself."""
    text = " ".join(str(error).split()).rstrip(".")
    return text[:200] or type(error).__name__
