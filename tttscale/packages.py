"""Optional packages: one that is missing, or lacks its native library, is an error of one line."""

from collections.abc import Iterator
from contextlib import contextmanager

from tttscale.errors import DataError, TTTScaleError


@contextmanager
def needed(
    package: str, what: str, remedy: str, kind: type[TTTScaleError] = DataError
) -> Iterator[None]:
    """Guard imports, which raise more than ImportError: a native library of the package may be missing.

    Args:
        package: the module that is imported.
        what: what needs it, as the beginning of the error.
        remedy: what to do where it is not installed, or its native library is not.
        kind: the error to raise.

    Raises:
        TTTScaleError: of `kind`; it says why the package cannot be used, and what to do.
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
    """Shorten an error to one line; its kind if it has no message."""
    text = " ".join(str(error).split()).rstrip(".")
    return text[:200] or type(error).__name__
